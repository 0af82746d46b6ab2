//! The road of the house: a room imports only from rooms before it. The order
//! is the one the crate's documentation draws.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::root;

/// The rooms in order; those in one place do not know each other.
const ROAD: &[&[&str]] = &[
    &["nearest"],
    &["address"],
    &["budget"],
    &["event"],
    &["signal"],
    &["testing"],
    &["bus"],
    &["framing"],
    &["net"],
    &["flow"],
    &["registry"],
    &["relay", "wiring", "script", "service"],
    &["config"],
    &["node"],
    &["guide"],
    &["cli"],
    &["bin"],
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The rooms a file names by `crate::`, in its code.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = code.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
    names
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => {
                list.split(['}', ';']).next().unwrap().split(',').map(|part| part.trim().to_owned()).collect()
            }
            None => vec![rest],
        })
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn rooms_import_only_from_rooms_before_them() {
    let place = |room: &str| ROAD.iter().position(|rooms| rooms.contains(&room));
    let mut faults = Vec::new();
    for file in files(&root().join("src")) {
        let room = room_of(&file);
        if room == "lib" {
            continue;
        }
        let own = place(&room).unwrap_or_else(|| panic!("{} is in no room of the road", file.display()));
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let Some(other) = place(&import) else {
                faults.push(format!("{} imports {import}, which is no room", file.display()));
                continue;
            };
            if other > own || other == own && import != room {
                faults.push(format!("{} imports {import}, which comes later", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn one_module_knows_the_broadcast_crate_and_nothing_is_detached() {
    for file in files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.display();
        assert!(room_of(&file) == "bus" || !text.contains("async_broadcast"), "{name} knows async-broadcast");
        for banned in ["tokio::spawn(", "unbounded", ".next().await.unwrap()", "println!", "todo!("] {
            assert!(!text.contains(banned), "{name} contains {banned}");
        }
        assert!(text.starts_with("//!") || text.starts_with("#!["), "{name} does not say what it is");
        assert!(text.lines().count() <= 600, "{name} has {} lines", text.lines().count());
    }
}

#[test]
fn the_imports_of_a_file_are_understood() {
    let text = "use crate::{bus, net::Conn};\n// use crate::cli::X;\nfn f() { crate::event::g() }\nuse crate::flow::Tap;";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["bus", "event", "flow", "net"]);
}
