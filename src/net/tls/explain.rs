//! What went wrong in TLS, in words that say who has to do what. The library's
//! own are for those who know its insides.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// We have listened, and the peer is a client.
    Listener,
    /// We have dialled, and the peer is a server.
    Client,
}

/// The words for a failed handshake, or for a connection that TLS has ended.
pub(super) fn explain(error: &io::Error, side: Side) -> String {
    if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        return of_tls(error, side);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection during the TLS handshake".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "it reset the connection during the TLS handshake".into()
        }
        _ => error.to_string(),
    }
}

fn of_tls(error: &Error, side: Side) -> String {
    use PeerIncompatible as Differs;
    match error {
        Error::InvalidCertificate(fault) => of_certificate(fault, side),
        Error::NoCertificatesPresented => format!("it showed no certificate, which {CLIENT_CA} asks for"),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        )
        | Error::InappropriateMessage { .. } => match side {
            Side::Listener => "it does not speak TLS".into(),
            Side::Client => "it does not speak TLS; remove `tls`, or try another port".into(),
        },
        Error::PeerIncompatible(
            Differs::Tls12NotOffered
            | Differs::Tls12NotOfferedOrEnabled
            | Differs::SignatureAlgorithmsExtensionRequired
            | Differs::ServerDoesNotSupportTls12Or13
            | Differs::ServerTlsVersionIsDisabledByOurConfig,
        ) => "it speaks only TLS 1.1 or older, which is not safe".into(),
        Error::PeerIncompatible(differs) => format!("no common ground for TLS: {differs:?}"),
        Error::AlertReceived(alert) => of_alert(*alert, side),
        _ => format!("TLS: {error}"),
    }
}

fn of_certificate(fault: &CertificateError, side: Side) -> String {
    match fault {
        CertificateError::NotValidForName => {
            format!("its certificate is for another name; set {SERVER_NAME} to that")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name".into() } else { names.join(", ") };
            format!(
                "its certificate is for {names} and not for {}; dial it by that name, or set {SERVER_NAME}",
                expected.to_str()
            )
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired on {}", date(*not_after))
        }
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}; compare the clocks", date(*not_before))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet; compare the clocks".into(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let key = match side {
                Side::Listener => CLIENT_CA,
                Side::Client => CA,
            };
            format!("its certificate is signed by an unknown authority; name that in {key} if it is yours")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => match side {
            Side::Listener => "its certificate is not one of a client".into(),
            Side::Client => "its certificate is not one of a server".into(),
        },
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is one of an authority; give it one that an authority has signed, as `node cert` does"
                .into()
        }
        _ => format!("its certificate cannot be used: {fault}"),
    }
}

/// What the peer has told us.
fn of_alert(alert: AlertDescription, side: Side) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::UnknownCA => "it does not know the authority of our certificate".into(),
        Alert::CertificateExpired => "it says that our certificate has expired".into(),
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            "it does not accept our certificate".into()
        }
        Alert::CertificateRequired => format!("it wants a certificate of ours; set {CERT} and {KEY}"),
        Alert::HandshakeFailure if side == Side::Client => {
            format!("it refused the TLS handshake; it may want a certificate of ours: set {CERT} and {KEY}")
        }
        Alert::ProtocolVersion => "it speaks no version of TLS that we do".into(),
        Alert::UnrecognisedName => format!("it does not know the name it was called by; set {SERVER_NAME}"),
        _ => format!("it ended TLS with the alert {alert:?}"),
    }
}

/// `DnsName("a.example")` without what is around it.
fn bare(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')')).trim_matches('"')
}

fn date(time: UnixTime) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(at).to_string().split('T').next().unwrap_or_default().to_owned()
}

// Whoever says these does not know where our side was written: in a file, or on the command line.
pub(super) const CA: &str = "`ca` (`--tls-ca`)";
const CLIENT_CA: &str = "`client_ca` (`--tls-client-ca`)";
const SERVER_NAME: &str = "`server_name` (`--tls-server-name`)";
const CERT: &str = "`cert` (`--tls-cert`)";
const KEY: &str = "`key` (`--tls-key`)";
