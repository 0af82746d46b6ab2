//! Config files: what is wrong with one, what one means, and that those which
//! are shipped do what they say.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use signal_node::Config;

use crate::support::{
    Device, Ending, Got, Master, NodeProcess, accept_one, binary, connect, hold_free_port, listener,
    read_all, register_value, root, run,
};

/// What the program prints on stdout when all is well.
fn printed(arguments: &[&str]) -> String {
    let out = run(Command::new(binary()).args(arguments), &[]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let read = Config::parse(vec![("x.toml".into(), text.into())]);
    read.map(|(config, _)| config).map_err(|error| error.faults)
}

/// Each `$ node …` of `expected.txt`, and the lines it must print.
///
/// `UPDATE=1 cargo test` writes what the program prints now, to be read and judged.
#[test]
fn every_fault_of_a_file_is_a_line_with_its_place_what_was_found_and_what_to_try() {
    let folder = root().join("tests/fixtures/invalid");
    let path = folder.join("expected.txt");
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = String::new();
    for case in text.split_inclusive('\n').filter(|line| line.starts_with(['$', '#'])) {
        lines.push_str(case);
        if case.starts_with('#') {
            continue;
        }
        let arguments = case.split_whitespace().skip(2);
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(&folder).env_remove("SIGNAL_NODE_LOG");
        let out = run(&mut command, &[]);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{case}{stderr}");
        assert!(stderr.chars().all(|c| c == '\n' || !c.is_control()), "{case}{stderr:?}");
        for line in stderr.lines() {
            assert!(line.starts_with("error: "), "{line}");
            assert!(line.contains("; ") || line.contains("did you mean"), "nothing to try in: {line}");
        }
        lines.push_str(&stderr);
        lines.push('\n');
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &lines).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        lines == text,
        "tests/fixtures/invalid/expected.txt says otherwise; the program printed:\n{lines}"
    );
}

#[test]
fn a_file_with_a_fault_opens_nothing_though_the_rest_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let file = folder.path().join("x.toml");
    let relay = "[relay.r]\nfrom = \"a\"\nmode = \"echo\"\nidle_timout = \"5m\"\n";
    fs::write(&file, format!("[listen.a]\nbind = \"unix:{}\"\n{relay}", socket.display())).unwrap();
    let out = run(Command::new(binary()).arg("run").arg(&file), &[]);
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let out = run(Command::new(binary()).arg("check").arg(&pipe), &[]);
    assert!(String::from_utf8(out.stderr).unwrap().contains("is no regular file"));
}

#[test]
fn depth_size_and_number_have_limits_and_cost_no_stack_and_little_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let many: String = (0..20_000).map(|nth| format!("[relay.r{nth}]\nx = 1\n")).collect();
    for (text, expected) in [
        (format!("a = {}", "[".repeat(1_000_000)), "max recursion depth"),
        (format!("a = {}", "{a=".repeat(100_000)), "max recursion depth"),
        (format!("{}a = 1", "a.".repeat(100_000)), "recursion limit"),
        ("#".repeat(5 << 20), "is larger than 4 MiB"),
        (many, "x.toml:40000:1: relay.r19999.x: there is no such key"),
    ] {
        fs::write(&file, text).unwrap();
        let out = run(Command::new(binary()).arg("check").arg(&file), &[]);
        assert_eq!(out.status.code(), Some(2));
        assert!(String::from_utf8(out.stderr).unwrap().contains(expected), "{expected}");
    }
}

#[test]
fn a_port_in_use_is_named_with_its_line() {
    let (_held, address) = listener();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let text =
        format!("[relay.r]\nfrom = \"front\"\nmode = \"echo\"\n[listen.front]\nbind = \"{address}\"\n");
    fs::write(&file, text).unwrap();
    let out = run(Command::new(binary()).arg("run").arg(&file), &[]);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    let first = format!("error: cannot listen on {address} for `front` ({}:5:8)\n", file.display());
    assert!(stderr.starts_with(&first), "{stderr}");
}

#[test]
fn what_the_command_line_means_can_be_written_to_a_file_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let options = [
        "--listen=127.0.0.1:0",
        "--listen=[::1]:0",
        "--connect=localhost:1",
        "--connect=echo:",
        "--allow=127.0.0.0/8",
        "--deny=10.0.0.0/8",
        "-m=7",
        "--backlog=9",
        "--connect-timeout=1s",
        "--idle-timeout=5m",
        "--half-closed-timeout=1m",
        "--shutdown-grace=3s",
        "--threads=2",
        "--log-format=json",
        "-v",
    ];
    let mut arguments = options.to_vec();
    arguments.push("--print-config");
    let text = printed(&arguments);
    fs::write(&file, &text).unwrap();
    let shown = printed(&["check", "--show", file.to_str().unwrap()]);
    for line in [
        "max_connections = 7",
        "shutdown_grace = \"3s\"",
        "threads = 2",
        "log = \"signal_node=debug\"",
        "log_format = \"json\"",
        "bind = \"[::1]:0\"",
        "allow = [\"127.0.0.0/8\"]",
        "deny = [\"10.0.0.0/8\"]",
        "backlog = 9",
        "connect_timeout = \"1s\"",
        "to = [\"connect1\", \"connect2\"]",
        "idle_timeout = \"5m\"",
        "half_closed_timeout = \"1m\"",
    ] {
        assert!(text.contains(line) && shown.contains(line), "{line} is not in\n{text}");
    }
    // The format is the file's: the node's events are read as JSON.
    let node = NodeProcess::spawn(Command::new(binary()).arg("run").arg(&file));
    let mut client = connect(node.address());
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn what_show_prints_is_the_same_config_and_shows_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.toml");
    for entry in fs::read_dir(root().join("config")).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "luau") {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    for name in SHIPPED {
        let file = root().join(format!("config/{name}.toml"));
        let shown = printed(&["check", "--show", file.to_str().unwrap()]);
        fs::write(&copy, &shown).unwrap();
        assert_eq!(printed(&["check", "--show", copy.to_str().unwrap()]), shown, "{name}");
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(printed(&["example", &format!("{name}.toml")]), text);
        // A client comes with its system.
        if !name.ends_with("-client") {
            assert_eq!(printed(&["example", name]), text);
            assert!(printed(&["example"]).contains(&format!("node example {name}")));
        }
    }
}

#[test]
fn files_are_merged_and_variables_come_from_the_environment_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("a.toml"),
        "\u{feff}[vars]\r\nPLANT = \"127.0.0.1:1\"\r\nMOST = \"5\"\r\n[listen.a]\r\nbind = \"${PLANT}\"\r\n",
    )
    .unwrap();
    fs::write(path("b.toml"), "[listen.b]\nbind = \"unix:/tmp/$${x}\"\nmax_connections = \"${MOST}\"\n[relay.r]\nfrom = [\"a\", \"b\"]\nmode = \"echo\"\n").unwrap();
    let out = run(
        Command::new(binary())
            .args(["check", "--show"])
            .args([path("a.toml"), path("b.toml")])
            .env("PLANT", "127.0.0.9:2"),
        &[],
    );
    let shown = String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap();
    for line in ["bind = \"127.0.0.9:2\"", "bind = \"unix:/tmp/$${x}\"", "max_connections = 5"] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}

/// A node with a shipped file, its addresses set through the environment.
fn shipped(name: &str, variables: &[(&str, SocketAddr)]) -> NodeProcess {
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join(format!("config/{name}.toml")));
    command.envs(variables.iter().map(|(name, address)| (*name, address.to_string())));
    NodeProcess::spawn(&mut command)
}

/// Every file of `config/`.
const SHIPPED: [&str; 31] = [
    "relay",
    "echo",
    "heartbeat",
    "both-roles",
    "hub",
    "publish",
    "collect",
    "failover",
    "modbus",
    "bridge",
    "tls",
    "wires",
    "commissioning",
    "hello",
    "hello-client",
    "aggregator",
    "summary",
    "chat-login",
    "chat-login-client",
    "plc-sim",
    "plc-poll",
    "scale",
    "half-close",
    "half-close-client",
    "device-bridge",
    "device-meet",
    "chat",
    "chat-client",
    "stx-chat",
    "stx-chat-client",
    "reference",
];
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn echoes(address: SocketAddr) {
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), (b"hello".to_vec(), Ending::Fin));
}

/// Where the listener of this name is.
fn address_of(node: &NodeProcess, name: &str) -> SocketAddr {
    (0..).map(|nth| node.nth_event("listening", nth)).find(|event| event["endpoint"] == name).unwrap()["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_relay_between_two_networks_takes_the_spare_while_the_office_is_away() {
    let ((spare, spare_address), (_kept, office)) = (listener(), hold_free_port());
    let node = shipped("relay", &[("PLANT", ANY), ("OFFICE", office), ("SPARE", spare_address)]);
    let mut client = connect(node.address());
    let mut server = accept_one(&spare);
    server.write_all(b"from the spare").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "from the spare");
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_echo_server_echoes() {
    let node = shipped("echo", &[("ECHO", ANY)]);
    echoes(node.address());
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_modbus_gateway_shares_a_device_and_gives_it_its_rest() {
    let device = Device::start(listener().0);
    let node = shipped("modbus", &[("MASTERS", ANY), ("DEVICE", device.address)]);
    let mut masters: Vec<_> = (1..=3).map(|unit| Master::new(node.address(), unit)).collect();
    for register in 0..5 {
        for master in &mut masters {
            master.ask(register).unwrap();
        }
        for (master, unit) in masters.iter_mut().zip(1..) {
            assert_eq!(master.answer().unwrap().1, Got::Value(register_value(unit, register)));
        }
    }
    let seen = device.seen();
    assert_eq!((seen.len(), device.refused()), (15, 0));
    assert!(seen[0].2 - device.accepted()[0] >= Duration::from_millis(90), "delay_after_connect");
    assert!(seen.windows(2).all(|two| two[1].2 - two[0].2 >= Duration::from_millis(4)), "pause");
    drop(masters);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn both_roles_serve_and_pass_on_and_one_may_lead_to_the_other() {
    let (_kept, server) = hold_free_port();
    let (free, own) = listener();
    drop(free);
    let node = shipped("both-roles", &[("OWN", own), ("GATE", ANY), ("SERVER", server)]);
    echoes(address_of(&node, "own"));
    // The server is away, so this goes through the node twice.
    echoes(address_of(&node, "gate"));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_room_the_readings_and_the_meeting_place_do_what_they_say() {
    let hears = |mut client: &TcpStream, text: &str| {
        let mut bytes = vec![0; text.len()];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, text.as_bytes());
    };
    let node = shipped("hub", &[("ROOM", ANY)]);
    let (one, mut other) = (connect(node.address()), connect(node.address()));
    node.nth_event("new_connection", 1);
    other.write_all(b"good morning\n").unwrap();
    hears(&one, "good morning\n");
    drop((one, other));
    assert_eq!(node.stop().0, 0);

    let node = shipped("publish", &[("SENSORS", ANY), ("VIEWERS", ANY)]);
    let viewer = connect(address_of(&node, "viewers"));
    node.event("new_connection");
    connect(address_of(&node, "sensors")).write_all(b"20.5\n").unwrap();
    hears(&viewer, "20.5\r\n");
    drop(viewer);
    assert_eq!(node.stop().0, 0);

    let node = shipped("bridge", &[("USERS", ANY), ("SERVERS", ANY)]);
    let (one, mut other) = (connect(address_of(&node, "users")), connect(address_of(&node, "servers")));
    other.write_all(b"220 ready\r\n").unwrap();
    hears(&one, "220 ready\r\n");
    drop((one, other));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn sensors_reach_the_second_server_while_the_first_is_away_and_the_first_again() {
    let ((first, a), (second, b)) = (listener(), listener());
    let node = shipped("failover", &[("SENSORS", ANY), ("FIRST", a), ("SECOND", b)]);
    let mut sensor = connect(node.address());
    drop((accept_one(&first), first));
    sensor.write_all(b"20.5\n").unwrap();
    // A check comes and goes.
    let hears = |server: &TcpListener, expected: &[u8; 5]| loop {
        let (mut stream, mut line) = (accept_one(server), [0; 5]);
        if stream.read_exact(&mut line).is_ok() {
            assert_eq!(&line, expected);
            return stream;
        }
    };
    let server = hears(&second, b"20.5\n");
    // And again the first, once that has been well for a while.
    let first = TcpListener::bind(a).unwrap();
    assert_eq!(node.nth_event("target_changed", 1)["to"], "first");
    sensor.write_all(b"21.0\n").unwrap();
    let again = hears(&first, b"21.0\n");
    drop((server, again, sensor));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn devices_are_collected_by_their_names_and_answered_by_them() {
    let (upstream, server) = listener();
    let node = shipped("collect", &[("DEVICES", ANY), ("SERVER", server)]);
    let mut server = accept_one(&upstream);
    let mut pump = connect(node.address());
    pump.write_all(b"id=pump7\n21.5\n").unwrap();
    let mut text = [0; 11];
    server.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"pump7 21.5\n");
    server.write_all(b"pump7 stop\npump8 stop\n").unwrap();
    let mut text = [0; 5];
    pump.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"stop\n");
    let mut text = [0; 18];
    server.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"pump8 is not here\n");
    drop((pump, server));
    node.client_gone(0);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn live_tries_every_bind_name_and_target_and_sends_nothing() {
    let ((upstream, target), (_kept, away)) = (listener(), hold_free_port());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let config = |bind: SocketAddr, to: &str| {
        let text = format!(
            "[listen.a]\nbind = \"{bind}\"\n[client.b]\nto = \"{to}\"\n[relay.r]\nfrom = \"a\"\nto = \"b\"\n"
        );
        fs::write(&file, text).unwrap();
        let out = run(Command::new(binary()).args(["check", "--live"]).arg(&file), &[]);
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, text) = config(ANY, &target.to_string());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ok      listen.a: can listen on 127.0.0.1:"), "{text}");
    assert!(text.contains(&format!("ok      client.b: {target} answers")), "{text}");
    let mut tried: TcpStream = accept_one(&upstream);
    assert_eq!(tried.read(&mut [0]).unwrap(), 0, "nothing is sent, and it is closed cleanly");

    let (code, text) = config(target, &away.to_string());
    assert_eq!((code, text.matches("FAILED").count()), (Some(1), 2), "{text}");
    assert!(text.contains("refused the connection") && text.contains("pid "), "{text}");
    let (code, text) = config(ANY, "nosuchhost.invalid:1");
    assert_eq!(code, Some(1));
    assert!(text.contains("FAILED  client.b: cannot connect: cannot resolve"), "{text}");
}

/// Every key of the schema: table, name, description, default.
fn keys() -> Vec<(String, String, String, Option<Value>)> {
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut keys = Vec::new();
    for table in
        ["node", "listen", "client", "relay", "tls", "discovery", "timer", "script", "connect", "step"]
    {
        let of = &schema["properties"][table];
        let of = match table {
            "node" => of,
            "connect" | "step" => &of["items"],
            _ => &of["patternProperties"]["^[a-z][a-z0-9_]*$"],
        };
        for (name, key) in of["properties"].as_object().unwrap() {
            let about = key["description"].as_str().unwrap().to_owned();
            keys.push((table.to_owned(), name.clone(), about, key.get("default").cloned()));
        }
    }
    assert!(keys.len() > 20);
    keys
}

/// `UPDATE=1 cargo test` writes it anew.
#[test]
fn the_reference_file_has_every_key_at_its_default() {
    let arguments = ["--listen", "127.0.0.1:9000", "--connect", "127.0.0.1:9001", "--print-config"];
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("x.toml");
    fs::write(
        &short,
        printed(&arguments)
            .replace("listen1", "front")
            .replace("connect1", "back")
            .replace("relay.relay", "relay.link")
            + "[discovery.lan]\nbind = \"4000\"\nfor = \"front\"\nnetworks = [\"127.0.0.0/8\"]\n\
               [timer.heartbeat]\nevery = \"30s\"\n[[connect]]\nsignal = \"heartbeat.timeout\"\n\
               slot = \"log.info\"\n[script.count]\ntarget = \"heartbeat\"\n\
               code = \"function on_timeout(n) log.info(n) end\"\n[[step]]\nwait = \"heartbeat.timeout\"\nwithin = \"1m\"\n",
    )
    .unwrap();
    let keys = keys();
    let mut text = String::from("# Every key there is, at its default; those without one are examples.\n");
    text.push_str("# In brackets: when a changed value takes effect at a reload.\n\n");
    let mut table = String::new();
    for line in printed(&["check", "--show", short.to_str().unwrap()]).lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_start_matches('[').split(['.', ']']).next().unwrap().to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let (_, _, about, default) = keys
                .iter()
                .find(|(of, key, ..)| *of == table && key == name)
                .unwrap_or_else(|| panic!("{line}"));
            let given: Value = serde_json::from_str(value).unwrap();
            // A pair needs a target, a timer a time, a script a text and a step something to do, so examples stand
            // for their absence.
            let is_example = matches!(name, "to" | "every" | "wait" | "within" | "code" | "target");
            assert!(is_example || default.as_ref().is_none_or(|default| *default == given), "{line}");
            text.push_str(&format!("# {about}\n"));
        }
        text.push_str(&format!("{line}\n"));
    }
    // Named by nobody it would be a fault.
    text.push_str("\n# [tls.own]  for tls = \"own\" in a listener or client\n");
    for (_, name, about, default) in keys.iter().filter(|(table, ..)| *table == "tls") {
        text.push_str(&format!("# {about}\n#{name} = {}\n", default.as_ref().unwrap()));
    }
    let path = root().join("config/reference.toml");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "config/reference.toml is out of date");
    for (table, name, ..) in &keys {
        assert!(
            text.contains(&format!("\n{name} = ")) || text.contains(&format!("\n#{name} = ")),
            "{table}.{name}"
        );
    }
}

#[test]
fn the_page_on_configs_names_every_key_and_when_a_change_takes_effect() {
    let page = signal_node::guide::PAGES.iter().find(|page| page.topic == "config").unwrap().text;
    // Those of scripts have a page of their own.
    for (table, name, about, default) in keys().into_iter().filter(|(table, ..)| table != "script") {
        let section = page
            .split("\n## ")
            .find(|section| section.trim_start_matches(['`', '[']).starts_with(table.as_str()))
            .unwrap();
        let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let row = rows.iter().find(|row| row.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("{table}.{name} is not in the page"));
        let reload = about.rsplit_once("(at a reload: ").unwrap().1.trim_end_matches(')');
        assert!(row.ends_with(&format!("| {reload} |")), "{row} does not end with {reload}");
        if let Some(default) = default {
            assert!(row.contains(&format!("`{default}`")), "{row} does not say {default}");
        }
    }
}

#[test]
fn a_library_user_reads_a_file_and_is_told_what_is_wrong() {
    let faults =
        parse("[listen.a]\nbind = \"127.0.0.1:0\"\n[relay.r]\nfrom = \"b\"\nmode = \"echo\"\n").unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("x.toml:4:8: relay.r.from: no listener is called `b`"), "{faults:?}");
}

fn valid() -> String {
    SHIPPED.map(|name| fs::read_to_string(root().join(format!("config/{name}.toml"))).unwrap()).join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever it is, it is a config or a list of faults with places.
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\PC|[\\n\"'\\[\\]{}=.$#\\\\,]|\\[listen\\.a\\]|bind|from|= \"9000\"|\\$\\{){0,60}") {
        if let Err(faults) = parse(&text) {
            prop_assert!(faults.iter().all(|fault| fault.starts_with("x.toml:")), "{:?}", faults);
        }
    }

    #[test]
    fn no_mutation_of_a_valid_file_makes_the_reader_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[\\PC\\n\"\\[\\]{}=.$]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = valid().chars().collect();
        for (at, length, insert) in cuts {
            let at = at.index(text.len());
            text.splice(at..(at + length).min(text.len()), insert.chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(config) => {
                let again = parse(&config.to_toml()).unwrap();
                prop_assert_eq!(again.to_toml(), config.to_toml());
                prop_assert_eq!(parse(&config.to_short_toml()).unwrap().to_toml(), config.to_toml());
            }
            Err(faults) => prop_assert!(!faults.is_empty()),
        }
    }

    #[test]
    fn no_bytes_make_the_program_fail_but_by_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        fs::write(&file, &bytes).unwrap();
        let error = Config::read(&[&file]).unwrap_err();
        prop_assert!(!error.faults.is_empty());
    }
}
