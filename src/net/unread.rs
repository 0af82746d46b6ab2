//! A connection that nobody reads yet: whether its peer has something to say,
//! or has left. Nothing is taken from it, so that whoever reads it later gets
//! every byte.

use std::future::{pending, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::io::Interest;

use super::conn::Conn;
use super::transport::Stream;

impl Conn {
    /// Waits until the peer has something to say (`true`), or has finished
    /// without a word (`false`). Cancel safe.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn speaks(&mut self) -> io::Result<bool> {
        let peek = |socket: SockRef<'_>| socket.peek(&mut [MaybeUninit::uninit()]).map(|count| count > 0);
        loop {
            let peeked = match self.stream_mut() {
                Stream::Tcp(stream) => {
                    stream.readable().await?;
                    stream.try_io(Interest::READABLE, || peek(SockRef::from(&*stream)))
                }
                Stream::Unix(stream) => {
                    stream.readable().await?;
                    stream.try_io(Interest::READABLE, || peek(SockRef::from(&*stream)))
                }
                // What comes may be of TLS itself, and say nothing.
                Stream::Tls(stream) => poll_fn(|cx| stream.poll_peek(cx)).await,
                Stream::Stdio(_) | Stream::Echo(_) => pending().await,
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return peeked,
            }
        }
    }

    /// Waits until the peer has left: it finished without a word, or the
    /// connection broke. One that has said something and finished has not left,
    /// since that can still be delivered. Cancel safe.
    pub(crate) async fn leaves(&mut self) -> Option<io::Error> {
        match self.speaks().await {
            Ok(false) => None,
            Ok(true) => Some(self.breaks().await),
            Err(error) => Some(error),
        }
    }

    /// Waits until the connection breaks, which reading would show too.
    async fn breaks(&self) -> io::Error {
        loop {
            let broke = match self.stream() {
                Stream::Tcp(stream) => {
                    let ready = stream.ready(Interest::ERROR).await;
                    ready.and_then(|_| stream.try_io(Interest::ERROR, || error_of(stream)))
                }
                Stream::Unix(stream) => {
                    let ready = stream.ready(Interest::ERROR).await;
                    ready.and_then(|_| stream.try_io(Interest::ERROR, || error_of(stream)))
                }
                Stream::Tls(stream) => {
                    let stream = stream.socket();
                    let ready = stream.ready(Interest::ERROR).await;
                    ready.and_then(|_| stream.try_io(Interest::ERROR, || error_of(stream)))
                }
                Stream::Stdio(_) | Stream::Echo(_) => pending().await,
            };
            match broke {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return error,
                Ok(()) => unreachable!("an error is yielded as one"),
            }
        }
    }
}

/// The error of a socket, as one. Without any it goes on waiting.
fn error_of(socket: &impl AsFd) -> io::Result<()> {
    let error = SockRef::from(socket).take_error()?;
    Err(error.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
}
