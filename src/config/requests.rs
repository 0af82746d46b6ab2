//! The keys of `reply = "request"` as faults: what each needs, and what only
//! makes sense where clients take turns.

use std::time::Duration;

use super::check::LONGEST;
use super::{Config, Fault, Place, RelayConfig};
use crate::framing::Framing;
use crate::net::Overflow;
use crate::relay::{Reply, RequestOptions};

impl Config {
    /// What is wrong with the requests of a relay.
    pub(super) fn check_requests(&self, id: &str, relay: &RelayConfig) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut add = |place, text: String| faults.push(Fault { place, text });
        let at = |key| Place::new("relay", id, key);
        let RequestOptions { timeout, overlap, pause, delay_after_connect } = relay.options.request;
        if relay.options.reply != Reply::Request {
            let usual = RequestOptions::default();
            let given = [
                (timeout != usual.timeout, "request_timeout"),
                (overlap != usual.overlap, "overlap"),
                (pause != usual.pause, "pause"),
                (delay_after_connect != usual.delay_after_connect, "delay_after_connect"),
            ];
            for (_, key) in given.into_iter().filter(|(is_given, _)| *is_given) {
                let text =
                    "only requests have it; remove it, or write mode = \"collect\" and reply = \"request\"";
                add(at(key), text.into());
            }
            return faults;
        }
        if relay.options.tags.tag.is_some() {
            let text =
                "answers to requests find their way without names; remove it, or write reply = \"tagged\"";
            add(at("tag"), text.into());
        }
        if relay.options.resend {
            let text = "a request that is sent again could act twice; remove it";
            add(at("resend"), text.into());
        }
        let times = [
            ("request_timeout", Some(timeout)),
            ("pause", pause),
            ("delay_after_connect", delay_after_connect),
        ];
        for (key, time) in times {
            let Some(time) = time else { continue };
            if time < Duration::from_millis(1) {
                let off = if key == "request_timeout" { "" } else { ", or off" };
                add(at(key), format!("must be at least 1ms; write for example 100ms{off}"));
            } else if time > LONGEST {
                add(at(key), "is longer than a year; write for example 1s".into());
            }
        }
        let listeners = self.from(relay).map(|(name, listener)| ("listen", name, &listener.options.messages));
        let clients = self.to(relay).map(|(name, client)| ("client", name, &client.options.messages));
        for (table, name, messages) in listeners.chain(clients) {
            if messages.framing == Some(Framing::Raw) {
                let text = "a raw stream does not tell where an answer ends; write another framing, as lines or mbap";
                add(Place::new(table, name, "framing"), text.into());
            }
        }
        let usual = self.from(relay).find_map(|(_, listener)| listener.options.messages.framing);
        for (name, client) in self.to(relay) {
            let messages = &client.options.messages;
            let framing = messages.framing.or(usual);
            if framing == Some(Framing::Mbap) {
                let rest = format!(
                    "{overlap} requests at once are too many; write at most {}",
                    RequestOptions::MOST
                );
                if overlap > RequestOptions::MOST {
                    add(at("overlap"), rest);
                }
            } else if overlap > 1 {
                let text = "only the answers of framing mbap tell which request they are to; write 1, or framing = \"mbap\"";
                add(at("overlap"), text.into());
            }
            if messages.queue.overflow.is_some_and(|overflow| overflow != Overflow::Block) {
                let text = "requests that wait are never dropped for newer ones; write block, or remove it";
                add(Place::new("client", name, "queue_overflow"), text.into());
            }
        }
        faults
    }
}
