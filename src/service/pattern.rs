//! [`Pattern`]: which signals a control client wants to see.

use crate::event::{Event, EventKind, EventMask};
use crate::nearest::{did_you_mean, quoted};
use crate::registry::ObjectSnapshot;

/// `OBJECT.KIND`, each with `*` for anything, or one word that is either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    object: String,
    kind: String,
    /// One word: the event passes if either side fits it.
    is_word: bool,
}

impl Pattern {
    /// The pattern that was written.
    ///
    /// # Errors
    /// One that no event could ever fit, with what there is.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let pattern = match text.rsplit_once('.') {
            Some((object, kind)) => Self { object: object.into(), kind: kind.into(), is_word: false },
            None => Self { object: text.into(), kind: text.into(), is_word: true },
        };
        if pattern.object.is_empty() || pattern.kind.is_empty() || text.len() > LONGEST {
            return Err("a pattern is OBJECT.KIND or one word, with * for anything".into());
        }
        if !pattern.is_word && pattern.mask() == EventMask::NONE {
            let kinds: Vec<_> = EventKind::ALL.into_iter().map(EventKind::name).collect();
            let kind = pattern.kind.escape_debug();
            return Err(format!("no kind of signal fits `{kind}`; there are {}", kinds.join(", ")));
        }
        Ok(pattern)
    }

    /// What speaks against it, if no event of these objects could ever fit.
    pub(super) fn fault(&self, objects: &[ObjectSnapshot]) -> Option<String> {
        let mut names: Vec<_> = objects.iter().map(|object| &*object.object).collect();
        names.push("node");
        let kinds = EventKind::ALL.into_iter().map(|kind| -> &str { kind.name() }).filter(|_| self.is_word);
        if names.iter().any(|name| fits(&self.object, name))
            || kinds.clone().any(|kind| fits(&self.kind, kind))
        {
            return None;
        }
        let written = self.object.escape_debug();
        let hint = did_you_mean(&self.object, names.iter().copied().chain(kinds))
            .unwrap_or_else(|| format!("; there are {}", quoted(names.iter().copied())));
        let what = if self.is_word { "no object and no kind of signal" } else { "no object" };
        Some(format!("{what} is called `{written}`{hint}"))
    }

    /// The kinds that can pass.
    pub(super) fn mask(&self) -> EventMask {
        let fitting: Vec<_> =
            EventKind::ALL.into_iter().filter(|kind| fits(&self.kind, kind.name())).collect();
        match fitting[..] {
            // Whoever writes a kind means it; another word may be an object's.
            [kind] if kind.name() == self.kind => EventMask::of(&[kind]),
            _ if self.is_word => EventMask::ALL,
            _ => EventMask::of(&fitting),
        }
    }

    /// Tells whether an event of the mask passes. What is about no listener and no target is about `node`.
    pub(super) fn passes(&self, event: &Event) -> bool {
        let object = event.endpoint().map_or("node", |endpoint| endpoint);
        match self.is_word {
            true => fits(&self.kind, event.kind().name()) || fits(&self.object, object),
            false => fits(&self.object, object),
        }
    }
}

/// Tells whether `text` fits a pattern in which each `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// No name is longer.
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Restriction;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "x", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*b", "ab", true),
            ("a*b", "aXb", true),
            ("a*b*c", "abXbc", true),
            ("a*a", "a", false),
            ("*read*", "ready_read", true),
            ("**", "x", true),
            ("a**b", "a-b", true),
            ("a*b", "b", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn one_word_is_a_kind_or_an_object() {
        let cause = Restriction::AcceptRate;
        let event = |endpoint: &str| Event::AcceptPaused { endpoint: endpoint.into(), cause, connections: 1 };
        let passes = |pattern: &str, event: &Event| {
            let pattern = Pattern::parse(pattern).unwrap();
            pattern.mask().contains(event.kind()) && pattern.passes(event)
        };
        assert!(passes("accept_*", &event("front")));
        assert!(passes("front", &event("front")));
        assert!(passes("listen*", &event("listen1")));
        assert_eq!(Pattern::parse("disconnected").unwrap().mask(), EventMask::of(&[EventKind::Disconnected]));
        assert!(!passes("back", &event("front")));
        assert!(!passes("disconnected", &event("front")));
        assert!(passes("front.accept_paused", &event("front")));
        assert!(passes("*.*", &event("front")));
        assert!(!passes("back.*", &event("front")));
        assert!(passes("node", &Event::Lagged { missed: 1 }));
        assert!(passes("node.lagged", &Event::Lagged { missed: 1 }));
    }

    #[test]
    fn what_nothing_could_fit_is_refused() {
        assert!(Pattern::parse("front.disconected").unwrap_err().contains("disconnected"));
        for text in ["", ".", "a.", ".a"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
