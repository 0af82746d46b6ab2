//! The options of what is shown of a node: its control socket, the dump, and
//! the log. They stand beside config files too, and win over these.

use clap::ArgAction;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, ProgramOptions, socket_path};

/// What is shown of a running node, whatever made it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Seeing {
    /// Let others ask and steer this node by a Unix socket at PATH, made for this user alone
    #[arg(long, value_name = "PATH", help_heading = "Seeing")]
    control: Option<String>,
    /// Show every byte on stderr: direction, time, offset, hex, text
    #[arg(short = 'x', long, help_heading = "Seeing")]
    hexdump: bool,
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Seeing")]
    verbose: u8,
    /// Log only warnings and errors
    #[arg(short, long, help_heading = "Seeing")]
    quiet: bool,
    /// Log by this filter instead, as in signal_node=debug
    #[arg(long, value_name = "FILTER", env = "SIGNAL_NODE_LOG", help_heading = "Seeing")]
    log: Option<String>,
    /// How stderr is written; json gives one object per event [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Seeing")]
    log_format: Option<LogFormat>,
}

impl Seeing {
    /// Wins over what a file says.
    ///
    /// # Errors
    /// That the control socket cannot have its path; the rest is applied all the same.
    pub(super) fn apply(&self, program: &mut ProgramOptions) -> Result<(), String> {
        program.hexdump |= self.hexdump;
        if let Some(format) = self.log_format {
            program.log_format = format;
        }
        match (&self.log, self.verbose) {
            (Some(filter), _) => program.log = filter.clone(),
            _ if self.quiet => program.log = "signal_node=warn".into(),
            (None, 0) => {}
            (None, 1) => program.log = "signal_node=debug".into(),
            (None, _) => program.log = "signal_node=trace".into(),
        }
        if let Some(path) = &self.control {
            // As in a file.
            program.control = if path == "off" { None } else { Some(socket_path(path)?) };
        }
        Ok(())
    }

    /// Where the filter was written.
    pub(super) fn log_source(&self) -> &'static str {
        let typed = std::env::args_os()
            .any(|arg| matches!(arg.to_str(), Some(arg) if arg == "--log" || arg.starts_with("--log=")));
        if typed { "--log" } else { "SIGNAL_NODE_LOG" }
    }
}

/// A filter as it is written.
pub(super) fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!("`{}` is not a filter ({error}); write for example signal_node=debug", text.escape_debug())
    })
}
