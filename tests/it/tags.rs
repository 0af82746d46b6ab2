//! Names of clients in mode collect, through the running program: what stands
//! before their messages, and how answers find them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use crate::support::{Ending, NodeProcess, accept_one, binary, connect, listener, read_all};

/// A node that collects lines for a target, with more lines for its relay; its connection to that; and the folder of its file.
fn collect(relay: &str) -> (NodeProcess, TcpListener, TcpStream, tempfile::TempDir) {
    let (upstream, target) = listener();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("collect.toml");
    std::fs::write(&file, text(target, relay)).unwrap();
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    let server = accept_one(&upstream);
    (node, upstream, server, folder)
}

fn text(target: SocketAddr, relay: &str) -> String {
    format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n[client.server]\nto = \"{target}\"\n\
         [relay.up]\nfrom = \"front\"\nto = \"server\"\nmode = \"collect\"\n{relay}\n"
    )
}

/// Byte by byte, so that nothing is taken away from the next reader.
fn line(mut stream: &TcpStream) -> String {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        match byte[0] {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

fn say(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

const TAGGED: &str = "reply = \"tagged\"\ntag = \"{name} \"\n";

#[test]
fn answers_go_to_the_client_whose_address_stands_before_them_and_to_no_other() {
    let (node, _upstream, server, _folder) = collect(TAGGED);
    let clients = [connect(node.address()), connect(node.address()), connect(node.address())];
    for (nth, client) in clients.iter().enumerate() {
        say(client, &format!("question {nth}\nand {nth}\n"));
        let name = client.local_addr().unwrap();
        assert_eq!(line(&server), format!("{name} question {nth}"));
        assert_eq!(line(&server), format!("{name} and {nth}"));
    }
    // In another order, and some of them at once.
    let names = clients.each_ref().map(|client| client.local_addr().unwrap());
    say(&server, &format!("{} c\n{} a\n{} aa\n{} cc\n", names[2], names[0], names[0], names[2]));
    assert_eq!((line(&clients[0]), line(&clients[0])), ("a".into(), "aa".into()));
    assert_eq!((line(&clients[2]), line(&clients[2])), ("c".into(), "cc".into()));
    for client in clients {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client), (vec![], Ending::Fin));
    }
    node.client_gone(2);
    say(&server, &format!("{} too late\nnobody\n", names[1]));
    let lost = node.event("frames_dropped");
    assert_eq!((&lost["cause"], &lost["endpoint"]), (&"unknown".into(), &"server".into()));
    let (_, log) = node.stop();
    let last = log.iter().rfind(|line| line.contains("frames_dropped")).unwrap();
    assert!(last.contains("\"frames\":2"), "{last}");
}

#[test]
fn a_name_is_found_in_the_first_message_and_is_one_clients_only() {
    for (name_frame, first) in [("pass", "pump7 id=pump7"), ("consume", "pump7 one")] {
        let relay = format!("{TAGGED}name = \"^id=([a-z0-9]+)$\"\nname_frame = \"{name_frame}\"");
        let (node, _upstream, server, _folder) = collect(&relay);
        let pump = connect(node.address());
        say(&pump, "id=pump7\none\ntwo\n");
        assert_eq!(line(&server), first);
        if name_frame == "pass" {
            assert_eq!(line(&server), "pump7 one");
        }
        assert_eq!(line(&server), "pump7 two");
        let (second, nameless) = (connect(node.address()), connect(node.address()));
        say(&second, "id=pump7\nmine\n");
        say(&nameless, "hello\n");
        for client in [&second, &nameless] {
            assert_eq!(read_all(client), (vec![], Ending::Reset));
        }
        for nth in 0..2 {
            assert_eq!(node.client_gone(nth)["reason"], "unnamed");
        }
        let said = [node.nth_event("error_occurred", 0), node.nth_event("error_occurred", 1)];
        assert!(
            said.iter().any(|event| event["error"] == "there is a client called pump7 already"),
            "{said:?}"
        );
        assert!(said.iter().any(|event| event["error"] == "there is no name in its first message"));
        say(&server, "pump7 still you\n");
        assert_eq!(line(&pump), "still you");
        drop(pump);
        node.client_gone(2);
        // Its name is free again.
        let pump = connect(node.address());
        say(&pump, "id=pump7\nback\n");
        if name_frame == "pass" {
            assert_eq!(line(&server), "pump7 id=pump7");
        }
        assert_eq!(line(&server), "pump7 back");
    }
}

#[test]
fn an_answer_for_somebody_unknown_is_answered_or_ends_the_connection_as_was_chosen() {
    let (node, _upstream, server, _folder) =
        collect(&format!("{TAGGED}unknown = \"reply:{{name}} is not here\""));
    say(&server, "pump9 start\n");
    assert_eq!(line(&server), "pump9 is not here");
    // One that says the same back is not told again.
    say(&server, "pump9 is not here\n");
    let client = connect(node.address());
    say(&client, "next\n");
    assert_eq!(line(&server), format!("{} next", client.local_addr().unwrap()));
    drop(node);

    let (node, upstream, server, _folder) = collect(&format!("{TAGGED}unknown = \"close\""));
    let client = connect(node.address());
    say(&client, "before\n");
    line(&server);
    say(&server, &format!("{} yes\nnobody no\n", client.local_addr().unwrap()));
    assert_eq!(line(&client), "yes");
    assert_eq!(read_all(&server).1, Ending::Reset);
    let error = node.event("error_occurred");
    assert_eq!(error["error"], "an answer is for \"nobody\", and nobody is called so");
    let server = accept_one(&upstream);
    say(&client, "after\n");
    assert_eq!(line(&server), format!("{} after", client.local_addr().unwrap()));
}

#[test]
fn a_tag_goes_with_answers_to_all_and_two_framings_and_what_does_not_fit_is_refused() {
    let (node, _upstream, server, _folder) = collect("tag = \"[{name}]: \"");
    let (one, two) = (connect(node.address()), connect(node.address()));
    say(&one, "x\n");
    let tagged = format!("[{}]: x", one.local_addr().unwrap());
    assert_eq!(line(&server), tagged);
    node.nth_event("new_connection", 1);
    say(&server, "for all\n");
    assert_eq!((line(&one), line(&two)), ("for all".into(), "for all".into()));
}
