//! Handshakes that are slow, on purpose or not: they have their time, and
//! they keep nobody out.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Ending, NodeProcess, Plant, connect, needs, read_all};

fn listening(plant: &Plant, options: &[&str]) -> NodeProcess {
    let (cert, key) = (plant.path("localhost.pem"), plant.path("localhost.key"));
    let own = ["--listen", "tls://127.0.0.1:0", "--connect", "echo:", "--tls-cert", &cert, "--tls-key", &key];
    NodeProcess::start([&own, options].concat())
}

#[test]
fn silent_and_trickling_handshakes_end_after_five_seconds() {
    let plant = Plant::new();
    let node = listening(&plant, &[]);
    let begun = Instant::now();
    let silent = connect(node.address());
    let mut trickling = connect(node.address());
    // The beginning of a ClientHello, then a byte now and then.
    trickling.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    let mut writer = trickling.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(&[1]).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for stream in [&silent, &trickling] {
        let (bytes, ending) = read_all(stream);
        assert!(bytes.is_empty() && ending != Ending::Open, "{bytes:?} {ending:?}");
    }
    trickle.join().unwrap();
    assert!((4..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    for nth in 0..2 {
        let error = node.nth_event("handshake_failed", nth)["error"].as_str().unwrap().to_owned();
        assert_eq!(error, "it did not finish the TLS handshake within 5s");
    }
}

#[test]
fn a_hundred_slow_handshakes_keep_nobody_out_and_give_way() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let node = listening(&plant, &["--max-connections", "4"]);
    // Far more than there are places; each that comes has the oldest go.
    let slow: Vec<_> = (0..100).map(|_| connect(node.address())).collect();
    node.nth_event("handshake_failed", 90);
    let out = plant.client(node.address(), "localhost", "-", "talk");
    assert_eq!(out.stdout, b"hello TLSv1.3\nclosed\n");
    assert_eq!(node.client_gone(0)["reason"], "closed");
    let error = node.event("handshake_failed")["error"].as_str().unwrap().to_owned();
    assert_eq!(error, "it was slow with its handshake, and others came");
    drop(slow);
}
