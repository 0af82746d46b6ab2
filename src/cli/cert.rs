//! `node cert`: a private authority, and certificates signed by it, for a test
//! or a plant. Files that are there stay as they are.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// Makes the authority of `folder` if there is none, and a certificate and key for each of `names`, which
/// may be several of one owner with commas between. Yields what was made, in words.
///
/// # Errors
/// What cannot be, and what to try; files made before it stay.
pub(super) fn make(folder: &Path, names: &[String], days: u32) -> Result<String, String> {
    if !DAYS.contains(&days) {
        let (least, most) = (DAYS.start(), DAYS.end());
        return Err(format!("--days {days} is not possible; write {least} to {most}"));
    }
    let mut out = String::new();
    let show = |path: &Path| path.display().to_string();
    create_folder(folder).map_err(|error| format!("{}: {error}; name another folder", show(folder)))?;
    let (ca, ca_key) = (folder.join("ca.pem"), folder.join("ca.key"));
    let key = if ca_key.exists() {
        let problem = |problem: String| format!("{}: {problem}; name another folder", show(&ca_key));
        let text = fs::read_to_string(&ca_key).map_err(|error| problem(error.to_string()))?;
        KeyPair::from_pem(&text).map_err(|error| problem(error.to_string()))?
    } else {
        KeyPair::generate().map_err(|error| error.to_string())?
    };
    let params = authority(&key);
    if !ca_key.exists() {
        write_new(&ca_key, &key.serialize_pem(), 0o600)?;
        let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
        write_new(&ca, &certificate.pem(), 0o644)?;
        let _ = writeln!(out, "{}  the authority; give it to everybody who is to believe it", show(&ca));
        let _ =
            writeln!(out, "{}  its key; whoever has it can make certificates: keep it away", show(&ca_key));
    }
    let issuer = Issuer::from_params(&params, &key);
    for list in names {
        let all: Vec<_> = list.split(',').map(str::to_owned).collect();
        let first = &all[0];
        if all.iter().any(|name| !is_name(name)) || matches!(first.as_str(), "ca") {
            return Err(format!(
                "`{}` is no name for a certificate; write names as in localhost,127.0.0.1",
                list.escape_debug()
            ));
        }
        let mut params = CertificateParams::new(all.clone()).map_err(|error| {
            format!("`{}`: {error}; write host names or IP addresses", list.escape_debug())
        })?;
        params.distinguished_name = called(first);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // The same can listen and connect, as this program does.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, days);
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let certificate = params.signed_by(&key, &issuer).map_err(|error| error.to_string())?;
        let (path, key_path) = (folder.join(format!("{first}.pem")), folder.join(format!("{first}.key")));
        write_new(&key_path, &key.serialize_pem(), 0o600)?;
        write_new(&path, &certificate.pem(), 0o644)?;
        let _ = writeln!(out, "{}  a certificate for {}, for {days} days", show(&path), all.join(" and "));
        let _ = writeln!(out, "{}  its key", show(&key_path));
    }
    Ok(out)
}

/// The same each time for the same key, so that it need not be read back.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let tail = key
        .public_key_raw()
        .iter()
        .rev()
        .take(4)
        .fold(String::new(), |tail, byte| format!("{tail}{byte:02x}"));
    params.distinguished_name = called(&format!("private authority {tail}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, DAYS_OF_AUTHORITY);
    params
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// From yesterday on, since clocks differ.
fn set_life(params: &mut CertificateParams, days: u32) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(days.into());
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '*');
    !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(plain)
}

fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() { Ok(()) } else { fs::create_dir_all(folder) }
}

fn write_new(path: &PathBuf, text: &str, mode: u32) -> Result<(), String> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{path} is there already; remove it first to make another")
            }
            _ => format!("{path}: {error}; name another folder"),
        }
    })
}

const DAYS_OF_AUTHORITY: u32 = 3_650;
/// Nothing outlives its authority.
const DAYS: RangeInclusive<u32> = 1..=DAYS_OF_AUTHORITY;
