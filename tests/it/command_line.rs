//! What cannot be meant: one clear line each, exit 2, nothing opened. The
//! lines themselves are in `tests/fixtures/command_line.txt`.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use crate::support::{binary, listener, root, run};

fn node(arguments: &[&str]) -> Output {
    run(Command::new(binary()).args(arguments).env_remove("SIGNAL_NODE_LOG"), &[])
}

fn stderr(out: &Output) -> String {
    String::from_utf8(out.stderr.clone()).unwrap()
}

/// Each `$ node …` of the file, and the lines it must print.
///
/// `UPDATE=1 cargo test` writes what the program prints now, to be read and judged.
#[test]
fn every_fault_is_one_line_that_says_where_what_and_what_to_try() {
    let path = root().join("tests/fixtures/command_line.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut printed = String::new();
    for case in text.split_inclusive("\n").filter(|line| line.starts_with("$ node") || line.starts_with('#'))
    {
        printed.push_str(case);
        if case.starts_with('#') {
            continue;
        }
        let arguments: Vec<_> =
            case.trim_end().split(' ').skip(2).map(|word| word.trim_matches('\'')).collect();
        let out = node(&arguments);
        assert_eq!(out.status.code(), Some(2), "{case}");
        assert!(out.stdout.is_empty(), "{case}");
        printed.push_str(&stderr(&out));
        printed.push('\n');
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::File::create(&path).unwrap().write_all(printed.as_bytes()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        printed == text,
        "tests/fixtures/command_line.txt says otherwise; the program printed:\n{printed}"
    );
    for line in text.lines().filter(|line| line.starts_with("error:")) {
        assert!(line.contains("; ") || line.contains("did you mean"), "nothing to try in: {line}");
    }
}

#[test]
fn control_characters_are_refused_and_shown_escaped() {
    let out = node(&["--listen", "90\n00\u{1b}[2J", "--connect", "echo:"]);
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(stderr(&out).lines().count(), 1);
    assert!(out.stderr.iter().all(|byte| *byte == b'\n' || *byte >= b' '), "{}", stderr(&out));
    let out = run(Command::new(binary()).arg(std::ffi::OsStr::from_bytes(b"--listen=\xff")), &[]);
    assert_eq!((out.status.code(), stderr(&out).lines().count()), (Some(2), 1));
}

#[test]
fn a_fault_opens_nothing_though_the_rest_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("s").display());
    let out = node(&["--listen", &socket, "--connect", "host:0"]);
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_port_in_use_names_its_holder_and_ends_with_1() {
    let (_held, address) = listener();
    let out = node(&["--listen", &address.to_string(), "--connect", "echo:"]);
    assert_eq!(out.status.code(), Some(1));
    let text = stderr(&out);
    assert!(
        text.starts_with(&format!("error: cannot listen on {address} for `listen1`\n  caused by: ")),
        "{text}"
    );
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    // Beside a free one: neither stays.
    let (free, _) = listener();
    let other = free.local_addr().unwrap().to_string();
    drop(free);
    let out = node(&["--listen", &other, "--listen", &address.to_string(), "--connect", "echo:"]);
    assert_eq!(out.status.code(), Some(1));
}

#[test]
fn an_option_of_tls_without_tls_is_named_as_it_was_typed() {
    let (dialled, bound) = ("--connect tls://ADDR", "--listen tls://ADDR");
    let either = format!("{bound} or {dialled}");
    for (option, example) in [
        ("--tls-cert", &*either),
        ("--tls-key", &either),
        ("--tls-ca", dialled),
        ("--tls-client-ca", bound),
        ("--tls-server-name", dialled),
    ] {
        let out = node(&["--listen", "9003", "--connect", "9001", option, "x"]);
        let expected = format!(
            "error: {option}: no address here speaks TLS; write tls:// before the address, as in {example}\n"
        );
        assert_eq!((out.status.code(), stderr(&out)), (Some(2), expected));
    }
}

#[test]
fn certificates_are_good_for_a_day_at_least() {
    let folder = tempfile::tempdir().unwrap();
    for days in ["0", "3651"] {
        let out = node(&["cert", folder.path().to_str().unwrap(), "a", "--days", days]);
        let expected = format!("error: cert: --days {days} is not possible; write 1 to 3650\n");
        assert_eq!((out.status.code(), stderr(&out)), (Some(2), expected));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}

#[test]
fn what_run_refuses_check_finds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let said = |verb: &[&str], text: &str| {
        std::fs::write(&file, text).unwrap();
        let out = run(Command::new(binary()).args(verb).arg(&file), &[]);
        assert_eq!(out.status.code(), Some(2), "{verb:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let ends = |to: &str| {
        format!(
            "[listen.a]\nbind = \"127.0.0.1:7007\"\n[client.b]\nto = \"{to}\"\n[relay.r]\nfrom = \"a\"\nto = \"b\"\n"
        )
    };
    let itself = "would connect to itself, since the node listens there; name another port";
    assert!(said(&["check"], &ends("localhost:7007")).contains(itself));
    // This name takes a resolver.
    let asked = said(&["check", "--live"], &ends("LOCALHOST:7007"));
    assert!(asked.contains(itself), "{asked}");
    assert_eq!(asked, said(&["run"], &ends("LOCALHOST:7007")));

    let tls = "[listen.a]\nbind = \"127.0.0.1:0\"\ntls = \"t\"\n[client.b]\nto = \"host:1\"\ntls = \"t\"\n\
               [relay.r]\nfrom = \"a\"\nto = \"b\"\n\
               [tls.t]\ncert = \"no.pem\"\nkey = \"no.key\"\nca = \"no-ca.pem\"\nclient_ca = \"no-client.pem\"\n";
    let refused = said(&["run"], tls);
    assert_eq!(refused.lines().count(), 4, "{refused}");
    assert_eq!(said(&["check"], tls), refused);
    assert_eq!(said(&["check", "--live"], tls), refused);
}

#[test]
fn an_address_of_another_machine_ends_with_1() {
    for arguments in [
        ["--listen", "192.0.2.1:9000", "--connect", "echo:"],
        ["--listen=127.0.0.1:0", "--connect=echo:", "--source", "192.0.2.1"],
    ] {
        let out = node(&arguments);
        assert_eq!(out.status.code(), Some(1));
        assert!(
            stderr(&out).contains("192.0.2.1") && stderr(&out).contains("try: an address of this machine")
        );
    }
}

#[test]
fn a_low_port_without_the_right_to_it_ends_with_1() {
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let may_drop = rustix::process::geteuid().is_root();
    if !may_drop || lowest.trim().parse::<u16>().unwrap() <= 80 {
        eprintln!("SKIPPED: needs root, and a system that guards low ports");
        return;
    }
    // Copied to where another user may run it.
    let folder = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let copy = folder.path().join("node");
    std::fs::copy(binary(), &copy).unwrap();
    let out =
        run(Command::new(&copy).args(["--listen", "80", "--connect", "echo:"]).uid(65_534).gid(65_534), &[]);
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    assert!(stderr(&out).contains("CAP_NET_BIND_SERVICE"), "{}", stderr(&out));
}

#[test]
fn a_name_that_leads_to_the_node_itself_is_refused() {
    let name = node(&["--listen", "9000", "--connect", "localhost:9000"]);
    assert_eq!(name.status.code(), Some(2));
    let other = node(&["--listen", "0.0.0.0:9000", "--connect", "127.9.9.9:9000"]);
    assert_eq!(other.status.code(), Some(2));
}
