//! TLS and PROXY headers under wires, scripts and steps: objects whose bytes
//! are wired speak them in both roles, and are told whom they speak with.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;

use crate::support::{
    Ending, NodeProcess, Plant, accept_one, binary, connect, hold_free_port, listener, needs, read_all,
};

/// A node that runs a config, which may name `{plant}`.
fn running(plant: &Plant, config: &str) -> NodeProcess {
    let file = plant.file("node.toml");
    fs::write(&file, config.replace("{plant}", plant.path("").trim_end_matches('/'))).unwrap();
    NodeProcess::spawn(Command::new(binary()).args(["run", "--log-format", "json"]).arg(&file))
}

/// `localhost` listens, and wants to see certificates.
const PLANT: &str = "[tls.plant]\ncert = \"{plant}/localhost.pem\"\nkey = \"{plant}/localhost.key\"\n\
                     client_ca = \"{plant}/ca.pem\"\n";
/// `device7` dials, and shows its own.
const DEVICE: &str = "[tls.device]\ncert = \"{plant}/device7.pem\"\nkey = \"{plant}/device7.key\"\n\
                      ca = \"{plant}/ca.pem\"\n";

#[test]
fn wires_answer_in_tls_and_know_the_name_in_the_certificate() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let node = running(
        &plant,
        &format!(
            "{PLANT}[listen.door]\nbind = \"127.0.0.1:0\"\ntls = \"plant\"\n\
             [[connect]]\nsignal = \"door.message_received\"\nslot = \"door.write\"\n\
             [[connect]]\nsignal = \"door.new_connection\"\nslot = \"log.info\"\n\
             args = {{ text = \"come: {{conn.tls_name}}, by <{{conn.via}}>\" }}\n\
             [[connect]]\nsignal = \"door.handshake_failed\"\nslot = \"log.info\"\n\
             args = {{ text = \"not come: {{error}}\" }}\n"
        ),
    );
    let out = plant.client(node.address(), "localhost", "device7", "talk");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hello TLSv1.3\nclosed\n");
    node.line("come: device7, by <>");
    assert!(!plant.client(node.address(), "localhost", "-", "talk").status.success());
    node.line("not come: it showed no certificate");
}

#[test]
fn a_wired_listener_believes_trusted_proxies_and_tells_wires_whom_they_announce() {
    let plant = Plant::new();
    let node = running(
        &plant,
        "[listen.door]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\naccept_proxy = true\ntrusted = [\"127.0.0.1\"]\n\
         [[connect]]\nsignal = \"door.message_received\"\nslot = \"door.write\"\n\
         args = { data = \"{data} of {conn.peer} by {conn.via}\" }\n",
    );
    let mut client = connect(node.address());
    let own = client.local_addr().unwrap();
    client.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\nhello\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let answer = format!("hello of 192.0.2.7:1234 by {own}\n").into_bytes();
    assert_eq!(read_all(&client), (answer, Ending::Fin));
}

#[test]
fn a_wired_client_dials_by_tls_behind_a_proxy_header() {
    let plant = Plant::new();
    let (upstream, target) = listener();
    // The far node takes both off again.
    let far = running(
        &plant,
        &format!(
            "{PLANT}[listen.far]\nbind = \"127.0.0.1:0\"\ntls = \"plant\"\naccept_proxy = true\n\
             trusted = [\"127.0.0.1\"]\n[client.up]\nto = \"{target}\"\n\
             [relay.r]\nfrom = \"far\"\nto = \"up\"\n"
        ),
    );
    let config = format!(
        "{DEVICE}[client.far]\nto = \"{}\"\nframing = \"lines\"\ntls = \"device\"\nsend_proxy = \"v2\"\n\
         [timer.once]\nafter = \"1ms\"\n\
         [[connect]]\nsignal = \"once.timeout\"\nslot = \"far.write\"\nargs = {{ data = \"alive {{n}}\" }}\n\
         [[connect]]\nsignal = \"far.message_received\"\nslot = \"log.info\"\nargs = {{ text = \"heard {{data}}\" }}\n",
        far.address()
    );
    let near = running(&plant, &config);
    let mut server = accept_one(&upstream);
    let mut line = [0; 8];
    server.read_exact(&mut line).unwrap();
    assert_eq!(line.escape_ascii().to_string(), r"alive 1\n");
    server.write_all(b"I know\n").unwrap();
    near.line("heard I know");
    let came = far.event("new_connection");
    assert_eq!(came["name"], "device7", "{came}");
}

/// The node is both ends of TLS, with certificates both ways.
#[test]
fn steps_commission_a_device_over_tls_and_end_with_its_end() {
    let plant = Plant::new();
    let (free, address) = hold_free_port();
    drop(free);
    let node = running(
        &plant,
        &format!(
            "{PLANT}{DEVICE}[listen.device]\nbind = \"{address}\"\nframing = \"lines\"\ntls = \"plant\"\n\
             [client.probe]\nto = \"{address}\"\nframing = \"lines\"\ntls = \"device\"\n\
             [[connect]]\nsignal = \"device.message_received\"\nslot = \"device.write\"\n\
             args = {{ data = \"{{conn.tls_name}} asked {{data}}\" }}\n\
             [[step]]\nwait = \"probe.connected\"\n\
             [[step]]\ncall = \"probe.write\"\nargs = {{ data = \"*IDN?\" }}\n\
             [[step]]\nwait = \"probe.message_received\"\nexpect = \"device7 asked *IDN?\"\n\
             [[step]]\ncall = \"probe.shutdown_write\"\n\
             [[step]]\nwait = \"probe.disconnected\"\nexpect = \"closed\"\n\
             [[step]]\ncall = \"node.quit\"\n"
        ),
    );
    let (code, log) = node.wait();
    assert_eq!(code, 0, "{log:#?}");
}

#[test]
fn a_script_knows_its_client_by_the_certificate_and_hears_of_those_without() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let node = running(
        &plant,
        &format!(
            "{PLANT}[listen.door]\nbind = \"127.0.0.1:0\"\ntls = \"plant\"\n\
             [script.s]\ntarget = \"door\"\ncode = '''\n\
             function on_new_connection(conn) log.info(\"come: \" .. conn.tls_name .. tostring(conn.via)) end\n\
             function on_message_received(conn, data) conn:write(data) end\n\
             function on_handshake_failed(error, more) log.info(\"not come: \" .. error) end\n'''\n"
        ),
    );
    let out = plant.client(node.address(), "localhost", "device7", "talk");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hello TLSv1.3\nclosed\n");
    node.line("come: device7nil");
    assert!(!plant.client(node.address(), "localhost", "-", "talk").status.success());
    node.line("not come: it showed no certificate");
}
