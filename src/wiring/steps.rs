//! [`Steps`]: a scripted run, `[[step]]`: each calls a slot or waits for a
//! signal, in order, and the first that fails ends the run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info};

use super::template::{Template, write_hex};
use super::wire::MemberName;
use crate::framing::Expect;
use crate::registry::{Arguments, Call, Fact, INTAKE, Intake, Item, Registry, Trail, Undone, Value};

/// One step. Exactly one of `call` and `wait` is set.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// The slot it calls.
    pub call: Option<MemberName>,
    /// The signal it waits for.
    pub wait: Option<MemberName>,
    /// What the slot is called with; `{data}` is that of the last signal that was waited for.
    pub args: BTreeMap<String, Template>,
    /// For the signal to come, or the slot to be done.
    pub within: Duration,
    /// What the signal is to carry.
    pub expect: Option<Expect>,
}

impl Default for StepOptions {
    /// Nothing, within ten seconds.
    fn default() -> Self {
        Self { call: None, wait: None, args: BTreeMap::new(), within: WITHIN, expect: None }
    }
}

/// What one step is told of: signals of one name, in the order in which they came, none left out. While too
/// much waits in it, the source waits.
#[derive(Debug)]
pub(crate) struct Inbox {
    intake: Intake,
    /// Its data comes in pieces of any size, since its object has no framing.
    is_raw: bool,
}

/// The steps of a run.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<StepOptions>,
    pub(crate) inboxes: BTreeMap<MemberName, Arc<Inbox>>,
}

/// How far a piece of data is what is expected.
enum Fit {
    /// It is, with so many bytes of it.
    Is(usize),
    /// It may be, once more has come.
    MayBe,
    /// It is not, whatever comes.
    IsNot,
}

impl Inbox {
    pub(crate) fn new(is_raw: bool) -> Self {
        // Nobody who stops waits for what no step asks for.
        Self { intake: Intake::new(INTAKE, &Undone::new()), is_raw }
    }

    /// Takes a signal.
    pub(super) async fn take(&self, call: &Call) {
        self.intake.room().await;
        self.intake.put(Item::Fact(Fact {
            name: Arc::clone(&call.signal),
            party: call.connection.clone(),
            data: call.data.clone(),
            arguments: call.arguments.clone(),
            trail: call.trail.clone(),
        }));
    }

    async fn next(&self) -> Option<Fact> {
        loop {
            match self.intake.next().await? {
                Item::Fact(fact) => return Some(fact),
                Item::Frames { .. } => {}
            }
        }
    }
}

impl Steps {
    /// Runs them, and tells whether all have passed. What each does is logged.
    pub(crate) async fn run(self, registry: Registry) -> bool {
        let begun = Instant::now();
        let of = self.steps.len();
        let mut last = Call {
            signal: "node.started".into(),
            connection: None,
            data: None,
            arguments: Arguments::new(),
            trail: Trail::default(),
            as_filter: false,
        };
        // What was read beyond what a step of a raw object expected.
        let mut rest = BTreeMap::new();
        let mut is_passed = true;
        for (nth, step) in self.steps.iter().enumerate() {
            let began = Instant::now();
            let does = step.to_string();
            let done = match (&step.call, &step.wait) {
                (Some(slot), _) => call(step, slot, &last, &registry).await,
                (None, Some(signal)) => match self.inboxes.get(signal) {
                    Some(inbox) => {
                        let rest = rest.entry(signal).or_insert_with(BytesMut::new);
                        wait(step, inbox, rest, &mut last).await
                    }
                    None => Err("nobody tells of this signal".into()),
                },
                (None, None) => Ok(()),
            };
            let step = nth + 1;
            match done {
                Ok(()) => info!(step, of, does, took = millis(began), "step passed"),
                Err(why) => {
                    error!(step, of, does, took = millis(began), "step failed: {why}");
                    is_passed = false;
                    break;
                }
            }
        }
        // What comes now holds nobody up.
        self.inboxes.values().for_each(|inbox| inbox.intake.close());
        if is_passed {
            info!(steps = of, took = millis(begun), "all steps passed");
        }
        is_passed
    }
}

fn millis(since: Instant) -> String {
    format!("{:.1}ms", since.elapsed().as_secs_f64() * 1e3)
}

async fn call(step: &StepOptions, slot: &MemberName, last: &Call, registry: &Registry) -> Result<(), String> {
    let mut arguments = Arguments::new();
    for (name, template) in &step.args {
        arguments = arguments.with(name, Value::Bytes(template.expand(last, registry)));
    }
    let call = Call { arguments, ..last.clone() };
    match timeout(step.within, registry.invoke(&slot.object, &slot.name, call)).await {
        Ok(called) => called.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("the slot was not done within {}", time(step.within))),
    }
}

/// Waits for the next signal that no step before it has had.
async fn wait(step: &StepOptions, inbox: &Inbox, rest: &mut BytesMut, last: &mut Call) -> Result<(), String> {
    let until = Instant::now() + step.within;
    let mut is_first = true;
    loop {
        if !is_first || rest.is_empty() {
            match timeout_at(until, inbox.next()).await {
                Ok(Some(Fact { name, party, data, arguments, trail })) => {
                    let text = || arguments.iter().next().map(|(_, value)| value.to_bytes());
                    let data = data.or_else(text).unwrap_or_default();
                    if inbox.is_raw {
                        rest.extend_from_slice(&data);
                    }
                    *last = Call {
                        signal: name,
                        connection: party,
                        data: Some(data),
                        arguments,
                        trail,
                        as_filter: false,
                    };
                }
                Ok(None) => return Err("the node stops".into()),
                Err(_elapsed) => {
                    let limit = time(step.within);
                    return Err(match &step.expect {
                        Some(expect) if !rest.is_empty() => {
                            format!("expected {expect}; only {} came within {limit}", shown(rest))
                        }
                        Some(expect) => format!("expected {expect}; nothing came within {limit}"),
                        None => format!("it did not come within {limit}"),
                    });
                }
            }
        }
        is_first = false;
        let Some(expect) = &step.expect else {
            rest.clear();
            return Ok(());
        };
        let data = match inbox.is_raw {
            true => rest.clone().freeze(),
            false => last.data.clone().unwrap_or_default(),
        };
        match (expect.fits(&data), inbox.is_raw) {
            (Fit::Is(bytes), true) => {
                last.data = Some(rest.split_to(bytes).freeze());
                return Ok(());
            }
            (Fit::Is(bytes), false) if bytes == data.len() => return Ok(()),
            (Fit::MayBe, true) => {}
            _ => return Err(format!("expected {expect}; {} came", shown(&data))),
        }
    }
}

impl Expect {
    fn fits(&self, data: &[u8]) -> Fit {
        let exact = |expected: &[u8]| match data.len() >= expected.len() {
            true if data.starts_with(expected) => Fit::Is(expected.len()),
            false if expected.starts_with(data) => Fit::MayBe,
            _ => Fit::IsNot,
        };
        match self {
            Self::Exact(text) => exact(text.as_bytes()),
            Self::Hex(bytes) => exact(bytes),
            Self::Prefix(text) => match exact(text.as_bytes()) {
                Fit::Is(_) => Fit::Is(data.len()),
                other => other,
            },
            Self::Regex(pattern) if pattern.is_match(data) => Fit::Is(data.len()),
            Self::Regex(_) => Fit::MayBe,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(&shown(text.as_bytes())),
            Self::Prefix(text) => write!(f, "something that begins with {}", shown(text.as_bytes())),
            Self::Regex(pattern) => write!(f, "something that matches `{}`", pattern.text()),
            Self::Hex(bytes) => {
                let mut hex = Vec::new();
                write_hex(bytes, &mut hex);
                write!(f, "the bytes {}", String::from_utf8_lossy(&hex))
            }
        }
    }
}

impl fmt::Display for StepOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.call, &self.wait) {
            (Some(slot), _) => write!(f, "call {slot}"),
            (None, Some(signal)) => write!(f, "wait {signal}"),
            (None, None) => f.write_str("nothing"),
        }
    }
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Data in quotes, cut where it is long.
fn shown(data: &[u8]) -> String {
    match data.get(..LONGEST_SHOWN) {
        Some(first) if first.len() < data.len() => {
            format!("\"{}\"… ({} bytes)", first.escape_ascii(), data.len())
        }
        _ => format!("\"{}\"", data.escape_ascii()),
    }
}

/// For a step where nothing else is said.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of data that a failure shows.
const LONGEST_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::framing::Pattern;

    /// Runs one waiting step on what came, and yields why it failed, and what is left.
    async fn waited(is_raw: bool, came: &[&str], expect: Option<Expect>) -> (Result<(), String>, String) {
        let inbox = Inbox::new(is_raw);
        let mut last = Call {
            signal: "a.message_received".into(),
            connection: None,
            data: None,
            arguments: Arguments::new(),
            trail: Trail::default(),
            as_filter: false,
        };
        for data in came {
            inbox.take(&Call { data: Some(Bytes::copy_from_slice(data.as_bytes())), ..last.clone() }).await;
        }
        let step = StepOptions { expect, within: Duration::from_secs(2), ..StepOptions::default() };
        let mut rest = BytesMut::new();
        let result = wait(&step, &inbox, &mut rest, &mut last).await;
        (result, String::from_utf8_lossy(&rest).into_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_is_compared_whole_and_a_stream_as_far_as_it_is_expected() {
        let exact = |text: &str| Some(Expect::Exact(text.into()));
        let ok = |rest: &str| (Ok(()), rest.to_owned());
        assert_eq!(waited(false, &["hello"], exact("hello")).await, ok(""));
        assert_eq!(waited(true, &["he", "lloX"], exact("hello")).await, ok("X"));
        assert_eq!(waited(true, &["hello you"], Some(Expect::Prefix("hello".into()))).await, ok(""));
        assert_eq!(
            waited(true, &["a", "b7"], Some(Expect::Regex(Pattern::parse("[0-9]").unwrap()))).await,
            ok("")
        );
        assert_eq!(waited(false, &["\x02"], Some(Expect::Hex(Bytes::from_static(b"\x02")))).await, ok(""));
        assert_eq!(waited(false, &["x"], None).await, ok(""));
        let why = |waited: (Result<(), String>, String)| waited.0.unwrap_err();
        assert_eq!(
            why(waited(false, &["hello!"], exact("hello")).await),
            r#"expected "hello"; "hello!" came"#
        );
        assert_eq!(why(waited(false, &["hell"], exact("hello")).await), r#"expected "hello"; "hell" came"#);
        assert_eq!(why(waited(true, &["hall"], exact("hello")).await), r#"expected "hello"; "hall" came"#);
        assert_eq!(
            why(waited(true, &["he"], exact("hello")).await),
            r#"expected "hello"; only "he" came within 2s"#
        );
        assert_eq!(why(waited(true, &[], exact("x")).await), r#"expected "x"; nothing came within 2s"#);
        assert_eq!(why(waited(false, &[], None).await), "it did not come within 2s");
        let hex = Some(Expect::Hex(Bytes::from_static(b"\x02\x03")));
        assert_eq!(why(waited(false, &["\x02"], hex).await), r#"expected the bytes 0203; "\x02" came"#);
    }
}
