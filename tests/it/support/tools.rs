//! Which programs this machine has. Where CI is set a missing one fails the
//! test; elsewhere the test says that it was skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};

/// Where `program` is, if it is installed.
pub(crate) fn has(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Tells whether all `programs` are there; says so when the test is skipped.
pub(crate) fn needs(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| has(program).is_none()).collect();
    missing.is_empty() || skip(&format!("{missing:?} not installed"))
}

/// Tells whether network namespaces can be made here.
pub(crate) fn needs_namespaces() -> bool {
    let works =
        || Command::new("unshare").args(["--net", "true"]).output().is_ok_and(|out| out.status.success());
    needs(&["ip", "unshare", "ss"]) && (works() || skip("network namespaces cannot be made (root only)"))
}

/// Tells whether networks can be made, with programs at their far ends.
pub(crate) fn needs_two_networks() -> bool {
    needs_namespaces() && needs(&["python3"])
}

/// Tells whether one process may open so many descriptors.
pub(crate) fn needs_descriptors(wanted: usize) -> bool {
    let most = getrlimit(Resource::Nofile).maximum;
    most.is_none_or(|most| most >= wanted as u64)
        || skip(&format!(
            "a process may open {} descriptors (ulimit -Hn), and {wanted} are wanted",
            most.unwrap()
        ))
}

/// Tells whether Debian's Python has pymodbus.
pub(crate) fn needs_pymodbus() -> bool {
    let mut import = Command::new(PYTHON);
    let works = import.args(["-c", "import pymodbus.client, pymodbus.server"]).output();
    works.is_ok_and(|out| out.status.success())
        || skip("pymodbus (python3-pymodbus, python3-serial, python3-serial-asyncio) is not installed")
}

/// The one that Debian's packages are for; another may come before it.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// The Qt program of `fixtures/qt`, built once; `None` where Qt 6 is missing, which is said.
pub(crate) fn qt_peer() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build_qt_peer).clone()
}

fn build_qt_peer() -> Option<PathBuf> {
    let places =
        ["/usr/include/x86_64-linux-gnu/qt6", "/usr/include/aarch64-linux-gnu/qt6", "/usr/include/qt6"];
    let include = places.into_iter().find(|place| Path::new(place).join("QtNetwork").exists());
    let (Some(include), true) = (include, needs(&["g++"])) else {
        skip("qt6-base-dev is not installed");
        return None;
    };
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("qt-peer-{}", std::process::id()));
    let mut build = Command::new("g++");
    build.args(["-O1", "-std=c++17", "-fPIC"]).arg(format!("-I{include}"));
    build.arg(format!("-I{include}/QtCore")).arg(format!("-I{include}/QtNetwork"));
    build.arg(root().join("tests/fixtures/qt/peer.cpp")).arg("-o").arg(&program);
    let built = build.args(["-lQt6Network", "-lQt6Core"]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(program)
}

fn skip(why: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "{why}; in CI that is a failure");
    eprintln!("SKIPPED: {why}");
    false
}

/// The folder of this crate.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
