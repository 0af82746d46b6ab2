//! A file of names with salted hashes of their passwords, a line each:
//! `name:$argon2id$…`. `node passwd` writes it, `auth.verify` reads it.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

/// Tells whether the file has this name with this password. It takes as long for a name that it has not.
///
/// # Errors
/// That the file cannot be read, or the line of the name is none of ours.
pub(crate) fn verify(path: &Path, name: &str, password: &[u8]) -> Result<bool, String> {
    let text = read(path)?;
    let found = text.lines().find_map(|line| line.split_once(':').filter(|(known, _)| *known == name));
    let (is_known, hash) = found.map_or((false, NOBODY), |(_, hash)| (true, hash));
    let hash = PasswordHash::new(hash.trim_end());
    let hash = hash.map_err(|error| {
        format!("{}: the line of `{name}` is no entry ({error}); write it with `node passwd`", path.display())
    })?;
    Ok(Argon2::default().verify_password(password, &hash).is_ok() && is_known)
}

/// Enters a password for a name, in place of an earlier one if there was: then it yields `true`. Whoever reads the
/// file meanwhile finds the one or the other. Only its owner may read a new file.
///
/// # Errors
/// What is wrong with the name, or with the file.
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "called by the program alone"))]
pub(crate) fn set(path: &Path, name: &str, password: &[u8]) -> Result<bool, String> {
    let is_odd = |c: char| c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(is_odd) {
        let name = name.escape_debug();
        return Err(format!("`{name}` is no name; write up to {LONGEST_NAME} bytes without `:` and spaces"));
    }
    if password.is_empty() || password.len() > LONGEST_PASSWORD {
        return Err(format!("a password has 1 to {LONGEST_PASSWORD} bytes; write another"));
    }
    let text = if path.exists() { read(path)? } else { String::new() };
    let hash = Argon2::default().hash_password(password).map_err(|error| format!("cannot hash: {error}"))?;
    let entry = format!("{name}:{hash}");
    let is_own = |line: &&str| line.split_once(':').is_some_and(|(known, _)| known == name);
    let had = text.lines().any(|line| is_own(&line));
    let mut lines: Vec<_> =
        text.lines().map(|line| if is_own(&line) { entry.as_str() } else { line }).collect();
    if !had {
        lines.push(&entry);
    }
    replace(path, &(lines.join("\n") + "\n"))
        .map_err(|error| format!("{}: cannot be written: {error}; name another file", path.display()))?;
    Ok(had)
}

fn read(path: &Path) -> Result<String, String> {
    let explain = |error: io::Error| {
        format!("{}: cannot be read: {error}; `node passwd` makes such a file", path.display())
    };
    if !fs::metadata(path).map_err(explain)?.is_file() {
        return Err(format!("{}: is no regular file; name another", path.display()));
    }
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text)).map_err(explain)?;
    Ok(text)
}

/// Writes a file anew, whole or not at all, with the permissions it had.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let permissions =
        fs::metadata(path).map_or_else(|_| Permissions::from_mode(0o600), |known| known.permissions());
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let write = || {
        let mut file = File::create_new(&beside)?;
        file.set_permissions(permissions)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// The hash of a password that nobody knows.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LWtub3dzLWl0$\
                      3X0iV5pYcXb9jH0H4Yq1lqU2rWZy8w0m1oJ7k5c9d2E";
/// In bytes.
const LONGEST_NAME: usize = 256;
const LONGEST_PASSWORD: usize = 1_024;
const MOST_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_found_by_its_hash_alone_and_only_for_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        assert!(verify(&path, "ann", b"x").unwrap_err().contains("`node passwd` makes such a file"));
        assert!(!set(&path, "ann", b"s3cret").unwrap());
        assert!(!set(&path, "bob", b"s3cret").unwrap());
        assert!(set(&path, "ann", b"other").unwrap());
        assert!(verify(&path, "ann", b"other").unwrap());
        assert!(!verify(&path, "ann", b"s3cret").unwrap());
        assert!(verify(&path, "bob", b"s3cret").unwrap());
        assert!(!verify(&path, "eve", b"s3cret").unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("ann:$argon2id$v=19$m=19456,t=2,p=1$") && !text.contains("s3cret"));
        let hashes: Vec<_> = text.lines().map(|line| line.split_once(':').unwrap().1).collect();
        assert_ne!(hashes[0], hashes[1]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for name in ["", "a:b", "a b", "a\n"] {
            assert!(set(&path, name, b"x").is_err());
        }
        assert!(set(&path, "ann", b"").is_err());
        fs::write(&path, "ann:plain\n").unwrap();
        assert!(verify(&path, "ann", b"plain").unwrap_err().contains("is no entry"));
    }
}
