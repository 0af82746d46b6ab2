//! What the tests share: a node process, sockets with a plan, and the tools
//! of the machine. Every wait has a limit, and every process is ended.

mod agent;
mod calls;
mod control;
mod modbus;
mod net;
mod process;
mod shipped;
mod sockets;
mod system;
mod tls;
mod tools;

pub(crate) use self::agent::Agent;
pub(crate) use self::calls::Calls;
pub(crate) use self::control::{Controlled, Talk, accounts, echoes, text_of, totals};
pub(crate) use self::modbus::{Device, Got, MUTE, Master, SLOW, pymodbus, value as register_value};
pub(crate) use self::net::{
    Ending, Namespace, abort, accept_one, connect, hold_free_port, listener, listening_port, pattern,
    read_all, two_networks, wait_until,
};
pub(crate) use self::process::{NodeProcess, Running, binary, run};
pub(crate) use self::shipped::ANY;
pub(crate) use self::sockets::{
    MOMENT, Trace, bound, in_own_process, joined, joined_with, read_count, redialling, stuck_listener, value,
};
pub(crate) use self::system::{Liner, System, Terminal};
pub(crate) use self::tls::{Peer, Plant};
pub(crate) use self::tools::{
    has, needs, needs_descriptors, needs_namespaces, needs_pymodbus, needs_two_networks, qt_peer, root,
};

/// Longer than anything here takes on a busy machine; reached only by a failure.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
