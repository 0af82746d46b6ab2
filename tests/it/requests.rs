//! Requests of many over one link: each answer to the client that asked, a
//! device that restarts, is mute or late, and the accounts of it all.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use signal_node::{Config, EventBus, Framing, Node, RelayMode, Reply};

use crate::support::{
    Device, Ending, Got, MUTE, Master, NodeProcess, PATIENCE, Running, SLOW, accept_one, accounts, connect,
    hold_free_port, listener, needs_pymodbus, pymodbus, read_all, register_value, wait_until,
};

fn gateway(framing: &str, target: SocketAddr, more: &[&str]) -> NodeProcess {
    let target = target.to_string();
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--connect", &target, "--mode", "collect"];
    arguments.extend(["--frame", framing, "--reply", "request"]);
    arguments.extend(more);
    NodeProcess::start(arguments)
}

fn device() -> Device {
    Device::start(listener().0)
}

/// The last of these events, which carries the totals.
fn total(log: &[String], event: &str, cause: &str) -> u64 {
    let events = log.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let key = if event == "request_failed" { ("fault", "requests") } else { ("cause", "frames") };
    let mut found = events.filter(|line| line["event"] == event && line[key.0] == cause);
    found.next_back().map_or(0, |line| line[key.1].as_u64().unwrap())
}

#[test]
fn ten_masters_share_a_device_that_takes_one_and_each_gets_its_own_answers() {
    for (overlap, depth) in [("1", 1), ("8", 1), ("8", 4)] {
        let device = device();
        let node = gateway("mbap", device.address, &["--overlap", overlap, "--request-timeout", "20s"]);
        let address = node.address();
        thread::scope(|scope| {
            for unit in 1..=10 {
                scope.spawn(move || {
                    let mut master = Master::new(address, unit);
                    let mut on_their_way = Vec::new();
                    for register in 0..1_000 {
                        on_their_way.push((master.ask(register).unwrap(), register));
                        if on_their_way.len() < depth && register < 999 {
                            continue;
                        }
                        for _ in 0..on_their_way.len() {
                            let (transaction, got) = master.answer().unwrap();
                            let nth = on_their_way.iter().position(|asked| asked.0 == transaction).unwrap();
                            let (_, register) = on_their_way.remove(nth);
                            assert_eq!(got, Got::Value(register_value(unit, register)), "of {unit}");
                        }
                    }
                });
            }
        });
        assert_eq!((device.seen().len(), device.refused(), device.accepted().len()), (10_000, 0, 1));
        let (code, log) = node.stop();
        assert_eq!(code, 0);
        assert!(!log.iter().any(|line| line.contains("request_failed") || line.contains("frames_dropped")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_restarts_costs_errors_only_while_it_does_and_the_accounts_add_up() {
    for overlap in [1, 8] {
        let device = device();
        let target = device.address.to_string().parse().unwrap();
        let mut config = Config::relay(["127.0.0.1:0".parse().unwrap()], [target]);
        let relay = config.relay.get_mut("relay").unwrap();
        (relay.mode, relay.options.reply, relay.options.request.overlap) =
            (RelayMode::Collect, Reply::Request, overlap);
        relay.options.request.timeout = Duration::from_secs(10);
        config.listen.get_mut("listen1").unwrap().options.messages.framing = Some(Framing::Mbap);
        let node = Node::bind_with(config, EventBus::new()).await.unwrap();
        let address = node.addresses()[0];
        let is_over = AtomicBool::new(false);
        let (errors, answers, [down, up]) = tokio::task::block_in_place(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Relaxed) {
                        accounts(&node);
                    }
                });
                let masters: Vec<_> = (1..=10)
                    .map(|unit| {
                        scope.spawn(move || {
                            let (mut master, mut errors) = (Master::new(address, unit), Vec::new());
                            for register in 0..1_000 {
                                match master.read(register).unwrap() {
                                    Got::Value(_) => {}
                                    Got::Exception(code) => errors.push((code, Instant::now())),
                                }
                            }
                            errors
                        })
                    })
                    .collect();
                wait_until("they are half way", PATIENCE, || device.seen().len() > 5_000);
                let down = Instant::now();
                assert!(device.reset());
                wait_until("it is back", PATIENCE, || device.accepted().len() == 2);
                let up = device.accepted()[1];
                let errors: Vec<_> = masters.into_iter().flat_map(|master| master.join().unwrap()).collect();
                is_over.store(true, Relaxed);
                (errors, device.seen().len(), [down, up])
            })
        });
        // Only what was on the link could fail; the rest waited, and was not late.
        assert!(errors.len() <= overlap, "{errors:?}");
        for (code, at) in &errors {
            assert_eq!(*code, 0x0B, "it may have been carried out");
            assert!(*at >= down && *at <= up + Duration::from_secs(1), "{errors:?}");
        }
        let end = accounts(&node);
        assert_eq!((end.received, end.queued, end.dropped), (10_000, 0, 0), "{end:?}");
        assert!(end.unconfirmed <= errors.len() as u64, "an answer tells that its request came: {end:?}");
        assert!(answers <= 10_000, "nothing is asked twice");
        eprintln!(
            "overlap {overlap}: {} errors while it was away for {:?}; {end:?}",
            errors.len(),
            up - down
        );
    }
}

#[test]
fn a_mute_unit_delays_only_its_own_requests_and_a_late_answer_reaches_nobody() {
    let device = device();
    let node = gateway("mbap", device.address, &["--request-timeout", "300ms"]);
    let address = node.address();
    let mut mute = Master::new(address, MUTE);
    let mut slow = Master::new(address, SLOW);
    let mut well = Master::new(address, 1);
    for register in 0..4 {
        // Both are on their way before the healthy one asks.
        mute.ask(register).unwrap();
        slow.ask(register).unwrap();
        assert_eq!(well.read(register).unwrap(), Got::Value(register_value(1, register)));
        assert_eq!(mute.answer().unwrap().1, Got::Exception(0x0B));
        assert_eq!(slow.answer().unwrap().1, Got::Exception(0x0B));
    }
    drop((mute, slow));
    assert_eq!(device.accepted().len(), 1, "with ids the link stays");
    let (code, log) = node.stop();
    assert_eq!((code, total(&log, "request_failed", "timed_out")), (0, 4));
    assert!(total(&log, "frames_dropped", "late") >= 3, "{}", log.join("\n"));
}

#[test]
fn a_device_that_says_nothing_at_all_is_dialled_again() {
    let device = device();
    let node = gateway("mbap", device.address, &["--request-timeout", "100ms"]);
    let mut mute = Master::new(node.address(), MUTE);
    let mut register = 0;
    wait_until("it is dialled again, twice", PATIENCE, || {
        // While it is dialled requests are not sent.
        assert!(matches!(mute.read(register).unwrap(), Got::Exception(0x0A | 0x0B)));
        register += 1;
        device.accepted().len() >= 3
    });
    node.line("\"unanswered\"");
}

#[test]
fn ten_pymodbus_masters_share_a_pymodbus_device_also_while_that_is_killed_and_started_again() {
    if !needs_pymodbus() {
        return;
    }
    let target = hold_free_port().1;
    let node = gateway("mbap", target, &["--overlap", "4", "--request-timeout", "20s"]);
    let mut device = Running::start(&mut pymodbus("device", target.port()));
    node.event("connected");
    for restarts in [false, true] {
        let mut masters = Running::start(pymodbus("masters", node.address().port()).arg("1000"));
        let stdout = masters.child.stdout.take().unwrap();
        if restarts {
            // They are all there, and have begun.
            node.nth_event("new_connection", 19);
            drop(device);
            node.nth_event("reconnecting", 0);
            device = Running::start(&mut pymodbus("device", target.port()));
        }
        let lines: Vec<_> = BufReader::new(stdout).lines().map(Result::unwrap).collect();
        assert!(masters.wait().success());
        let numbers =
            |line: &String| -> Vec<u32> { line.split(' ').map(|number| number.parse().unwrap()).collect() };
        let [right, wrong, errors] =
            [0, 1, 2].map(|nth| lines.iter().map(|line| numbers(line)[nth]).sum::<u32>());
        assert_eq!((lines.len(), right + errors, wrong), (10, 10_000, 0), "{lines:?}");
        assert!(errors <= if restarts { 4 } else { 0 }, "only what was on the link may fail: {lines:?}");
    }
    drop(device);
}

/// An instrument that answers lines, each after `answer` has looked at it.
fn instrument(listener: &TcpListener, answer: impl Fn(&str, &mut TcpStream)) {
    let mut stream = accept_one(listener);
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        answer(&line, &mut stream);
    }
}

fn ask(client: &mut TcpStream, line: &str) -> String {
    client.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(&*client).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn ten_clients_take_turns_at_an_instrument_that_speaks_lines() {
    let (upstream, target) = listener();
    let node = gateway("lines", target, &["--request-timeout", "20s"]);
    let address = node.address();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..10)
            .map(|client| {
                scope.spawn(move || {
                    let mut stream = connect(address);
                    for nth in 0..1_000 {
                        assert_eq!(
                            ask(&mut stream, &format!("{client} {nth}?")),
                            format!("it is {client} {nth}?\n")
                        );
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            instrument(&upstream, |line, stream| {
                stream.write_all(format!("it is {line}\n").as_bytes()).unwrap()
            })
        });
        asking.into_iter().for_each(|asking| asking.join().unwrap());
        node.signal(rustix::process::Signal::TERM);
    });
    assert_eq!(node.wait().0, 0);
}

#[test]
fn without_ids_a_timeout_ends_the_link_and_its_late_answer_reaches_nobody() {
    let (upstream, target) = listener();
    let node = gateway("lines", target, &["--request-timeout", "2s"]);
    let (mut first, mut second) = (connect(node.address()), connect(node.address()));
    let mut hasty = connect(node.address());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = accept_one(&upstream);
            let mut lines = BufReader::new(link.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "SLOW?");
            // It answers when it is too late.
            assert!(lines.next().is_none_or(|line| line.is_err()), "nothing more is asked over this link");
            let _ = link.write_all(b"late\n");
            drop(link);
            instrument(&upstream, |line, stream| {
                if line != "MUTE" {
                    writeln!(stream, "answer to {line}").unwrap();
                }
            });
            instrument(&upstream, |line, stream| writeln!(stream, "again {line}").unwrap());
        });
        writeln!(first, "SLOW?").unwrap();
        node.event("request_failed");
        assert_eq!(ask(&mut second, "B?"), "answer to B?\n");
        assert_eq!(ask(&mut first, "A?"), "answer to A?\n", "it stays, and got nothing before");
        // Whoever has asked more could take the next answer for the one that will not come.
        hasty.write_all(b"MUTE\nC?\n").unwrap();
        assert_eq!(read_all(&hasty), (vec![], Ending::Reset));
        assert_eq!(ask(&mut second, "D?"), "again D?\n");
        let (code, log) = node.stop();
        assert_eq!((code, total(&log, "frames_dropped", "left")), (0, 1), "C? was not asked");
    });
}

#[test]
fn a_client_that_has_finished_gets_its_answer_and_one_that_has_left_leaves_it_to_nobody() {
    let (upstream, target) = listener();
    let node = gateway("lines", target, &["--request-timeout", "20s"]);
    let mut link = accept_one(&upstream);
    let mut lines = BufReader::new(link.try_clone().unwrap()).lines();
    let mut finished = connect(node.address());
    finished.write_all(b"A?\n").unwrap();
    finished.shutdown(std::net::Shutdown::Write).unwrap();
    node.event("read_finished");
    assert_eq!(lines.next().unwrap().unwrap(), "A?");
    let mut leaves = connect(node.address());
    leaves.write_all(b"B?\n").unwrap();
    link.write_all(b"a\n").unwrap();
    assert_eq!(read_all(&finished), (b"a\n".to_vec(), Ending::Fin));
    assert_eq!(lines.next().unwrap().unwrap(), "B?");
    crate::support::abort(leaves);
    node.client_gone(1);
    let mut stays = connect(node.address());
    stays.write_all(b"C?\n").unwrap();
    node.nth_event("new_connection", 2);
    link.write_all(b"b\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "C?");
    // Told to stop, the node waits for what was asked.
    node.signal(rustix::process::Signal::TERM);
    node.line("stop");
    link.write_all(b"c\n").unwrap();
    assert_eq!(read_all(&stays), (b"c\n".to_vec(), Ending::Fin));
    drop((link, lines));
    let (code, log) = node.wait();
    assert_eq!((code, total(&log, "frames_dropped", "left")), (0, 1), "{}", log.join("\n"));
}

#[test]
fn while_the_device_is_away_requests_wait_for_it_and_no_longer_than_they_may() {
    let (held, target) = hold_free_port();
    let node = gateway("mbap", target, &["--request-timeout", "300ms"]);
    let mut master = Master::new(node.address(), 1);
    let begun = Instant::now();
    assert_eq!(master.read(1).unwrap(), Got::Exception(0x0A), "it was not sent");
    assert!(begun.elapsed() >= Duration::from_millis(250), "it was waited for");
    node.event("request_failed");
    let waiting = gateway("mbap", target, &["--request-timeout", "20s"]);
    let mut patient = Master::new(waiting.address(), 2);
    patient.ask(2).unwrap();
    waiting.nth_event("reconnecting", 1);
    held.listen(16).unwrap();
    // Only one of the two nodes gets it.
    drop(node);
    let device = Device::start(held.into());
    assert_eq!(patient.answer().unwrap().1, Got::Value(register_value(2, 2)));
    assert_eq!(device.seen().len(), 1);
}

#[test]
fn a_client_that_asks_without_end_is_not_read_and_the_others_have_their_turns() {
    let device = device();
    let node = gateway("mbap", device.address, &["--request-timeout", "20s"]);
    let address = node.address();
    thread::scope(|scope| {
        let flood = Master::new(address, 7).into_stream();
        let mut writes = flood.try_clone().unwrap();
        writes.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        // It never reads, so that it is to stop being read.
        let taken = scope.spawn(move || {
            let request = [0, 1, 0, 0, 0, 6, 7, 3, 0, 1, 0, 1].repeat(1_000);
            let mut taken = 0;
            while taken < 64 << 20 {
                match writes.write(&request[taken % 12..]) {
                    Ok(count) => taken += count,
                    Err(_) => break,
                }
            }
            taken
        });
        let mut master = Master::new(address, 1);
        for register in 0..500 {
            assert_eq!(master.read(register).unwrap(), Got::Value(register_value(1, register)));
        }
        let seen = device.seen();
        let mine: Vec<_> =
            seen.iter().enumerate().filter(|(_, seen)| seen.0 == 1).map(|(nth, _)| nth).collect();
        let between = mine.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        let taken = taken.join().unwrap();
        assert!(taken < 64 << 20, "it was read on and on");
        eprintln!(
            "{taken} bytes were taken of the flood, and {between} requests came between two of a master"
        );
        crate::support::abort(flood);
    });
}
