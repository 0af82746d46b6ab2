//! [`SocketOptions`]: what can be set on a [`TcpSocket`](super::TcpSocket).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;

use crate::net::options::{DialOptions, Keepalive, keep_alive};

/// Options of a [`TcpSocket`](super::TcpSocket), dialled or accepted.
///
/// They are applied before the handshake (of an accepted socket: before it is
/// handed out), and what the kernel refuses is an error of the dial.
///
/// ```
/// use signal_node::{Reconnect, SocketOptions, TcpSocket};
/// use std::time::Duration;
///
/// let socket = TcpSocket::with_options(SocketOptions {
///     connect_timeout: Duration::from_secs(2),
///     reconnect: Some(Reconnect::default()),
///     ..SocketOptions::default()
/// });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Time for one dial: the lookup and all addresses together. 5 s.
    pub connect_timeout: Duration,
    /// Time, once the socket is closing, to hand over what was written and
    /// for the peer to finish as well. 10 s.
    pub drain_timeout: Duration,
    /// How long [`read`](super::TcpSocket::read) waits. `None`: for as long as it takes.
    pub read_timeout: Option<Duration>,
    /// How long [`write`](super::TcpSocket::write) and
    /// [`flush`](super::TcpSocket::flush) wait. `None`: for as long as it takes.
    pub write_timeout: Option<Duration>,
    /// Bytes received and not read; then the kernel's window fills, and the
    /// peer has to wait. 64 KiB, at least 1 byte.
    pub read_buffer_size: usize,
    /// Bytes written and not handed to the kernel; then writers wait. 64 KiB, at least 1 byte.
    pub write_buffer_size: usize,
    /// Stay connected when the peer has finished, until we finish too. Off: the
    /// socket then delivers what was written, takes no more, and closes. On
    /// where the two directions have nothing to do with each other, or an
    /// answer takes its time.
    pub allow_half_open: bool,
    /// Send small writes at once (TCP_NODELAY). On.
    pub no_delay: bool,
    /// How a silent peer is found out; `None` turns that off. 10 s, 3 × 4 s.
    pub keepalive: Option<Keepalive>,
    /// The kernel's receive buffer, in bytes (SO_RCVBUF; Linux doubles it). `None`: the kernel decides.
    pub kernel_receive_buffer: Option<usize>,
    /// The kernel's send buffer, in bytes (SO_SNDBUF; Linux doubles it). `None`: the kernel decides.
    pub kernel_send_buffer: Option<usize>,
    /// The type of service byte of IPv4 packets (IP_TOS).
    pub type_of_service: Option<u8>,
    /// The local address, and port if it is not 0, to connect from.
    pub source: Option<SocketAddr>,
    /// Dial again when a dial failed or a connection ended, until told to stop.
    ///
    /// Two connections are never taken for one stream. What was received and
    /// not read stays, within `read_buffer_size`, and who reads by awaiting gets
    /// it, then the end of that connection (0 or the error) once, and then what
    /// the next one brings; failed dials between them are waited through. What
    /// was written and not sent is lost and counted in
    /// [`Disconnected::unsent`](super::Disconnected::unsent); who writes by awaiting gets that as
    /// the error of the write under way, or once of the next, unless
    /// [`wait_for_connected`](super::TcpSocket::wait_for_connected) has said that
    /// there is another connection. What is written while it dials is for that
    /// one. (`try_write` and the reading calls that do not wait belong to slots,
    /// which hear of a break by `disconnected`.)
    pub reconnect: Option<Reconnect>,
}

/// When a socket dials again: exponential back-off with full jitter, so that
/// many clients of one server do not come back at once.
///
/// The `n`th wait is a random time between 0 and `min · 2ⁿ⁻¹`, at most `max`.
/// A connection that lasted as long as `max` starts the count again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The longest the first wait can be. 250 ms.
    pub min: Duration,
    /// The longest any wait can be. 30 s.
    pub max: Duration,
    /// How often in a row; `None`: for ever.
    pub attempts: Option<u32>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            read_timeout: None,
            write_timeout: None,
            read_buffer_size: 64 << 10,
            write_buffer_size: 64 << 10,
            allow_half_open: false,
            no_delay: true,
            keepalive: Some(Keepalive::default()),
            kernel_receive_buffer: None,
            kernel_send_buffer: None,
            type_of_service: None,
            source: None,
            reconnect: None,
        }
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { min: Duration::from_millis(250), max: Duration::from_secs(30), attempts: None }
    }
}

impl Reconnect {
    /// The wait before the `attempt`th dial in a row, from 1; `None` if there
    /// shall be no more. `random` is any number.
    pub(crate) fn wait(&self, attempt: u32, random: u64) -> Option<Duration> {
        if self.attempts.is_some_and(|attempts| attempt > attempts) {
            return None;
        }
        let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).and_then(|by| self.min.checked_mul(by));
        let longest = doubled.unwrap_or(self.max).min(self.max);
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(random % nanos.saturating_add(1).max(1)))
    }
}

impl SocketOptions {
    pub(super) fn dial(&self) -> DialOptions {
        DialOptions {
            connect_timeout: self.connect_timeout,
            source: self.source.map(|source| source.ip()),
            ..DialOptions::default()
        }
    }

    /// Sets them on a TCP socket, before its handshake if it is dialled.
    pub(in crate::net) fn apply(&self, socket: &SockRef<'_>, is_ipv4: bool) -> io::Result<()> {
        socket.set_tcp_nodelay(self.no_delay)?;
        match &self.keepalive {
            Some(keepalive) => keep_alive(socket, keepalive)?,
            None => socket.set_keepalive(false)?,
        }
        if let Some(size) = self.kernel_receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.kernel_send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(byte) = self.type_of_service.filter(|_| is_ipv4) {
            socket.set_tos_v4(byte.into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let reconnect = Reconnect::default();
        let longest =
            |attempt| (0..64).map(|i| reconnect.wait(attempt, u64::MAX >> i).unwrap()).max().unwrap();
        for (attempt, millis) in [(1, 250), (2, 500), (4, 2_000), (8, 30_000), (40, 30_000)] {
            assert!(longest(attempt) <= Duration::from_millis(millis), "{attempt}");
            assert!(longest(attempt) > Duration::from_millis(millis / 2), "{attempt}");
        }
    }

    #[test]
    fn what_is_set_can_be_read_back() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let socket = SockRef::from(&socket);
        let keepalive = Keepalive { probes: 7, ..Keepalive::default() };
        let options = SocketOptions {
            keepalive: Some(keepalive),
            kernel_receive_buffer: Some(20_000),
            kernel_send_buffer: Some(30_000),
            type_of_service: Some(0x10),
            ..SocketOptions::default()
        };
        options.apply(&socket, true).unwrap();
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!((socket.tcp_keepalive_retries().unwrap(), socket.tos_v4().unwrap()), (7, 0x10));
        assert_eq!(
            (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()),
            (40_000, 60_000)
        );
        let off = SocketOptions { no_delay: false, keepalive: None, ..SocketOptions::default() };
        off.apply(&socket, true).unwrap();
        assert!(!socket.tcp_nodelay().unwrap() && !socket.keepalive().unwrap());
    }

    #[test]
    fn a_number_of_attempts_is_kept() {
        let reconnect = Reconnect { attempts: Some(2), ..Reconnect::default() };
        assert!(reconnect.wait(2, 1).is_some() && reconnect.wait(3, 1).is_none());
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest(attempt: u32, random: u64, min: u64, max: u64) {
            let (min, max) = (Duration::from_nanos(min), Duration::from_nanos(max));
            let wait = Reconnect { min, max, attempts: None }.wait(attempt, random).unwrap();
            prop_assert!(wait <= max);
        }
    }
}
