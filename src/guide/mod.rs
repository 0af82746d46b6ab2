//! The manual: the pages that `node help TOPIC` prints.

#[doc = include_str!("command-line.md")]
pub mod command_line {}

#[doc = include_str!("config.md")]
pub mod config {}

#[doc = include_str!("topologies.md")]
pub mod topologies {}

#[doc = include_str!("targets.md")]
pub mod targets {}

#[doc = include_str!("wiring.md")]
pub mod wiring {}

#[doc = include_str!("addresses.md")]
pub mod addresses {}

#[doc = include_str!("tls.md")]
pub mod tls {}

#[doc = include_str!("events.md")]
pub mod events {}

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("speed.md")]
pub mod speed {}

#[doc = include_str!("promises.md")]
pub mod promises {}

#[doc = include_str!("scripts.md")]
pub mod scripts {}

#[doc = include_str!("systems.md")]
pub mod systems {}

#[doc = include_str!("control.md")]
pub mod control {}

#[doc = include_str!("service.md")]
pub mod service {}

#[doc = include_str!("from-qt.md")]
pub mod from_qt {}

/// A page of the manual.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The word after `node help`.
    pub topic: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The page, in Markdown.
    pub text: &'static str,
}

/// All pages, in reading order.
pub const PAGES: &[Page] = &[
    Page {
        topic: "command-line",
        about: "options, exit codes, signals, the log, the dump",
        text: include_str!("command-line.md"),
    },
    Page {
        topic: "config",
        about: "config files: every key, variables, several files, reload",
        text: include_str!("config.md"),
    },
    Page {
        topic: "topologies",
        about: "modes, framing, queues: who hears what, and who waits for whom",
        text: include_str!("topologies.md"),
    },
    Page {
        topic: "targets",
        about: "several targets: who gets which, failover, checks",
        text: include_str!("targets.md"),
    },
    Page {
        topic: "wiring",
        about: "signals to slots: wires, filters, timers, scripted runs",
        text: include_str!("wiring.md"),
    },
    Page {
        topic: "addresses",
        about: "how addresses are written and what is dialled",
        text: include_str!("addresses.md"),
    },
    Page {
        topic: "tls",
        about: "TLS, certificates, PROXY headers, SOCKS5 and HTTP proxies on the way",
        text: include_str!("tls.md"),
    },
    Page {
        topic: "events",
        about: "every JSON event, field by field, and their order",
        text: include_str!("events.md"),
    },
    Page {
        topic: "limits",
        about: "backlog, pending and live; every limit and default",
        text: include_str!("limits.md"),
    },
    Page {
        topic: "speed",
        about: "what decides it, what can be turned, what watching costs",
        text: include_str!("speed.md"),
    },
    Page {
        topic: "scripts",
        about: "Luau for what a wire cannot: what is called with what, what there is, limits, costs",
        text: include_str!("scripts.md"),
    },
    Page {
        topic: "systems",
        about: "chats, collectors, gateways to run: who sends what when, and how to try each",
        text: include_str!("systems.md"),
    },
    Page {
        topic: "control",
        about: "status, signals, call, reload, stop of a running node; the socket's language",
        text: include_str!("control.md"),
    },
    Page {
        topic: "service",
        about: "under systemd: readiness, passed sockets, the unit; completions",
        text: include_str!("service.md"),
    },
    Page {
        topic: "promises",
        about: "what is promised of bytes and ends, and what is not",
        text: include_str!("promises.md"),
    },
    Page {
        topic: "from-qt",
        about: "the library for those who know Qt: C++ beside Rust, and what is different",
        text: include_str!("from-qt.md"),
    },
];

#[cfg(test)]
mod tests {
    use crate::registry::SLOTS;
    use crate::wiring::{Filter, SIGNALS};

    #[test]
    fn the_page_on_wiring_has_every_signal_slot_and_filter() {
        let page = include_str!("wiring.md");
        for name in SIGNALS.iter().map(|signal| signal.name).chain(SLOTS.iter().map(|slot| slot.name)) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        for name in SIGNALS.iter().flat_map(|signal| signal.carries) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        for word in Filter::WORDS {
            assert!(page.contains(&format!("`\"{word}\"`")), "{word}");
        }
        for key in Filter::KEYS {
            assert!(page.contains(&format!("{{ {key} = ")), "{key}");
        }
    }
}
