//! The README's command blocks are run as they stand, each in a network of
//! its own; those that call cargo are run by `.ci/run`. The manual is held
//! against the program.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use signal_node::{EventKind, guide};

use crate::support::{NodeProcess, binary, connect, needs, needs_namespaces, read_all, root, run};

fn blocks(text: &str) -> Vec<String> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Makes a script of a block: where a person sleeps after a line that starts
/// something in the background, it waits until that listens; at the end
/// everything is stopped and must have ended with 0.
fn script(block: &str) -> String {
    let mut script = String::from(
        "set -euo pipefail\njobs=()\ntrap 'kill ${jobs[@]} 2>/dev/null || true' EXIT\nip link set lo up\n\
         expected=0\n\
         settled() { until [ $(ss -Hlxtn | grep -cE ':90|door') -ge $expected ]; do\n\
         [ $SECONDS -lt 60 ] || { echo 'nothing listens'; exit 1; }; done; }\n",
    );
    for line in block.replace("\\\n", "").lines() {
        let command = line.split(" #").next().unwrap().trim_end();
        let listens = command.strip_suffix(" sleep 1");
        script.push_str(listens.unwrap_or(line));
        script.push('\n');
        if listens.unwrap_or(command).ends_with('&') {
            let typed = command.matches("--listen").count();
            let in_file = if line.contains("two listeners") { 2 } else { usize::from(listens.is_some()) };
            let count = if typed > 0 { typed } else { in_file };
            script.push_str(&format!("jobs+=($!); expected=$((expected + {count})); settled\n"));
        }
    }
    script.push_str("for job in ${jobs[@]}; do kill $job 2>/dev/null || true; done\n");
    script.push_str("for job in ${jobs[@]}; do wait $job || [ $? = 127 ]; done\n");
    script
}

#[test]
fn every_command_block_does_what_its_comments_say() {
    if !needs_namespaces() || !needs(&["bash", "tar"]) {
        return;
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let all = blocks(&readme);
    let (cargo, ours): (Vec<_>, Vec<_>) = all.iter().partition(|block| block.contains("cargo "));
    assert_eq!((cargo.len(), ours.len() >= 8), (7, true), "blocks are missing or not understood");
    for block in ours {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(binary(), folder.path().join("node")).unwrap();
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        let path = format!("{}:{}:/usr/sbin:/sbin", folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("unshare");
        command.args(["--net", "bash", "-c", &script(block)]).env("PATH", path).current_dir(&work);
        let out = run(&mut command, &[]);
        let printed = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{block}\nended with {:?}:\n{printed}", out.status);
        for line in block.lines() {
            if let Some((_, expected)) = line.rsplit_once("prints ") {
                assert!(printed.contains(expected), "{line}\nprinted:\n{printed}");
            }
        }
    }
}

#[test]
fn the_page_on_events_names_every_kind_and_every_field() {
    let page = guide::PAGES.iter().find(|page| page.topic == "events").unwrap().text;
    for kind in EventKind::ALL {
        let name = format!("{kind:?}");
        let snake = name.chars().enumerate().fold(String::new(), |mut snake, (i, c)| {
            if c.is_uppercase() && i > 0 {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
            snake
        });
        assert!(page.contains(&format!("| `{snake}` |")), "{snake} is not in the page");
    }
    let node = NodeProcess::start([
        "-v",
        "-x",
        "--listen",
        "127.0.0.1:0",
        "--connect",
        "echo:",
        "--connect",
        "echo:",
    ]);
    let mut client = connect(node.address());
    std::io::Write::write_all(&mut client, b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    read_all(&client);
    node.client_gone(0);
    let mut fields = BTreeSet::new();
    for line in node.stop().1 {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        if object.contains_key("event") {
            fields.extend(object.keys().cloned());
        }
    }
    assert!(fields.len() > 15, "{fields:?}");
    for field in fields {
        assert!(page.contains(&format!("`{field}`")), "{field} is not in the page");
    }
}

#[test]
fn the_page_on_the_command_line_names_every_option() {
    let page = guide::PAGES.iter().find(|page| page.topic == "command-line").unwrap().text;
    let help = run(Command::new(binary()).arg("--help"), &[]);
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()));
    let mut count = 0;
    for option in options.filter(|option| !["--help", "--version"].contains(option)) {
        let name = option.trim_end_matches("..");
        assert!(
            page.contains(&format!("{name} "))
                || page.contains(&format!("{name}`"))
                || name == "--verbose"
                || name == "--quiet",
            "{option}"
        );
        count += 1;
    }
    assert!(count >= 15, "the help was not understood:\n{help}");
}

#[test]
fn every_page_is_listed_and_printed() {
    let list = run(Command::new(binary()).arg("help"), &[]);
    let list = String::from_utf8(list.stdout).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for page in guide::PAGES {
        assert!(list.contains(&format!("node help {}", page.topic)));
        assert!(
            readme.contains(&format!("`node help {}`", page.topic)),
            "{} is not in the README",
            page.topic
        );
        let printed = run(Command::new(binary()).args(["help", page.topic]), &[]);
        assert_eq!(printed.stdout, page.text.as_bytes());
    }
}
