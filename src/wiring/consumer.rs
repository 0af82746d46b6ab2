//! The task of one object: what it tells, through its wires and scripts.

use std::sync::Arc;

use tokio::sync::watch;

use super::steps::Inbox;
use super::wire::Wire;
use crate::registry::{Arguments, Call, CallError, Fact, Intake, Item, Registry, Trail, in_lanes};

/// The wires and scripts of one object, in the order of the file.
pub(crate) type Taps = Arc<[Tap]>;

/// One that is told of a signal.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    /// The name of the signal, without the object.
    pub(crate) signal: Arc<str>,
    pub(crate) to: Destination,
}

/// Where a signal goes.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// Through a wire.
    Wire(Arc<Wire>),
    /// To the handler of a script.
    #[cfg_attr(not(feature = "script"), allow(dead_code, reason = "made where scripts are"))]
    Handler {
        /// `script.ID`.
        script: Arc<str>,
        /// `on_message_received`.
        function: Arc<str>,
    },
    /// To the steps of a run.
    Steps(Arc<Inbox>),
}

/// Takes what an object tells through its taps until its intake is closed and empty: what is about one
/// connection one after the other, and so what is about none. A slot that waits holds up no other connection.
pub(crate) async fn consume(
    object: Arc<str>,
    intake: Arc<Intake>,
    mut taps: watch::Receiver<Taps>,
    registry: Registry,
) {
    let message: Arc<str> = format!("{object}.message_received").into();
    in_lanes(intake, move |item| {
        let now = Arc::clone(&taps.borrow_and_update());
        take(Arc::clone(&object), Arc::clone(&message), now, registry.clone(), item)
    })
    .await;
}

async fn take(object: Arc<str>, message: Arc<str>, taps: Taps, registry: Registry, item: Item) {
    match item {
        Item::Frames { party, framing, wire } => {
            for body in framing.bodies(&wire) {
                // A part of the memory it came in.
                let data = wire.slice_ref(body);
                let call = Call {
                    signal: Arc::clone(&message),
                    connection: Some(Arc::clone(&party)),
                    data: Some(data),
                    arguments: Arguments::new(),
                    trail: Trail::default(),
                    as_filter: false,
                };
                tell(&taps, "message_received", &call, &registry).await;
            }
        }
        Item::Fact(Fact { name, party, data, arguments, trail }) => {
            let signal = format!("{object}.{name}").into();
            let call = Call { signal, connection: party, data, arguments, trail, as_filter: false };
            tell(&taps, &name, &call, &registry).await;
            if let Some(party) = call.connection.filter(|_| &*name == "disconnected") {
                party.end();
                registry.forget(party.id);
            }
        }
    }
}

/// Calls the slot of a wire for what waits in its queue, until the wire is closed.
pub(crate) async fn run_queue(wire: Arc<Wire>, registry: Registry) {
    wire.run(&registry).await;
}

async fn tell(taps: &Taps, name: &str, call: &Call, registry: &Registry) {
    for tap in taps.iter().filter(|tap| &*tap.signal == name) {
        match &tap.to {
            Destination::Wire(wire) => wire.take(call, registry).await,
            Destination::Steps(inbox) => inbox.take(call).await,
            Destination::Handler { script, function } => {
                match registry.filter(script, function, call.clone()).await {
                    // It was said where it happened.
                    Ok(_) | Err(CallError::Script(_)) => {}
                    Err(error) => {
                        tracing::warn!(script = &**script, function = &**function, %error, "a handler was not called")
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::registry::{Called, Frame, Functions, INTAKE, Object, Undone};
    use crate::wiring::{MemberName, WireOptions};

    /// Two scripts whose functions each emit what the other hears.
    #[derive(Debug)]
    struct PingPong {
        registry: Registry,
        own: &'static str,
        failures: Arc<Mutex<Vec<String>>>,
    }

    impl Functions for PingPong {
        fn names(&self) -> Vec<Arc<str>> {
            vec!["heard".into()]
        }

        fn call<'a>(&'a self, _: &'a str, call: Call) -> Called<'a> {
            Box::pin(async move {
                let emitted =
                    self.registry.emit(self.own, "said", call.data, Arguments::new(), None, &call.trail);
                if let Err(error) = emitted.await {
                    self.failures.lock().unwrap().push(error.to_string());
                }
                Ok(Vec::<Frame>::new())
            })
        }
    }

    #[tokio::test]
    async fn signals_that_lead_to_each_other_are_cut_and_the_circle_is_named() {
        let (registry, undone, failures) = (Registry::default(), Undone::new(), Arc::default());
        let script = |own| -> Arc<dyn Functions> {
            Arc::new(PingPong { registry: registry.clone(), own, failures: Arc::clone(&failures) })
        };
        let names = ["script.ping", "script.pong"];
        registry.replace(names.map(|name| (Arc::from(name), Object::Script(script(name)))).into());
        let intakes = names.map(|name| (Arc::<str>::from(name), Arc::new(Intake::new(INTAKE, &undone))));
        registry.rewire(Default::default(), intakes.clone().into());
        let mut consumers = tokio::task::JoinSet::new();
        let mut senders = Vec::new();
        for ((name, intake), other) in intakes.iter().zip(["script.pong", "script.ping"]) {
            let options = WireOptions {
                signal: MemberName { object: name.to_string(), name: "said".into() },
                slot: MemberName { object: other.into(), name: "heard".into() },
                ..WireOptions::default()
            };
            let wire = Arc::new(Wire::new(options, &undone));
            let tap = Tap { signal: "said".into(), to: Destination::Wire(wire) };
            let taps = watch::Sender::new(Taps::from([tap]));
            consumers.spawn(consume(
                Arc::clone(name),
                Arc::clone(intake),
                taps.subscribe(),
                registry.clone(),
            ));
            senders.push(taps);
        }
        let none = Trail::default();
        registry.emit("script.ping", "said", None, Arguments::new(), None, &none).await.unwrap();
        undone.none().await;
        let failures = failures.lock().unwrap().clone();
        assert_eq!(failures.len(), 1, "{failures:?}");
        let way = "script.ping.said → script.pong.said → script.ping.said";
        assert!(failures[0].contains(way), "{failures:?}");
        intakes.iter().for_each(|(_, intake)| intake.close());
        while consumers.join_next().await.is_some() {}
    }
}
