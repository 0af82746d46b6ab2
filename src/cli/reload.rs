//! HUP, and `node reload`: the files are read again, and the node follows them, or goes on as it
//! was and says why.

use std::error::Error;

use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::args::{Files, Source};
use crate::node::{Changes, Node, NodeError};

/// Reads the files again and has the node follow them; yields what has changed.
///
/// Cancel safe: dropped before its end, nothing has changed.
///
/// # Errors
/// Everything that is wrong, a line each, and nothing has changed.
pub(super) async fn reload(node: &mut Node, source: &mut Source) -> Result<Changes, Vec<String>> {
    let Source::Files(files) = source else {
        return Err(vec![
            "nothing to reload: this node runs by its command line; see `node help config`".into(),
        ]);
    };
    let before = files.clone();
    // A slow disk must not hold up the bytes.
    let read = spawn_blocking(move || before.read()).await;
    let (config, now) = read.map_err(|error| vec![format!("cannot read the files: {error}")])??;
    match node.reload(config).await {
        Ok(changes) => {
            **files = now;
            Ok(changes)
        }
        Err(error) => Err(explain(&error, &now)),
    }
}

/// What has become of it, for whoever reads the log.
pub(super) fn say(outcome: &Result<Changes, Vec<String>>, source: &Source) {
    match outcome {
        Ok(changes) => {
            info!("reloaded: {changes}");
            if !changes.restart.is_empty() {
                warn!("only a restart changes {}", changes.restart.join(", "));
            }
        }
        Err(lines) if matches!(source, Source::CommandLine) => info!("{}", lines.join("; ")),
        Err(lines) => {
            lines.iter().for_each(|line| error!("{line}"));
            error!("the config was not reloaded; the node goes on as it was");
        }
    }
}

fn explain(error: &NodeError, files: &Files) -> Vec<String> {
    match error {
        NodeError::Config(faults) => files.origins.explain(faults),
        NodeError::Bind(error) => {
            let position = files.locate_bind(error);
            let hint = error.hint.as_ref().map(|hint| format!("; try {hint}")).unwrap_or_default();
            vec![format!("{position}: {error}: {}{hint}", error.source)]
        }
        NodeError::Source { .. } => {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            vec![format!("{error}: {cause}; try an address of this machine")]
        }
        NodeError::Stopping => vec![format!("{error}; start it again with the new config")],
    }
}
