//! Facts from the bus to the intakes of the objects they are about.

use tokio_stream::StreamExt;
use tracing::warn;

use super::signals::fact;
use crate::bus::{Delivery, Subscription};
use crate::registry::{Arguments, Fact, Item, Registry, Trail};

/// Takes facts from the bus until it ends. Never waits for a wire: a fact for which an object has no room is
/// left out and said.
pub(crate) async fn pump(mut events: Subscription, registry: Registry) {
    while let Some(delivery) = events.next().await {
        let (object, fact) = match delivery {
            Delivery::Event(envelope) => match fact(&envelope.event, &registry) {
                Some(told) => told,
                None => continue,
            },
            Delivery::Lagged(missed) => {
                warn!(missed, "wires have missed signals that came too fast");
                let arguments = Arguments::new().with("missed", i64::try_from(missed).unwrap_or(i64::MAX));
                let (name, trail) = ("lagged".into(), Trail::default());
                ("node".into(), Fact { name, party: None, data: None, arguments, trail })
            }
        };
        let Some(intake) = registry.intake(&object) else { continue };
        let name = fact.name.clone();
        if intake.offer(Item::Fact(fact)).is_err() {
            warn!(object = &*object, signal = &*name, "a signal was left out, since its wires are held up");
        }
    }
}
