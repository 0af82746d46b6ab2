//! The Modbus systems of `config/`: a simulated PLC, a master that polls, and
//! the gateway between them, against raw sockets and pymodbus, and each other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::support::{
    ANY, NodeProcess, PATIENCE, Running, System, Terminal, abort, accept_one, connect, hold_free_port,
    listener, needs_pymodbus, pymodbus, run, wait_until,
};

/// A request and its answer, without transaction and protocol, in hexadecimal digits.
const CONVERSATION: [(&str, &str); 27] = [
    // Register 20 and the two after it, before and after they are written.
    ("07 03 0014 0003", "07 03 06 0000 0000 0000"),
    ("07 06 0014 BEEF", "07 06 0014 BEEF"),
    ("07 10 0015 0002 04 0001 FFFF", "07 10 0015 0002"),
    ("07 03 0014 0003", "07 03 06 BEEF 0001 FFFF"),
    ("FF 03 0014 0001", "FF 03 02 BEEF"),
    // Illegal functions: coils, inputs, a mask, what is none, a code whose highest bit is set.
    ("07 05 0014 FF00", "07 85 01"),
    ("07 0F 0000 0008 01 FF", "07 8F 01"),
    ("07 04 0000 0001", "07 84 01"),
    ("07 16 0014 0000 0000", "07 96 01"),
    ("07 2B 0E 01 00", "07 AB 01"),
    ("07 00", "07 80 01"),
    ("07 83 0014 0001", "07 83 01"),
    // Illegal addresses: the last register is 99.
    ("07 03 0063 0001", "07 03 02 0000"),
    ("07 03 0063 0002", "07 83 02"),
    ("07 03 0064 0001", "07 83 02"),
    ("07 03 FFFF 007D", "07 83 02"),
    ("07 06 0064 0001", "07 86 02"),
    ("07 10 0062 0003 06 0001 0002 0003", "07 90 02"),
    // Illegal values: no register, too many, counts that differ, requests that are too short or too long.
    ("07 03 0014 0000", "07 83 03"),
    ("07 03 0000 007E", "07 83 03"),
    ("07 03 0014", "07 83 03"),
    ("07 03", "07 83 03"),
    ("07 06 0014 0001 00", "07 86 03"),
    ("07 10 0014 0000 00", "07 90 03"),
    ("07 10 0014 0002 02 0001 0002", "07 90 03"),
    ("07 10 0014 0002 04 0001", "07 90 03"),
    // Nothing of what was refused was written.
    ("07 03 0014 0003", "07 03 06 BEEF 0001 FFFF"),
];

/// With a header in front.
fn adu(transaction: u16, digits: &str) -> Vec<u8> {
    let digits: Vec<_> = digits.bytes().filter(|byte| *byte != b' ').collect();
    let body = digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
    let body: Vec<_> = body.collect();
    let [high, low] = transaction.to_be_bytes();
    [&[high, low, 0, 0, 0, body.len() as u8], &body[..]].concat()
}

fn hears(mut stream: &TcpStream, expected: &[u8], of: &str) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{of}: {error}"));
    assert_eq!(heard, expected, "{of}");
}

#[test]
fn the_simulated_plc_answers_each_request_as_the_specification_says() {
    let node = NodeProcess::shipped("plc-sim", &[("PLC", ANY)]);
    let mut master = connect(node.address());
    for (nth, (request, answer)) in (0xFFF0..).zip(CONVERSATION) {
        master.write_all(&adu(nth as u16, request)).unwrap();
        hears(&master, &adu(nth as u16, answer), request);
    }
    // All at once, and byte by byte: the same answers, in order.
    let all = |of: fn(&(&'static str, &'static str)) -> &'static str| {
        (0..).zip(&CONVERSATION).skip(3).flat_map(|(nth, pair)| adu(nth, of(pair))).collect::<Vec<_>>()
    };
    let mut other = connect(node.address());
    other.write_all(&all(|pair| pair.0)).unwrap();
    hears(&other, &all(|pair| pair.1), "all at once");
    master.set_nodelay(true).unwrap();
    for byte in all(|pair| pair.0) {
        master.write_all(&[byte]).unwrap();
    }
    hears(&master, &all(|pair| pair.1), "byte by byte");
    // The most that one request may read, and write.
    master.write_all(&adu(1, &format!("07 10 0000 0064 C8 {}", "0102".repeat(100)))).unwrap();
    hears(&master, &adu(1, "07 10 0000 0064"), "100 written");
    master.write_all(&adu(2, "07 03 0001 0063")).unwrap();
    hears(&master, &adu(2, &format!("07 03 C6 {}", "0102".repeat(99))), "99 read");
    drop((master, other));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_plant_behind_the_plc_moves_and_a_restart_forgets_what_was_written() {
    let (held, address) = hold_free_port();
    drop(held);
    let plc = || NodeProcess::shipped("plc-sim", &[("PLC", address.to_string()), ("CYCLE", "10ms".into())]);
    let node = plc();
    let mut master = connect(node.address());
    let counted = |master: &mut TcpStream| {
        master.write_all(&adu(1, "01 03 0000 0001")).unwrap();
        let mut answer = [0; 11];
        master.read_exact(&mut answer).unwrap();
        u16::from_be_bytes([answer[9], answer[10]])
    };
    wait_until("it counts", PATIENCE, || counted(&mut master) >= 3);
    master.write_all(&adu(2, "01 06 0014 0001")).unwrap();
    hears(&master, &adu(2, "01 06 0014 0001"), "written");
    assert_eq!(node.stop().0, 0);
    let node = plc();
    let mut master = connect(node.address());
    master.write_all(&adu(3, "01 03 0014 0001")).unwrap();
    hears(&master, &adu(3, "01 03 02 0000"), "as it was at first");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn pymodbus_reads_and_writes_the_simulated_plc_and_gets_its_exceptions() {
    if !needs_pymodbus() {
        return;
    }
    let node = NodeProcess::shipped("plc-sim", &[("PLC", ANY)]);
    let out = run(&mut pymodbus("writer", node.address().port()), &[]);
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).lines().collect::<Vec<_>>(),
        ["wrote 1", "wrote 3", "read [7, 8, 9, 10]", "exception 2", "exception 1", "exception 3"],
        "{out:?}"
    );
    assert_eq!(node.stop().0, 0);
}

/// A master that polls, and what it prints.
struct Poll {
    _system: System,
    terminal: Terminal,
}

impl Poll {
    fn of(plc: SocketAddr, every: &str) -> Self {
        let system = System::new("plc-poll");
        let terminal = system.terminal("plc-poll.toml", &[("PLC", &plc.to_string()), ("EVERY", every)]);
        Self { _system: system, terminal }
    }

    /// The next line that begins so.
    fn prints(&self, beginning: &str) -> String {
        let (give_up, mut before) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            assert!(Instant::now() < give_up, "no {beginning:?} in {before:#?}");
            let line = self.terminal.shows();
            if line.starts_with(beginning) {
                return line;
            }
            before.push(line);
        }
    }

    fn stop(self) -> i32 {
        self.terminal.node.stop().0
    }
}

#[test]
fn the_master_polls_a_pymodbus_device_and_goes_on_after_it_was_killed() {
    if !needs_pymodbus() {
        return;
    }
    let target = hold_free_port().1;
    let poll = Poll::of(target, "100ms");
    assert_eq!(poll.prints("failed connect"), "failed connect the PLC is away");
    for _ in 0..2 {
        let device = Running::start(&mut pymodbus("device", target.port()));
        let wrote = poll.prints("wrote ");
        let (_, tick) = wrote.rsplit_once(' ').unwrap();
        assert!(wrote.starts_with("wrote 10 ") && tick.parse::<u16>().unwrap() > 0, "{wrote}");
        assert_eq!(poll.prints("read "), "read 0 1000 1001 1002 1003");
        drop(device);
        poll.prints("failed connect");
    }
    assert_eq!(poll.stop(), 0);
}

/// A device that is mute, then answers something else, then is restarted.
#[test]
fn what_has_no_answer_or_a_wrong_one_is_said_to_have_failed() {
    let (device, address) = listener();
    let poll = Poll::of(address, "1s");
    let mut link = accept_one(&device);
    let next = |mut link: &TcpStream| {
        let mut request = [0; 12];
        link.read_exact(&mut request).unwrap();
        request
    };
    let late = next(&link);
    assert_eq!(late[2..10], [0, 0, 0, 6, 1, 6, 0, 10], "a write of register 10");
    assert_eq!(poll.prints("failed"), "failed write 10 no answer");
    let request = next(&link);
    // The answer that is too late is for nobody.
    link.write_all(&late).unwrap();
    link.write_all(&[&request[..2], &[0, 0, 0, 3, 1, 0x86, 6]].concat()).unwrap();
    assert_eq!(poll.prints("failed"), "failed write 10 exception 6, device busy");
    poll.terminal.node.line("an answer to nothing, or too late");
    let request = next(&link);
    assert_eq!(request[7..], [3, 0, 0, 0, 4], "then it reads four registers");
    link.write_all(&[&request[..2], &[0, 0, 0, 5, 1, 3, 2, 0, 1]].concat()).unwrap();
    assert_eq!(poll.prints("failed"), "failed read 0 with an answer of the wrong length");
    next(&link);
    abort(link);
    drop(device);
    assert!(poll.prints("failed write").starts_with("failed write 10 the connection ended: reset"));
    poll.prints("failed connect");
    assert_eq!(poll.stop(), 0);
}

/// All three without hardware, through a restart of the PLC, and of the gateway.
#[test]
fn two_masters_share_the_simulated_plc_through_the_gateway_while_both_are_started_anew() {
    let (plc_at, gateway_at) = (hold_free_port().1, hold_free_port().1);
    let plc = || NodeProcess::shipped("plc-sim", &[("PLC", plc_at)]);
    let gateway = || NodeProcess::shipped("modbus", &[("MASTERS", gateway_at), ("DEVICE", plc_at)]);
    let (mut device, mut between) = (plc(), gateway());
    let masters = [Poll::of(gateway_at, "200ms"), Poll::of(gateway_at, "200ms")];
    let shared = |masters: &[Poll; 2]| {
        masters.iter().for_each(|master| assert!(master.prints("read ").starts_with("read 0 ")));
    };
    shared(&masters);
    for master in &masters {
        assert_eq!(master.prints("failed write"), "failed write 10 exception 1, illegal function");
    }
    assert_eq!(device.stop().0, 0);
    for master in &masters {
        assert!(master.prints("failed read").starts_with("failed read 0 "));
    }
    device = plc();
    shared(&masters);
    assert_eq!(between.stop().0, 0);
    for master in &masters {
        assert_eq!(master.prints("failed connect"), "failed connect the PLC is away");
    }
    between = gateway();
    shared(&masters);
    for code in masters.map(Poll::stop).into_iter().chain([between.stop().0, device.stop().0]) {
        assert_eq!(code, 0);
    }
}

/// The gateway before a simulated PLC, with these variables.
fn guarded(more: &[(&str, &str)]) -> (NodeProcess, NodeProcess, TcpStream) {
    let plc = NodeProcess::shipped("plc-sim", &[("PLC", ANY)]);
    let mut variables = vec![("MASTERS", ANY.to_string()), ("DEVICE", plc.address().to_string())];
    variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let gateway = NodeProcess::shipped("modbus", &variables);
    let master = connect(gateway.address());
    (plc, gateway, master)
}

#[test]
fn the_gateway_refuses_what_writes_with_exception_1_and_the_device_never_hears_of_it() {
    let (plc, gateway, mut master) = guarded(&[]);
    let writes = [
        "07 06 0014 BEEF",
        "07 10 0014 0001 02 BEEF",
        "07 05 0014 FF00",
        "07 0F 0000 0008 01 FF",
        "07 15 07 06 0004 0007 0001 BEEF",
        "07 16 0014 0000 BEEF",
        "07 17 0014 0001 0014 0001 02 BEEF",
        "07 08 0001 0000",
        "07 00",
        "07 5A 00",
        "07 86 0014 BEEF",
    ];
    for (nth, request) in (0xFFF8u16..=0xFFFF).chain(0..).zip(writes) {
        master.write_all(&adu(nth, request)).unwrap();
        let code = u8::from_str_radix(&request[3..5], 16).unwrap() | 0x80;
        hears(&master, &adu(nth, &format!("07 {code:02X} 01")), request);
        // Reading is not disturbed, and nothing was written.
        master.write_all(&adu(nth, "07 03 0014 0001")).unwrap();
        hears(&master, &adu(nth, "07 03 02 0000"), "a read");
    }
    // The exception of the PLC itself: this one has passed.
    master.write_all(&adu(9, "07 04 0000 0001")).unwrap();
    hears(&master, &adu(9, "07 84 01"), "input registers");
    drop(master);
    let (code, log) = gateway.stop();
    assert_eq!(code, 0);
    assert_eq!(log.iter().filter(|line| line.contains("refused function")).count(), writes.len());
    assert_eq!(plc.stop().0, 0);
}

#[test]
fn the_gateway_allows_functions_and_masters_that_are_listed() {
    for (variable, value, sixteen_is_allowed) in
        [("WRITES", "6", false), ("WRITES", "6, 16", true), ("WRITERS", "192.0.2.1 127.0.0.1", true)]
    {
        let (plc, gateway, mut master) = guarded(&[(variable, value)]);
        master.write_all(&adu(1, "07 06 0014 BEEF")).unwrap();
        hears(&master, &adu(1, "07 06 0014 BEEF"), value);
        master.write_all(&adu(2, "07 10 0015 0001 02 0001")).unwrap();
        let answer = if sixteen_is_allowed { "07 10 0015 0001" } else { "07 90 01" };
        hears(&master, &adu(2, answer), value);
        master.write_all(&adu(3, "07 03 0014 0002")).unwrap();
        let second = if sixteen_is_allowed { "0001" } else { "0000" };
        hears(&master, &adu(3, &format!("07 03 04 BEEF {second}")), value);
        drop(master);
        assert_eq!((gateway.stop().0, plc.stop().0), (0, 0));
    }
}
