//! What somebody may have meant who wrote a name that does not exist.

/// `; did you mean …?` with the nearest of `names`, if one is near enough to be meant.
pub(crate) fn did_you_mean<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut names = names.collect::<Vec<_>>();
    names.sort_unstable();
    // `idle` for `idle_timeout`.
    let shortened = names.iter().find(|name| written.len() > 2 && name.starts_with(written));
    if let Some(name) = shortened {
        return Some(format!("; did you mean `{name}`?"));
    }
    let near = |name: &'a str| (strsim::damerau_levenshtein(written, name), name);
    let (distance, name) = names.into_iter().map(near).min()?;
    // A word may be wrong in a third of its letters, a short one in one.
    let allowed = (name.chars().count().max(written.chars().count()) / 3).max(1);
    (distance <= allowed && name.len() > distance).then(|| format!("; did you mean `{name}`?"))
}

/// The names in words, each in quotes; of many the first.
pub(crate) fn quoted<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first: Vec<_> = names.by_ref().take(MOST).map(|name| format!("`{name}`")).collect();
    let more = names.count();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    first.join(", ") + &rest
}

/// Names in one sentence.
const MOST: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_meant() {
        let meant = |written| did_you_mean(written, ["idle_timeout", "to", "from"].into_iter());
        assert_eq!(meant("idle_timout").unwrap(), "; did you mean `idle_timeout`?");
        assert_eq!(meant("form").unwrap(), "; did you mean `from`?");
        assert_eq!(meant("ot").unwrap(), "; did you mean `to`?");
        assert_eq!(meant("idle").unwrap(), "; did you mean `idle_timeout`?");
        assert_eq!(meant("x"), None);
        assert_eq!(meant("connections"), None);
        assert_eq!(did_you_mean("x", std::iter::empty()), None);
    }
}
