//! The program; everything is in [`signal_node::cli`].
use std::process::ExitCode;

fn main() -> ExitCode {
    signal_node::cli::main()
}
