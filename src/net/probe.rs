//! A connection to a target only to see that it can be reached, as the checks
//! of a relay make them: nobody is told of it, and its end is a proper one.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::dial::{DialError, Dialling, Target, connect};
use super::options::DialOptions;
use super::transport::Stream;
use crate::event::State;

/// Connects to `target`, and closes at once. Cancel safe.
///
/// # Errors
/// Why it cannot be reached; proxies on the way and TLS are part of it.
pub(crate) async fn probe(
    target: &Target,
    options: &DialOptions,
    own: &[SocketAddr],
) -> Result<(), DialError> {
    let (stream, ..) = connect(target, options, own, &Unseen, None).await?;
    if let Stream::Tls(mut tls) = stream {
        // Whoever just closes has broken off, as a server sees it. What it says until its own end is let go.
        let ended = async {
            poll_fn(|cx| tls.poll_shutdown(cx)).await?;
            while poll_fn(|cx| tls.poll_read(cx, &mut [0; 64])).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(FAREWELL, ended).await;
    }
    Ok(())
}

/// Nobody.
struct Unseen;

impl Dialling for Unseen {
    fn set_state(&self, _: State) {}

    fn host_found(&self, _: &[SocketAddr]) {}
}

/// For the end of a TLS session.
const FAREWELL: Duration = Duration::from_secs(1);
