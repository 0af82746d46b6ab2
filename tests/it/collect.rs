//! Mode collect through the running program: many clients, one connection to
//! the target, and every message accounted for while that comes and goes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use signal_node::bus::Delivery;
use signal_node::registry::Accounts;
use signal_node::{Config, Event, EventBus, EventKind, EventMask, Framing, Node, RelayMode, Subscription};
use tokio_stream::StreamExt;

use crate::support::{
    Controlled, Ending, NodeProcess, PATIENCE, abort, accept_one, accounts, connect, hold_free_port,
    listener, needs, read_all, run, text_of, wait_until,
};

fn collect(target: SocketAddr, more: &[&str]) -> NodeProcess {
    let target = target.to_string();
    let mut arguments =
        vec!["--listen", "127.0.0.1:0", "--connect", &target, "--mode", "collect", "--frame", "lines"];
    arguments.extend(more);
    NodeProcess::start(arguments)
}

/// Sends numbered lines from many clients at once, and returns when all are sent.
fn send(address: SocketAddr, senders: usize, lines: usize) {
    thread::scope(|scope| {
        for sender in 0..senders {
            scope.spawn(move || {
                let mut stream = connect(address);
                for nth in 0..lines {
                    writeln!(stream, "{sender} {nth:06}").unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&stream).1, Ending::Fin);
            });
        }
    });
}

/// Reads whole lines of numbers, up to so many; the last may be cut.
fn take(stream: &mut BufReader<TcpStream>, most: usize, seen: &mut HashMap<usize, Vec<usize>>) -> usize {
    let mut count = 0;
    let mut line = String::new();
    while count < most {
        line.clear();
        if stream.read_line(&mut line).unwrap_or(0) == 0 || !line.ends_with('\n') {
            break;
        }
        let (sender, nth) = line.trim_end().split_once(' ').expect("whole lines");
        assert_eq!(nth.len(), 6, "{line}");
        seen.entry(sender.parse().unwrap()).or_default().push(nth.parse().unwrap());
        count += 1;
    }
    count
}

/// How many connections to it there are, as `ss` shows them.
fn connections_to(target: SocketAddr) -> usize {
    let filter = format!("dport = :{}", target.port());
    let out = run(Command::new("ss").args(["-Htn", "state", "established", &filter]), &[]);
    String::from_utf8(out.stdout).unwrap().lines().count()
}

#[test]
fn there_is_one_connection_to_the_target_with_no_client_and_with_a_thousand_and_all_hear_its_answers() {
    if !needs(&["ss"]) {
        return;
    }
    let (upstream, target) = listener();
    let node = collect(target, &[]);
    let mut server = accept_one(&upstream);
    assert_eq!(connections_to(target), 1);
    let size = 1_000;
    let mut clients: Vec<_> = (0..size).map(|_| connect(node.address())).collect();
    node.nth_event("new_connection", size - 1);
    for (nth, client) in clients.iter_mut().enumerate() {
        writeln!(client, "{nth} 000000").unwrap();
    }
    let mut seen = HashMap::new();
    assert_eq!(take(&mut BufReader::new(server.try_clone().unwrap()), size, &mut seen), size);
    assert_eq!((seen.len(), connections_to(target)), (size, 1));
    server.write_all(b"all of you\n").unwrap();
    for client in &clients {
        let mut line = String::new();
        BufReader::new(client.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "all of you\n");
    }
    drop(clients);
    node.client_gone(size - 1);
    assert_eq!(connections_to(target), 1);
    upstream.set_nonblocking(true).unwrap();
    assert!(upstream.accept().is_err(), "a second connection was made");
    writeln!(connect(node.address()), "7 000001").unwrap();
    assert_eq!(take(&mut BufReader::new(server), 1, &mut seen), 1);
}

#[test]
fn a_target_that_finishes_half_way_and_comes_back_gets_every_line() {
    let (upstream, target) = listener();
    let controlled = controlled(target, &[]);
    let node = &controlled.node;
    let (senders, each) = (50, 1_000);
    let mut seen = HashMap::new();
    thread::scope(|scope| {
        let server = accept_one(&upstream);
        drop(upstream);
        let address = node.address();
        scope.spawn(move || send(address, senders, each));
        let mut server = BufReader::new(server);
        take(&mut server, senders * each / 2, &mut seen);
        server.get_ref().shutdown(Shutdown::Write).unwrap();
        take(&mut server, usize::MAX, &mut seen);
    });
    let left = Instant::now();
    // The node meets a closed door a few times.
    thread::sleep(AWAY.saturating_sub(left.elapsed()));
    node.nth_event("reconnecting", 2);
    assert_eq!(told(&controlled).received, (senders * each) as u64, "nobody has waited for it");
    let upstream = TcpListener::bind(target).unwrap();
    let mut server = BufReader::new(accept_one(&upstream));
    let so_far: usize = seen.values().map(Vec::len).sum();
    take(&mut server, senders * each - so_far, &mut seen);
    for (sender, numbers) in seen {
        assert_eq!(numbers, (0..each).collect::<Vec<_>>(), "of {sender}");
    }
    wait_until("all is confirmed", PATIENCE, || told(&controlled).sent == 50_000);
    let expected = Accounts { received: 50_000, sent: 50_000, ..Accounts::default() };
    assert_eq!(told(&controlled), expected);
    let page = text_of(&controlled.ask(&["status"]).stdout);
    let row = page.lines().skip_while(|line| !line.starts_with("COLLECTS FOR")).nth(1).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words, ["connect1", "50000", "50000", "0", "0", "0"], "{page}");
    assert_eq!(controlled.node.stop().0, 0);
}

/// How long the target is away.
const AWAY: Duration = Duration::from_secs(5);

/// What was out of a read of which only a part was written when the target finished used to be counted
/// after the last look at what is confirmed: it stayed unconfirmed, or came twice with `resend`.
#[test]
fn of_a_read_that_was_written_in_part_the_lines_that_a_target_got_before_it_finished_are_confirmed() {
    for resends in [false, true] {
        let (held, target) = hold_free_port();
        held.set_recv_buffer_size(16 << 10).unwrap();
        held.listen(16).unwrap();
        let upstream: TcpListener = held.into();
        let node = controlled(target, if resends { &["--resend"] } else { &[] });
        let server = accept_one(&upstream);
        drop(upstream);
        // More than kernels hold on the way.
        let total = 600_000;
        send_even(node.node.address(), 1, total);
        server.shutdown(Shutdown::Write).unwrap();
        let got = read_all(&server).0.len() / 10;
        assert!(got > 0);
        node.node.event("disconnected");
        drop(server);
        node.node.nth_event("reconnecting", 1);
        let expected = Accounts {
            received: total as u64,
            sent: got as u64,
            queued: (total - got) as u64,
            ..Accounts::default()
        };
        assert_eq!(told(&node), expected);
    }
}

fn controlled(target: SocketAddr, more: &[&str]) -> Controlled {
    let target = target.to_string();
    let arguments = [&["--connect", &target, "--mode", "collect", "--frame", "lines"], more].concat();
    Controlled::start(&arguments)
}

/// The accounts as `node status` tells them, which must add up.
fn told(node: &Controlled) -> Accounts {
    let status = node.status();
    let objects = status["objects"].as_array().unwrap();
    let accounts = &objects.iter().find(|object| object["object"] == "connect1").unwrap()["accounts"];
    let count = |key: &str| accounts[key].as_u64().unwrap();
    let (received, sent, queued) = (count("received"), count("sent"), count("queued"));
    let (dropped, unconfirmed) = (count("dropped"), count("unconfirmed"));
    assert_eq!(received, sent + queued + dropped + unconfirmed, "{accounts}");
    Accounts { received, sent, queued, dropped, unconfirmed }
}

/// The target dies while its kernel holds lines that it has not read, and ours
/// holds lines that it has not acknowledged.
#[test]
fn of_a_target_that_is_killed_only_what_the_accounts_say_may_be_missing() {
    let (senders, each) = (50, 1_000);
    let total = senders * each;
    for resends in [false, true] {
        let (held, target) = hold_free_port();
        // So that what is unread has a limit, and is known.
        held.set_recv_buffer_size(16 << 10).unwrap();
        held.listen(16).unwrap();
        let upstream: TcpListener = held.into();
        let node = controlled(target, if resends { &["--resend"] } else { &[] });
        let mut server = accept_one(&upstream);
        let address = node.node.address();
        let sending = thread::spawn(move || send_even(address, senders, each));
        let mut read = vec![0; total / 2 * 10];
        server.read_exact(&mut read).unwrap();
        let mut seen = HashMap::new();
        count_even(&read, &mut seen);
        sending.join().unwrap();
        // Until nothing more fits, and all of that has been told.
        let mut looks = Vec::new();
        wait_until("nothing moves any more", PATIENCE, || {
            let unread = rustix::io::ioctl_fionread(&server).unwrap();
            looks.push((unread, told(&node)));
            let last = &looks[looks.len().saturating_sub(8)..];
            looks.len() > 8 && last.iter().all(|look| *look == last[0])
        });
        let (unread, before) = looks.pop().unwrap();
        assert!(before.received == total as u64 && before.unconfirmed > 0, "{before:?}");
        // Every line whose last byte its kernel has, and no other.
        assert_eq!(before.sent as usize, (read.len() + unread as usize) / 10, "{before:?}");
        abort(server);
        let mut server = accept_one(&upstream);
        let rest = Arc::new(Mutex::new(Vec::new()));
        let reading = thread::spawn({
            let rest = Arc::clone(&rest);
            move || {
                let mut piece = vec![0; 1 << 16];
                while let Ok(count @ 1..) = server.read(&mut piece) {
                    rest.lock().unwrap().extend_from_slice(&piece[..count]);
                }
            }
        });
        let mut looks = Vec::new();
        wait_until("all has arrived", PATIENCE, || {
            looks.push((rest.lock().unwrap().len(), told(&node)));
            let last = &looks[looks.len().saturating_sub(8)..];
            looks.len() > 8 && last.iter().all(|look| *look == last[0]) && last[0].1.queued == 0
        });
        let end = told(&node);
        assert_eq!(node.node.stop().0, 0);
        reading.join().unwrap();
        let mut later = HashMap::new();
        count_even(&rest.lock().unwrap(), &mut later);
        // Order is kept on each connection.
        for numbers in seen.values().chain(later.values()) {
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        }
        let mut twice = 0;
        for (sender, numbers) in later {
            let before = seen.entry(sender).or_default();
            let new = numbers.iter().filter(|number| before.binary_search(number).is_err());
            let new: Vec<_> = new.copied().collect();
            twice += numbers.len() - new.len();
            before.extend(new);
        }
        let missing = total - seen.values().map(Vec::len).sum::<usize>();
        assert_eq!((end.sent + end.unconfirmed, end.dropped), (total as u64, 0), "{end:?}");
        let unread_lines = unread as usize / 10;
        assert_eq!(missing, unread_lines + end.unconfirmed as usize, "{end:?}");
        assert_eq!((end.unconfirmed == 0, twice), (resends, 0), "{end:?}");
        eprintln!(
            "resend {resends}: {missing} of {total} lines missing, {unread} bytes unread, {twice} twice, {end:?}"
        );
    }
}

/// The same lines in ten bytes each.
fn send_even(address: SocketAddr, senders: usize, lines: usize) {
    thread::scope(|scope| {
        for sender in 0..senders {
            scope.spawn(move || {
                let mut stream = connect(address);
                let mut writer = std::io::BufWriter::new(&mut stream);
                for nth in 0..lines {
                    writeln!(writer, "{sender:02} {nth:06}").unwrap();
                }
                writer.flush().unwrap();
                drop(writer);
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&stream).1, Ending::Fin);
            });
        }
    });
}

fn count_even(bytes: &[u8], seen: &mut HashMap<usize, Vec<usize>>) {
    for line in bytes.chunks(10) {
        let line = std::str::from_utf8(line).unwrap();
        assert!(line.len() == 10 && line.ends_with('\n'), "{line:?}");
        seen.entry(line[..2].parse().unwrap()).or_default().push(line[3..9].parse().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accounts_add_up_at_any_moment_while_the_target_is_killed_again_and_again() {
    let (upstream, target) = listener();
    let mut config = Config::relay(["127.0.0.1:0".parse().unwrap()], [target.to_string().parse().unwrap()]);
    config.relay.get_mut("relay").unwrap().mode = RelayMode::Collect;
    config.listen.get_mut("listen1").unwrap().options.messages.framing = Some(Framing::LINES);
    let node = Node::bind_with(config, EventBus::new()).await.unwrap();
    let address = node.addresses()[0];
    let (senders, each) = (20, 10_000);
    let total = senders * each;
    let sending = thread::spawn(move || send(address, senders, each));
    let receiving = thread::spawn(move || {
        let mut seen = HashMap::new();
        for _ in 0..5 {
            let mut server = BufReader::new(accept_one(&upstream));
            server.get_ref().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            take(&mut server, total / 50, &mut seen);
            abort(server.into_inner());
        }
        let mut server = BufReader::new(accept_one(&upstream));
        server.get_ref().set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        take(&mut server, usize::MAX, &mut seen);
        (server, seen)
    });
    while !receiving.is_finished() || !sending.is_finished() {
        accounts(&node);
        tokio::task::yield_now().await;
    }
    sending.join().unwrap();
    let (server, seen) = receiving.join().unwrap();
    let end = tokio::task::spawn_blocking(move || {
        wait_until("everything is settled", PATIENCE, || accounts(&node).queued == 0);
        accounts(&node)
    });
    let end = end.await.unwrap();
    let arrived: usize = seen.values().map(Vec::len).sum();
    assert_eq!((end.received, end.dropped), (total as u64, 0), "{end:?}");
    // What did not arrive had been handed to our kernel: it is unconfirmed, or was acknowledged unread.
    assert_eq!(end.sent + end.unconfirmed, total as u64, "{end:?}");
    assert!(arrived <= total && end.sent > 0, "{arrived} of {end:?}");
    eprintln!("{arrived} of {total} arrived over six connections, five of which were reset: {end:?}");
    for numbers in seen.values() {
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "order is kept");
    }
    drop(server);
}

/// The next pause before a dial: which it is in a row.
async fn attempt(events: &mut Subscription) -> u32 {
    loop {
        if let Some(Delivery::Event(envelope)) = events.next().await
            && let Event::Reconnecting { attempt, pause, .. } = envelope.event
        {
            // Any part of a quarter of a second, doubled each time.
            let most = Duration::from_millis(250) * 2u32.pow(attempt - 1);
            assert!(pause <= most.min(Duration::from_secs(30)), "{attempt}: {pause:?}");
            return attempt;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_no_connection_lasts_and_begin_anew_after_one_that_did() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = upstream.local_addr().unwrap().to_string().parse().unwrap();
    let mut config = Config::relay(["127.0.0.1:0".parse().unwrap()], [target]);
    config.relay.get_mut("relay").unwrap().mode = RelayMode::Collect;
    config.listen.get_mut("listen1").unwrap().options.messages.framing = Some(Framing::LINES);
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::of(&[EventKind::Reconnecting]));
    let node = Node::bind_with(config, bus).await.unwrap();
    for nth in 1..=9 {
        drop(upstream.accept().await.unwrap());
        assert_eq!(attempt(&mut events).await, nth);
    }
    let lasts = upstream.accept().await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    drop(lasts);
    assert_eq!(attempt(&mut events).await, 1);
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

#[test]
fn lines_wait_for_a_target_that_is_down_within_the_limit_and_senders_wait_beyond_it() {
    let (held, target) = hold_free_port();
    let node = collect(target, &["--queue", "16KiB"]);
    let mut client = connect(node.address());
    client.set_nonblocking(true).unwrap();
    let line = format!("{}\n", "x".repeat(1_023));
    let mut taken = 0;
    wait_until("nothing more is taken", Duration::from_secs(20), || {
        let before = taken;
        // On from wherever in a line the last write stopped.
        while let Ok(count) = client.write(&line.as_bytes()[taken % line.len()..]) {
            taken += count;
        }
        thread::sleep(Duration::from_millis(200));
        taken == before
    });
    node.event("write_buffer_high");
    held.listen(16).unwrap();
    let upstream: TcpListener = held.into();
    let server = accept_one(&upstream);
    client.set_nonblocking(false).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut lines = BufReader::new(server).lines();
    for _ in 0..taken / 1_024 {
        assert_eq!(lines.next().unwrap().unwrap().len(), 1_023);
    }
}

#[test]
fn what_waits_for_a_target_when_the_node_stops_is_sent_or_counted() {
    let (upstream, target) = listener();
    let node = collect(target, &[]);
    let server = accept_one(&upstream);
    send(node.address(), 5, 100);
    node.signal(rustix::process::Signal::TERM);
    let mut seen = HashMap::new();
    assert_eq!(take(&mut BufReader::new(server), usize::MAX, &mut seen), 500);
    assert_eq!(node.wait().0, 0);

    let (_held, target) = hold_free_port();
    let node = collect(target, &["--shutdown-grace", "100ms"]);
    send(node.address(), 5, 100);
    let (code, log) = node.stop();
    assert_eq!(code, 1, "something was lost");
    let lost = log.iter().find(|line| line.contains("frames_dropped")).unwrap();
    let lost: serde_json::Value = serde_json::from_str(lost).unwrap();
    assert_eq!((&lost["cause"], &lost["frames"]), (&"stopped".into(), &500.into()));
    assert!(lost["connection"].is_null());
}

#[test]
fn what_has_arrived_is_not_kept_however_fast_it_goes() {
    let (upstream, target) = listener();
    let node = collect(target, &[]);
    let (mut client, mut server) = (connect(node.address()), accept_one(&upstream));
    let lines = b"a reading of a sensor\n".repeat(8_000);
    let mut taken = vec![0; lines.len()];
    let mut before = 0;
    for nth in 0..2_000 {
        // What is on its way is never more than this, so that the memory is for what was.
        client.write_all(&lines).unwrap();
        server.read_exact(&mut taken).unwrap();
        if nth == 10 {
            before = node.memory("VmHWM");
        }
    }
    let grown = node.memory("VmHWM") - before;
    assert!(grown < 8 << 10, "{grown} KiB");
    drop(client);
    assert_eq!(node.stop().0, 0);
}
