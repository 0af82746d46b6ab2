//! From PEM files to what handshakes need. Every fault names its key in the
//! config, so that all of them can be said at once with their places.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, Error, InconsistentKeys, RootCertStore, ServerConfig,
    WantsVerifier, WantsVersions,
};

use super::super::tls_options::TlsOptions;
use super::explain::CA;
use super::named;

/// What was read, for the roles it is used in.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(super) server: Option<Arc<ServerConfig>>,
    pub(super) client: Option<(Arc<ClientConfig>, Option<ServerName<'static>>)>,
    /// Differs where the files do.
    pub(super) fingerprint: u64,
}

/// Who uses it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    pub(crate) listens: bool,
    pub(crate) connects: bool,
}

/// A key of the config, and what is wrong with its file.
type Problem = (&'static str, String);

/// Reads the files that `options` name.
///
/// # Errors
/// All that is wrong with them.
pub(crate) fn load(options: &TlsOptions, roles: Roles) -> Result<Loaded, Vec<Problem>> {
    let mut reading = Reading { problems: Vec::new(), hasher: DefaultHasher::new() };
    let identity = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => reading.identity(cert, key),
        _ => None,
    };
    let provider = Arc::new(ring::default_provider());
    let server = if roles.listens { reading.server(options, identity.as_ref(), &provider) } else { None };
    let client = if roles.connects { reading.client(options, identity.as_ref(), &provider) } else { None };
    let name = options.server_name.as_ref().and_then(|name| {
        let name = named(name);
        reading
            .note("server_name", name.map_err(|error| format!("{error}; write a host name or an IP address")))
    });
    if reading.problems.is_empty() {
        let fingerprint = reading.hasher.finish();
        return Ok(Loaded { server, client: client.map(|client| (client, name)), fingerprint });
    }
    Err(reading.problems)
}

struct Reading {
    problems: Vec<Problem>,
    hasher: DefaultHasher,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Reading {
    fn note<T>(&mut self, key: &'static str, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.problems.push((key, text))).ok()
    }

    fn file(&mut self, key: &'static str, path: &Path) -> Option<Vec<u8>> {
        let read = read(path).map_err(|problem| format!("{} {problem}", path.display()));
        let bytes = self.note(key, read)?;
        bytes.hash(&mut self.hasher);
        Some(bytes)
    }

    fn certificates(&mut self, key: &'static str, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.file(key, path)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = match found {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err(format!("{} has no certificate in PEM; `node cert` makes some", path.display())),
        };
        self.note(key, found)
    }

    fn identity(&mut self, cert: &Path, key: &Path) -> Option<Identity> {
        let chain = self.certificates("cert", cert);
        let bytes = self.file("key", key)?;
        let parsed = PrivateKeyDer::from_pem_slice(&bytes);
        let problem = |_| {
            let what = if contains(&bytes, b"ENCRYPTED") {
                "is encrypted; decrypt it with `openssl pkey`"
            } else {
                "has no private key in PEM; `node cert` makes some"
            };
            format!("{} {what}", key.display())
        };
        let parsed = self.note("key", parsed.map_err(problem))?;
        warn_of_readers(key);
        Some((chain?, parsed))
    }

    fn roots(&mut self, key: &'static str, path: &Path) -> Option<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(key, path)? {
            let added = roots.add(certificate);
            let problem = |error| {
                format!("{} has a certificate that cannot be used: {error}; replace it", path.display())
            };
            self.note(key, added.map_err(problem))?;
        }
        Some(roots)
    }

    fn server(
        &mut self,
        options: &TlsOptions,
        identity: Option<&Identity>,
        provider: &Arc<CryptoProvider>,
    ) -> Option<Arc<ServerConfig>> {
        let builder = versions(ServerConfig::builder_with_provider(Arc::clone(provider)));
        let builder = match &options.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = self.roots("client_ca", path)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
                let verifier =
                    verifier.build().map_err(|error| format!("{}: {error}; replace it", path.display()));
                builder.with_client_cert_verifier(self.note("client_ca", verifier)?)
            }
        };
        let (chain, key) = identity?;
        let config = builder.with_single_cert(chain.clone(), key.clone_key());
        self.note("key", config.map(Arc::new).map_err(|error| identity_problem(options, &error)))
    }

    fn client(
        &mut self,
        options: &TlsOptions,
        identity: Option<&Identity>,
        provider: &Arc<CryptoProvider>,
    ) -> Option<Arc<ClientConfig>> {
        let roots = match &options.ca {
            Some(path) => self.roots("ca", path)?,
            None => {
                let roots = system_roots();
                self.note("ca", roots)?
            }
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = verifier
            .build()
            .map_err(|error| format!("its authorities cannot be used: {error}; replace them"));
        let verifier = self.note("ca", verifier)?;
        let builder = versions(ClientConfig::builder_with_provider(Arc::clone(provider)));
        let builder = builder.with_webpki_verifier(verifier);
        match identity {
            None => Some(Arc::new(builder.with_no_client_auth())),
            Some((chain, key)) => {
                let config = builder.with_client_auth_cert(chain.clone(), key.clone_key());
                self.note("key", config.map(Arc::new).map_err(|error| identity_problem(options, &error)))
            }
        }
    }
}

fn versions<S: ConfigSide>(builder: ConfigBuilder<S, WantsVersions>) -> ConfigBuilder<S, WantsVerifier> {
    builder.with_safe_default_protocol_versions().expect("ring has suites for TLS 1.2 and 1.3")
}

fn identity_problem(options: &TlsOptions, error: &Error) -> String {
    let shown = |path: &Option<std::path::PathBuf>| {
        path.as_deref().map(|path| path.display().to_string()).unwrap_or_default()
    };
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let (key, cert) = (shown(&options.key), shown(&options.cert));
            format!("{key} is not the key of {cert}; name the two that belong together")
        }
        _ => format!(
            "{} cannot be used: {error}; make another, for example with `node cert`",
            shown(&options.key)
        ),
    }
}

/// The authorities this machine believes.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some machines have a few that nobody can read; the others are as good.
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(format!(
            "this machine has no list of authorities; install ca-certificates, or name a file in {CA}"
        )),
        false => Ok(roots),
    }
}

/// Reads a file whole. Never waits for a pipe.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let explain = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "is not there; `node cert` makes certificates and keys".to_owned(),
        std::io::ErrorKind::PermissionDenied => {
            "may not be read; change its permissions, or run as its owner".into()
        }
        _ => format!("cannot be read: {error}; name another file"),
    };
    if !fs::metadata(path).map_err(explain)?.is_file() {
        return Err("is no regular file; name a PEM file".into());
    }
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(explain)?.take(MOST_BYTES).read_to_end(&mut bytes).map_err(explain)?;
    Ok(bytes)
}

fn warn_of_readers(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(key).map_or(0, |data| data.permissions().mode());
    if mode & 0o004 != 0 {
        tracing::warn!(key = %key.display(), "everybody on this machine may read a private key; chmod o= it");
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(bytes, word).is_some()
}

/// More than any list of authorities has.
const MOST_BYTES: u64 = 16 << 20;
