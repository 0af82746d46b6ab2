//! [`KernelOptions`]: what the kernel is asked for beside the usual, for a
//! listener and what it accepts, or for what is dialled.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;

/// What the kernel is asked for; `None` leaves each to it.
///
/// Nothing of it concerns Unix sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelOptions {
    /// The name of the only network interface by which bytes come and go (SO_BINDTODEVICE).
    pub interface: Option<String>,
    /// The type-of-service byte of IPv4, or traffic class of IPv6: DSCP in the upper six bits.
    pub tos: Option<u8>,
    /// SO_RCVBUF, in bytes; the kernel doubles it and no longer adapts it, and net.core.rmem_max is the most.
    pub kernel_receive_buffer: Option<usize>,
    /// SO_SNDBUF, in bytes; likewise, with net.core.wmem_max.
    pub kernel_send_buffer: Option<usize>,
}

impl KernelOptions {
    /// Asks for it on a TCP socket, which for the buffers must not be connected yet. A listener passes it on.
    ///
    /// # Errors
    /// The kernel's, with what was asked for.
    pub(super) fn apply(&self, socket: &SockRef<'_>, is_ipv4: bool) -> io::Result<()> {
        // Nearly always there is nothing to ask for.
        if *self == Self::default() {
            return Ok(());
        }
        if let Some(interface) = &self.interface {
            let bound = socket.bind_device(Some(interface.as_bytes()));
            bound.map_err(|error| explain(&format!("use interface {interface}"), &error))?;
        }
        if let Some(tos) = self.tos {
            // A dual-stack socket has both: one for each family that it meets.
            socket.set_tos_v4(tos.into())?;
            if !is_ipv4 {
                socket.set_tclass_v6(tos.into())?;
            }
        }
        if let Some(size) = self.kernel_receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(size) = self.kernel_send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        Ok(())
    }

    /// The same on a listener that is open, for what it accepts later; what was asked for before and is
    /// not any more goes back to the kernel, but for buffers.
    pub(super) fn apply_again(&self, socket: &SockRef<'_>, bound: SocketAddr) -> io::Result<()> {
        if self.interface.is_none() && socket.device()?.is_some() {
            socket.bind_device(None)?;
        }
        let tos = Some(self.tos.unwrap_or(0));
        Self { tos, ..self.clone() }.apply(socket, bound.is_ipv4())
    }
}

fn explain(what: &str, error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(ENODEV) => "there is none of this name".to_owned(),
        Some(EPERM) => "another one was chosen before, and only CAP_NET_RAW may change it".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot {what}: {why}"))
}

const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn what_is_asked_for_can_be_read_back_and_taken_back() {
        for (domain, address) in [(Domain::IPV4, "127.0.0.1:0"), (Domain::IPV6, "[::1]:0")] {
            let address: SocketAddr = address.parse().unwrap();
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            let socket = SockRef::from(&socket);
            let options = KernelOptions {
                interface: Some("lo".into()),
                tos: Some(0xB8),
                kernel_receive_buffer: Some(20_000),
                kernel_send_buffer: Some(30_000),
            };
            options.apply(&socket, address.is_ipv4()).unwrap();
            assert_eq!(socket.device().unwrap().unwrap(), b"lo");
            assert_eq!(socket.tos_v4().unwrap(), 0xB8);
            assert!(address.is_ipv4() || socket.tclass_v6().unwrap() == 0xB8);
            assert_eq!(socket.recv_buffer_size().unwrap(), 40_000);
            assert_eq!(socket.send_buffer_size().unwrap(), 60_000);
            KernelOptions::default().apply_again(&socket, address).unwrap();
            assert_eq!((socket.device().unwrap(), socket.tos_v4().unwrap()), (None, 0));
            let missing = KernelOptions { interface: Some("nosuch0".into()), ..KernelOptions::default() };
            let error = missing.apply(&socket, true).unwrap_err().to_string();
            assert_eq!(error, "cannot use interface nosuch0: there is none of this name");
        }
    }
    #[test]
    fn what_is_accepted_has_it_too() {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        let options = KernelOptions {
            tos: Some(0x28),
            kernel_receive_buffer: Some(20_000),
            kernel_send_buffer: Some(30_000),
            ..KernelOptions::default()
        };
        options.apply(&SockRef::from(&socket), false).unwrap();
        socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            let _client = std::net::TcpStream::connect((host, port)).unwrap();
            let accepted = listener.accept().unwrap().0;
            let accepted = SockRef::from(&accepted);
            let tos = if host == "::1" { accepted.tclass_v6() } else { accepted.tos_v4() };
            assert_eq!(tos.unwrap(), 0x28, "{host}");
            assert_eq!(accepted.recv_buffer_size().unwrap(), 40_000);
            assert_eq!(accepted.send_buffer_size().unwrap(), 60_000);
        }
    }
}
