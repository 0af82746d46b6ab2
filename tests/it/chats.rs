//! The chats of `config/`, as `node example` writes them: raw clients against
//! their servers, and terminals that are nodes with the shipped client files.

use std::fs;
use std::net::Shutdown;
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use crate::support::{Liner, NodeProcess, Plant, System, Terminal, hold_free_port, needs, root, run};

const ANY: (&str, &str) = ("CHAT", "127.0.0.1:0");

/// Somebody who has entered the room, and has heard so.
fn user(node: &NodeProcess, name: &str) -> Liner {
    let mut user = Liner::to(node.address());
    assert_eq!(user.hears(), "Your name?");
    assert_eq!(user.asks(name), format!("Welcome, {name}"));
    user
}

#[test]
fn the_room_checks_names_and_says_who_comes_goes_and_is_here() {
    let room = System::new("chat");
    let node = room.run("chat.toml", &[ANY]);
    let mut ann = user(&node, "ann");
    assert_eq!([ann.hears(), ann.hears()], ["* 1 here: ann", "* ann has joined; 1 here"]);
    let mut bob = Liner::to(node.address());
    assert_eq!(bob.hears(), "Your name?");
    let long = "x".repeat(21);
    let bad = [
        ("", "! a name has at least one letter; your name?"),
        ("  \t ", "! a name has at least one letter; your name?"),
        (&long, "! a name has at most 20 bytes; your name?"),
        ("b\u{1b}[2Jb", "! a name has no control characters; your name?"),
        ("b\u{9b}2J", "! a name has no control characters; your name?"),
        ("b b", "! a name has no spaces, and no / in front; your name?"),
        ("ann", "! ann is taken; your name?"),
        ("ANN", "! ANN is taken; your name?"),
    ];
    for (name, answer) in bad {
        assert_eq!(bob.asks(name), answer);
    }
    // Nobody has heard anything of that, nor does he hear before he has a name.
    assert_eq!(ann.asks("alone?"), "ann: alone?");
    assert_eq!(bob.asks("bób"), "Welcome, bób");
    assert_eq!(bob.hears(), "(before) ann: alone?");
    assert_eq!([bob.hears(), bob.hears()], ["* 2 here: ann, bób", "* bób has joined; 2 here"]);
    assert_eq!(ann.hears(), "* bób has joined; 2 here");
    assert_eq!(ann.asks("/list\r"), "* 2 here: ann, bób");

    assert_eq!(bob.asks("\u{1b}[31mgrüße\ttab"), "bób:  [31mgrüße tab");
    assert_eq!(ann.hears(), "bób:  [31mgrüße tab");
    assert_eq!(bob.asks("/msg ANN only you"), "to ann (private): only you");
    assert_eq!(ann.hears(), "bób (private): only you");
    assert_eq!(bob.asks("/msg cid hello"), "! cid is not here");
    assert_eq!(bob.asks("/dance"), "! commands: /list, /msg NAME TEXT, /quit");
    assert_eq!(bob.asks(&"x".repeat(1001)), "! not sent: a line has at most 1000 bytes");
    bob.says("/quit");
    assert!(bob.rest().is_empty());
    assert_eq!(ann.hears(), "* bób has left; 1 here");
    // What was said to one is no history.
    let cid = user(&node, "bób");
    assert_eq!([cid.hears(), cid.hears()], ["(before) ann: alone?", "(before) bób:  [31mgrüße tab"]);
    assert_eq!(cid.hears(), "* 2 here: ann, bób");
    drop((ann, cid));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_newcomer_gets_the_last_lines_and_no_more() {
    let room = System::new("chat");
    room.edit("chat.toml", "history = 20", "history = 3");
    let node = room.run("chat.toml", &[ANY]);
    let mut ann = user(&node, "ann");
    for nth in 0..10 {
        ann.says(&format!("line {nth}"));
    }
    ann.awaits("ann: line 9");
    let bob = user(&node, "bob");
    for nth in 7..10 {
        assert_eq!(bob.hears(), format!("(before) ann: line {nth}"));
    }
    assert_eq!(bob.hears(), "* 2 here: ann, bob");
    drop((ann, bob));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_room_closes_with_its_last_user_and_never_before_the_first() {
    let room = System::new("chat");
    room.edit("chat.toml", "close_when_empty = false", "close_when_empty = true");
    let node = room.run("chat.toml", &[ANY]);
    // One who has come and gone without a name was no user.
    let mut nobody = Liner::to(node.address());
    assert!(nobody.asks("").starts_with("Your name?"));
    nobody.stream.shutdown(Shutdown::Write).unwrap();
    nobody.rest();
    node.client_gone(0);
    let ann = user(&node, "ann");
    let bob = user(&node, "bob");
    drop(ann);
    bob.awaits("* ann has left; 1 here");
    drop(bob);
    let (code, lines) = node.wait();
    assert_eq!(code, 0, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("the last user has left")));
}

#[test]
fn two_hundred_talk_at_once_and_all_hear_all_in_one_order() {
    if !needs(&["python3"]) {
        return;
    }
    let room = System::new("chat");
    let node = room.run("chat.toml", &[ANY]);
    let crowd = root().join("tests/it/support/crowd.py");
    let mut command = Command::new("python3");
    command.arg(crowd).arg(node.address().port().to_string()).args(["200", "3"]);
    let out = run(&mut command, &[]);
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert_eq!(said.trim(), "200 have heard 600 lines each");
    let (code, lines) = node.stop();
    assert_eq!(code, 0);
    assert!(
        !lines.iter().any(|line| line.contains("\"WARN\"") || line.contains("slow_consumer")),
        "{lines:?}"
    );
}

/// A terminal that has entered the room.
fn terminal(room: &System, address: (&str, &str), name: &str) -> Terminal {
    let mut terminal = room.terminal("chat-client.toml", &[address]);
    terminal.awaits("Your name?");
    terminal.types(name);
    terminal.awaits(&format!("Welcome, {name}"));
    terminal
}

#[test]
fn terminals_chat_and_come_back_under_their_names_when_the_server_does() {
    let room = System::new("chat");
    let (_held, address) = hold_free_port();
    let address = address.to_string();
    let address = ("CHAT", address.as_str());
    let node = room.run("chat.toml", &[address]);
    node.event("listening");
    let mut ann = terminal(&room, address, "ann");
    let mut bob = terminal(&room, address, "bob");
    ann.awaits("* bob has joined; 2 here");
    ann.types("hello");
    bob.awaits("ann: hello");
    bob.types("/msg ann hello you");
    ann.awaits("bob (private): hello you");
    // The server goes and comes; what was typed meanwhile is not lost.
    assert_eq!(node.stop().0, 0);
    ann.awaits("* the server is gone; trying again");
    bob.awaits("* the server is gone; trying again");
    ann.types("still there?");
    let node = room.run("chat.toml", &[address]);
    ann.awaits("Welcome, ann");
    ann.awaits("ann: still there?");
    bob.awaits("Welcome, bob");
    bob.types("yes");
    ann.awaits("bob: yes");
    let (code, _) = bob.finishes();
    assert_eq!(code, 0);
    ann.awaits("* bob has left; 1 here");
    assert_eq!(ann.finishes().0, 0);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_client_that_quits_ends_and_one_without_a_server_says_so_once() {
    let room = System::new("chat");
    let node = room.run("chat.toml", &[ANY]);
    let at = node.address().to_string();
    let witness = user(&node, "bob");
    let mut ann = terminal(&room, ("CHAT", at.as_str()), "ann");
    witness.awaits("* ann has joined; 2 here");
    ann.types("bye");
    ann.types("/quit");
    let (code, shown) = ann.ends();
    assert_eq!((code, shown.last().map(String::as_str)), (0, Some("ann: bye")), "{shown:?}");
    witness.awaits("* ann has left; 1 here");
    // Before there is a name, too.
    let mut cid = room.terminal("chat-client.toml", &[("CHAT", at.as_str())]);
    cid.awaits("Your name?");
    cid.types("/quit");
    assert_eq!(cid.ends(), (0, vec![]));
    drop(witness);
    assert_eq!(node.stop().0, 0);

    let (_held, away) = hold_free_port();
    let away = away.to_string();
    let alone = |config: &str, room: &System, line: Option<&str>| {
        let mut dan = room.terminal(config, &[("CHAT", away.as_str())]);
        assert_eq!(dan.shows(), format!("* {away} refused the connection; trying again"));
        for _ in 0..2 {
            dan.node.event("connect_failed");
        }
        match line {
            Some(line) => {
                dan.types(line);
                dan.ends()
            }
            None => dan.finishes(),
        }
    };
    assert_eq!(alone("chat-client.toml", &room, Some("/quit")), (0, vec![]));
    assert_eq!(alone("chat-login-client.toml", &System::new("chat-login"), None), (0, vec![]));
}

#[test]
fn a_room_loaded_anew_asks_for_names_and_the_client_says_its_own() {
    let room = System::new("chat");
    let node = room.run("chat.toml", &[ANY]);
    let address = node.address().to_string();
    let mut ann = terminal(&room, ("CHAT", address.as_str()), "ann");
    ann.awaits("* ann has joined; 1 here");
    room.edit("chat.luau", "has joined;", "is back;");
    node.signal(Signal::HUP);
    node.line("script.chat");
    // Until the new one is in its place the old one answers.
    loop {
        ann.types("hello");
        match &*ann.shows() {
            "ann: hello" => {}
            answer => break assert_eq!(answer, "! not said: the room was made anew"),
        }
    }
    ann.awaits("Welcome, ann");
    ann.awaits("* ann is back; 1 here");
    assert_eq!(ann.finishes().0, 0);
    assert_eq!(node.stop().0, 0);
}

/// A chat with login whose users have their names as passwords, spelt twice.
fn login_chat(users: &[&str]) -> System {
    let chat = System::new("chat-login");
    for name in users {
        let mut command = Command::new(crate::support::binary());
        command.arg("passwd").arg(chat.path("users")).arg(name);
        assert!(run(&mut command, format!("{name}{name}\n").as_bytes()).status.success());
    }
    chat
}

fn logged_in(node: &NodeProcess, name: &str) -> Liner {
    let mut user = Liner::to(node.address());
    assert_eq!(user.asks(&format!("LOGIN {name} {name}{name}\r")), format!("OK LOGIN {name}"));
    user
}

/// Two who talk to each other.
fn talking(node: &NodeProcess) -> (Liner, Liner) {
    let (mut ann, mut bob) = (logged_in(node, "ann"), logged_in(node, "bob"));
    assert_eq!(ann.asks("CHAT bob"), "OK CHAT bob");
    assert_eq!(bob.hears(), "REQUEST ann");
    assert_eq!(bob.asks("ACCEPT ann"), "OK ACCEPT ann");
    assert_eq!(ann.hears(), "ACCEPTED bob");
    (ann, bob)
}

#[test]
fn only_users_log_in_once_and_before_anything_else() {
    let chat = login_chat(&["ann", "käthe-1"]);
    let node = chat.run("chat-login.toml", &[ANY]);
    let mut ann = Liner::to(node.address());
    let first = "ERROR log in first; write LOGIN NAME PASSWORD";
    for line in ["MSG 1 hello", "CHAT bob", "END", "hello", ""] {
        assert_eq!(ann.asks(line), first);
    }
    assert_eq!(ann.asks("LOGIN ann"), "REFUSED LOGIN write LOGIN NAME PASSWORD");
    let wrong = "REFUSED LOGIN unknown name or wrong password";
    assert_eq!(ann.asks("LOGIN ann annan"), wrong);
    assert_eq!(ann.asks("LOGIN bob bobbob"), wrong);
    assert_eq!(ann.asks("LOGIN ann annann"), "OK LOGIN ann");
    assert_eq!(ann.asks("LOGIN ann annann"), "REFUSED LOGIN you are ann");
    let mut other = Liner::to(node.address());
    assert_eq!(other.asks("LOGIN ann annann"), "REFUSED LOGIN ann is online already");
    // Whoever guesses is closed.
    for _ in 0..3 {
        assert_eq!(other.asks("LOGIN ann x"), wrong);
    }
    assert!(other.rest().is_empty());
    // The file counts at once, and a name is free when its user has gone.
    ann.says("END");
    assert_eq!(ann.rest(), ["BYE"]);
    let mut ann = logged_in(&node, "ann");
    assert_eq!(ann.asks("WHO"), "ERROR there are LOGIN, CHAT, ACCEPT, REFUSE, MSG, ACK, END");
    // Whatever name can be entered can log in.
    drop((ann, logged_in(&node, "käthe-1")));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_chat_is_asked_for_accepted_or_refused() {
    let chat = login_chat(&["ann", "bob", "cid"]);
    let node = chat.run("chat-login.toml", &[ANY]);
    let mut ann = logged_in(&node, "ann");
    assert_eq!(ann.asks("CHAT bob"), "REFUSED CHAT bob is not online");
    assert_eq!(ann.asks("CHAT nobody"), "REFUSED CHAT nobody is not online");
    assert_eq!(ann.asks("CHAT ann"), "REFUSED CHAT ann that is you");
    assert_eq!(ann.asks("MSG 1 hello"), "ERROR MSG 1: you are talking to nobody; write CHAT NAME");
    let mut bob = logged_in(&node, "bob");
    assert_eq!(bob.asks("ACCEPT ann"), "ERROR ACCEPT: ann does not ask you");
    assert_eq!(ann.asks("CHAT bob"), "OK CHAT bob");
    assert_eq!(bob.hears(), "REQUEST ann");
    assert_eq!(ann.asks("CHAT bob"), "REFUSED CHAT bob you have asked bob");
    assert_eq!(bob.asks("REFUSE ann"), "OK REFUSE ann");
    assert_eq!(ann.hears(), "REFUSED CHAT bob does not want to");
    // Each asks the other.
    assert_eq!(ann.asks("CHAT bob"), "OK CHAT bob");
    assert_eq!(bob.hears(), "REQUEST ann");
    assert_eq!(bob.asks("CHAT ann"), "ACCEPTED ann");
    assert_eq!(ann.hears(), "ACCEPTED bob");
    let mut cid = logged_in(&node, "cid");
    assert_eq!(cid.asks("CHAT bob"), "REFUSED CHAT bob is talking to somebody else");
    assert_eq!(ann.asks("CHAT cid"), "REFUSED CHAT cid you are talking to bob");
    // One who is lost without a word.
    drop(ann);
    assert_eq!(bob.hears(), "GONE ann");
    assert_eq!(cid.asks("CHAT bob"), "OK CHAT bob");
    assert_eq!(bob.hears(), "REQUEST cid");
    drop(bob);
    assert_eq!(cid.hears(), "REFUSED CHAT bob has left");
    drop(cid);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn each_message_is_acknowledged_before_the_next_one_goes() {
    let chat = login_chat(&["ann", "bob"]);
    let node = chat.run("chat-login.toml", &[ANY]);
    let (mut ann, mut bob) = talking(&node);
    ann.says("MSG 1 one\nMSG 2 two: ä\nMSG x3 three");
    assert_eq!(bob.hears(), "MSG 1 ann one");
    // The next does not come before; an acknowledgement of something else is none.
    bob.says("ACK 2");
    assert_eq!(bob.asks("CHAT ann"), "REFUSED CHAT ann you are talking to ann");
    bob.says("ACK 1");
    assert_eq!(ann.hears(), "DELIVERED 1");
    assert_eq!(bob.hears(), "MSG 2 ann two: ä");
    // Both ways at once.
    bob.says("MSG 1 back");
    assert_eq!(ann.hears(), "MSG 1 bob back");
    bob.says("ACK 2");
    assert_eq!(ann.hears(), "DELIVERED 2");
    assert_eq!(bob.hears(), "MSG x3 ann three");
    ann.says("ACK 1");
    assert_eq!(bob.hears(), "DELIVERED 1");
    // The server closes who ends it, and tells the other.
    ann.says("END");
    assert_eq!(ann.rest(), ["UNDELIVERED x3", "BYE"]);
    assert_eq!(bob.hears(), "ENDED ann");
    drop(bob);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn what_nobody_acknowledges_is_undelivered_and_the_next_one_goes() {
    let chat = login_chat(&["ann", "bob"]);
    chat.edit("chat-login.toml", "ack_timeout = 5 ", "ack_timeout = 0.3 ");
    let node = chat.run("chat-login.toml", &[ANY]);
    let (mut ann, mut bob) = talking(&node);
    ann.says("MSG 1 one\nMSG 2 two\nMSG 3 three");
    assert_eq!(bob.hears(), "MSG 1 ann one");
    assert_eq!(ann.hears(), "UNDELIVERED 1");
    assert_eq!(bob.hears(), "MSG 2 ann two");
    bob.says("ACK 1\nACK 2");
    assert_eq!(ann.hears(), "DELIVERED 2");
    assert_eq!(bob.hears(), "MSG 3 ann three");
    // Nor what its receiver took with it.
    drop(bob);
    assert_eq!([ann.hears(), ann.hears()], ["UNDELIVERED 3", "GONE bob"]);
    drop(ann);
    assert_eq!(node.stop().0, 0);
}

/// Python's TLS for one user, the shipped client for the other.
#[test]
fn with_tls_the_chat_is_the_same_and_who_speaks_in_clear_is_not_heard() {
    if !needs(&["python3"]) {
        return;
    }
    let chat = login_chat(&["ann", "bob"]);
    let plant = Plant::new();
    for file in ["chat-login.toml", "chat-login-client.toml"] {
        let text = fs::read_to_string(chat.path(file)).unwrap();
        let uncommented: Vec<_> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => rest.replace("certs/", &plant.path("")),
                _ => line.to_owned(),
            })
            .collect();
        fs::write(chat.path(file), uncommented.join("\n")).unwrap();
    }
    let node = chat.run("chat-login.toml", &[ANY]);
    let address = node.address();
    let mut clear = Liner::to(address);
    clear.says("LOGIN ann annann");
    assert!(!clear.rest().iter().any(|line| line.contains("LOGIN")));
    let at = address.to_string();
    let mut bob = chat.terminal("chat-login-client.toml", &[("CHAT", at.as_str())]);
    bob.awaits("* type: login NAME PASSWORD, then: chat NAME, yes, no, /end, or what is to be said");
    bob.types("login bob bobbob");
    bob.awaits("* you are bob; type: chat NAME");
    let code = "import socket, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        raw = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)\n\
        tls = context.wrap_socket(raw, server_hostname='localhost').makefile('rw', newline='\\n')\n\
        def ask(line):\n tls.write(line + '\\n'); tls.flush(); return tls.readline().strip()\n\
        heard = [ask('LOGIN ann annann'), ask('CHAT bob'), tls.readline().strip(), ask('MSG 1 hello'), ask('END')]\n\
        print(heard)";
    let python = thread::spawn(move || {
        let mut command = Command::new("python3");
        command.args(["-c", code, &address.port().to_string()]).arg(plant.path("ca.pem"));
        run(&mut command, &[])
    });
    bob.awaits("* ann wants to talk to you: yes or no?");
    bob.types("yes");
    bob.awaits("ann: hello");
    bob.awaits("* ann has ended the chat");
    let out = python.join().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    let expected = "['OK LOGIN ann', 'OK CHAT bob', 'ACCEPTED bob', 'DELIVERED 1', 'BYE']";
    assert_eq!(said.trim(), expected);
    assert_eq!(bob.ends().0, 0);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn two_terminals_log_in_talk_and_end_together() {
    let chat = login_chat(&["ann", "bob"]);
    let (_held, address) = hold_free_port();
    let address = address.to_string();
    let address = ("CHAT", address.as_str());
    let node = chat.run("chat-login.toml", &[address]);
    node.event("listening");
    let help = "* type: login NAME PASSWORD, then: chat NAME, yes, no, /end, or what is to be said";
    let mut ann = chat.terminal("chat-login-client.toml", &[address]);
    let mut bob = chat.terminal("chat-login-client.toml", &[address]);
    ann.awaits(help);
    bob.awaits(help);
    ann.types("login ann wrong");
    assert_eq!(ann.shows(), "! not logged in: unknown name or wrong password");
    // The server is started anew before they have talked.
    assert_eq!(node.stop().0, 0);
    for one in [&ann, &bob] {
        assert_eq!(one.shows(), "* the server is gone; trying again");
    }
    let node = chat.run("chat-login.toml", &[address]);
    ann.awaits(help);
    bob.awaits(help);
    ann.types("login ann annann");
    assert_eq!(ann.shows(), "* you are ann; type: chat NAME");
    bob.types("login bob bobbob");
    assert_eq!(bob.shows(), "* you are bob; type: chat NAME");
    ann.types("chat bob");
    assert_eq!(ann.shows(), "* bob is asked");
    assert_eq!(bob.shows(), "* ann wants to talk to you: yes or no?");
    bob.types("yes");
    assert_eq!(bob.shows(), "* you are talking to ann; /end ends it");
    assert_eq!(ann.shows(), "* bob has accepted; /end ends it");
    for nth in 1..=3 {
        ann.types(&format!("number {nth}"));
        assert_eq!(bob.shows(), format!("ann: number {nth}"));
        assert_eq!(ann.shows(), format!("* delivered {nth}"));
    }
    bob.types("bye");
    assert_eq!(ann.shows(), "bob: bye");
    assert_eq!(bob.shows(), "* delivered 1");
    bob.types("/end");
    // Neither types anything more, and both end.
    assert_eq!(ann.ends(), (0, vec!["* bob has ended the chat".into()]));
    assert_eq!(bob.ends(), (0, vec!["* the chat is over".into()]));
    assert_eq!(node.stop().0, 0);
}

/// A person at a real terminal, who types a name and a line, and then ^D.
#[test]
fn a_person_at_a_terminal_chats() {
    if !needs(&["python3"]) {
        return;
    }
    let room = System::new("chat");
    let node = room.run("chat.toml", &[ANY]);
    let person = root().join("tests/it/support/person.py");
    let mut command = Command::new("python3");
    command.arg(person).arg(crate::support::binary()).arg(room.path("chat-client.toml"));
    command.env("CHAT", node.address().to_string());
    let out = run(&mut command, b"");
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), &*said), (Some(0), ""));
    assert_eq!(node.stop().0, 0);
}
