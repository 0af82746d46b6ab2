//! The tests of the whole node: the running binary and real programs, real
//! sockets, real networks. One binary, a module for each matter.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that meets the unexpected fails, and says what it skips"
)]

mod support;

mod api;
mod arrivals;
mod breaks;
mod bridge;
mod buffers;
mod chats;
mod collect;
mod command_line;
mod control;
mod control_faults;
mod cost;
mod crowds;
mod dials;
mod discovery;
mod ends;
mod events;
mod failover;
mod files;
mod handles;
mod heartbeat;
mod heartbeat_programs;
mod house;
mod joined;
mod limits;
mod links;
mod logs;
mod names;
mod networks;
mod operation;
mod pair;
mod programs;
mod proxies;
mod qt;
mod queues;
mod readme;
mod reload;
mod reload_groups;
mod requests;
mod scripts;
mod server;
mod signals;
mod silence;
mod skips;
mod sockets;
mod stdio;
mod steps;
mod strangers;
mod stream;
mod supervisor;
mod systems;
mod systems_device;
mod systems_half_close;
mod systems_modbus;
mod systems_scale;
mod systems_stx_chat;
mod tags;
mod terminals;
mod tls;
mod tls_limits;
mod tls_paths;
mod tls_peers;
mod tls_wires;
mod topologies;
mod traces;
mod uplinks;
mod via;
mod wire;
mod wires;
