//! Who holds a port, as far as /proc tells: for the one error message that
//! everybody meets.

use std::fs;

/// The process that listens on TCP `port`, as `pid 4242, nginx`.
pub(super) fn holder(port: u16) -> Option<String> {
    holder_in(["/proc/net/tcp", "/proc/net/tcp6"], port, LISTEN)
}

/// The same of UDP.
pub(super) fn udp_holder(port: u16) -> Option<String> {
    holder_in(["/proc/net/udp", "/proc/net/udp6"], port, UNCONNECTED)
}

fn holder_in(tables: [&str; 2], port: u16, state: &str) -> Option<String> {
    let sockets: Vec<String> = tables
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| inodes(&table, port, state))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            let link = fs::read_link(descriptor.path()).ok();
            link.is_some_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
        });
        if holds {
            return Some(named(pid));
        }
    }
    None
}

/// A process as `pid 4242, nginx`.
pub(super) fn named(pid: u32) -> String {
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("pid {pid}, {}", command.trim().escape_debug())
}

fn inodes(table: &str, port: u16, state: &str) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == state)
        .map(|row| row[9].to_owned())
        .collect()
}

/// `TCP_LISTEN` as the kernel prints it.
const LISTEN: &str = "0A";
/// A UDP socket that takes datagrams from everyone.
const UNCONNECTED: &str = "07";
