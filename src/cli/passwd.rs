//! `node passwd FILE NAME`: asks for a password, and enters its hash.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::script::passwords;

/// Reads the password, twice from a terminal, else the first line; and says what was done.
///
/// # Errors
/// What is wrong, and what to try.
pub(super) fn enter(path: &Path, name: &str) -> Result<String, String> {
    let password = read(name)?;
    let replaced = passwords::set(path, name, password.as_bytes())?;
    let what = if replaced { "has another password now" } else { "was entered" };
    Ok(format!("`{name}` {what} in {}\n", path.display()))
}

fn read(name: &str) -> Result<String, String> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let first = ask(&format!("password for {name}: "))?;
    if ask("again: ")? != first {
        return Err("these were two; type the same twice".into());
    }
    Ok(first)
}

/// One line of a terminal, which does not show it.
fn ask(prompt: &str) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot ask for a password: {error}; write it to standard input");
    let _ = write!(io::stderr(), "{prompt}");
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    // ^C ends the line, and the echo comes back before the program ends.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    let restore = Restore { before };
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    let line = line();
    drop(restore);
    let _ = writeln!(io::stderr());
    line.and_then(|line| {
        if line.as_bytes().contains(&INTERRUPT) { Err("nothing was entered".into()) } else { Ok(line) }
    })
}

fn line() -> Result<String, String> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| format!("cannot read a password: {error}; write it to standard input"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal as it was.
struct Restore {
    before: Termios,
}

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// What ^C types.
const INTERRUPT: u8 = 3;
