//! `node check --live`: binds every listener and dials every target of a
//! config, one moment long, and sends nothing.

use std::fmt::Write;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::address::Address;
use crate::bus::EventBus;
use crate::config::{Config, Fault};
use crate::event::Reason;
use crate::net::{DialOptions, Layers, Responder, Target, bind, check_source, dial};
use crate::node::{Material, Speakers, leads};

/// The results, a line each in the order of the config, and whether all is well.
///
/// # Errors
/// The targets that are listeners of the same node, as the resolver sees them: nothing was tried.
pub(super) async fn try_all(config: &Config, material: Material) -> Result<(String, bool), Vec<Fault>> {
    let mut trials = JoinSet::new();
    let (listeners, clients) = (config.listen.clone(), config.client.clone());
    let discoveries = config.discovery.clone();
    let count = listeners.len() + clients.len() + discoveries.len();
    let leads = leads(config).await;
    let circles = config.circles(&leads);
    if !circles.is_empty() {
        return Err(circles);
    }
    let mut speakers = Speakers::default();
    speakers.follow(material);
    for (nth, (id, listener)) in listeners.into_iter().enumerate() {
        trials.spawn(async move {
            let begun = Instant::now();
            let result = match &listener.bind {
                Address::Stdio => Ok("is standard input and output".into()),
                Address::Systemd(_) => Ok("is passed by the service manager at the start".into()),
                address => bind(&id, address, &listener.options).await.map_or_else(
                    |error| {
                        let hint = error.hint.map(|hint| format!("; try {hint}")).unwrap_or_default();
                        Err(format!("cannot listen on {}: {}{hint}", error.address, error.source))
                    },
                    |bound| {
                        let all: Vec<_> = bound.iter().map(|one| one.local().to_string()).collect();
                        Ok(format!("can listen on {}", all.join(", ")))
                    },
                ),
            };
            (nth, format!("listen.{id}"), result, begun.elapsed())
        });
    }
    let first_client = config.listen.len();
    for (nth, (id, client)) in clients.into_iter().enumerate() {
        let is_own = leads.iter().any(|(lead, _)| *lead == id);
        let layers = speakers.layers(&client);
        trials.spawn(async move {
            let begun = Instant::now();
            let result = match &client.to {
                Address::Stdio => Ok("is standard input and output".into()),
                Address::Echo => Ok("is built in".into()),
                _ if is_own => Ok("leads to a listener of this config".into()),
                to => reach(&id, to, &client.options, layers).await,
            };
            (first_client + nth, format!("client.{id}"), result, begun.elapsed())
        });
    }
    let first_discovery = first_client + config.client.len();
    for (nth, (id, discovery)) in discoveries.into_iter().enumerate() {
        trials.spawn(async move {
            let begun = Instant::now();
            let result = match Responder::bind(&id, &discovery.bind) {
                Ok(bound) => Ok(format!("can be asked on UDP {}", bound.bound())),
                Err(error) => {
                    let hint = error.hint.map(|hint| format!("; try {hint}")).unwrap_or_default();
                    Err(format!("cannot listen on {}: {}{hint}", error.address, error.source))
                }
            };
            (first_discovery + nth, format!("discovery.{id}"), result, begun.elapsed())
        });
    }
    let mut results = Vec::with_capacity(count);
    while let Some(trial) = trials.join_next().await {
        results.push(trial.expect("trials neither panic nor are aborted"));
    }
    results.sort_by_key(|(nth, ..)| *nth);
    let mut out = String::new();
    for (_, place, result, time) in &results {
        let milliseconds = time.as_secs_f64() * 1e3;
        let _ = match result {
            Ok(text) => writeln!(out, "ok      {place}: {text}, after {milliseconds:.1} ms"),
            Err(text) => writeln!(out, "FAILED  {place}: {text}, after {milliseconds:.1} ms"),
        };
    }
    let all_work = results.iter().all(|(_, _, result, _)| result.is_ok());
    Ok((out, all_work))
}

async fn reach(id: &str, to: &Address, options: &DialOptions, layers: Layers) -> Result<String, String> {
    if let Some(source) = options.source
        && let Err(error) = check_source(source)
    {
        return Err(format!("cannot connect from {source}: {error}; try an address of this machine"));
    }
    let target = Target::new(id.into(), to.clone()).through(layers);
    // Nobody listens to this bus.
    let bus = EventBus::new();
    match dial(&target, options, &[], &bus, None).await {
        Ok(mut conn) => {
            let peer = bus.snapshot().connections.iter().find_map(|one| one.peer.clone());
            conn.finish(Reason::Closed, None, 0);
            let peer = peer.map(|peer| format!(" at {peer}")).unwrap_or_default();
            Ok(format!("{} answers{peer}", to.as_target()))
        }
        Err(error) => Err(format!("cannot connect: {error}")),
    }
}
