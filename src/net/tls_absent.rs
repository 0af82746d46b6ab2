//! In the place of TLS where the feature `tls` is not built: nothing of it can
//! be made, and the config says so before anybody asks.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::tls_options::TlsOptions;
use crate::address::Host;

/// There is none, which others need not know.
#[derive(Debug)]
pub(crate) struct Tls(Loaded);
/// There is none.
#[derive(Debug)]
pub(crate) enum Loaded {}
/// There is none.
#[derive(Debug)]
pub(crate) enum TlsStream {}

/// Who would use it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    pub(crate) listens: bool,
    pub(crate) connects: bool,
}

/// Says that there is none.
pub(crate) fn load(_: &TlsOptions, roles: Roles) -> Result<Loaded, Vec<(&'static str, String)>> {
    let Roles { listens, connects } = roles;
    tracing::debug!(listens, connects, "TLS was asked for");
    Err(vec![("", super::NO_TLS.into())])
}

impl Tls {
    pub(crate) fn new(loaded: Loaded) -> Self {
        Self(loaded)
    }

    pub(crate) fn replace(&self, _: Loaded) -> bool {
        match self.0 {}
    }

    pub(super) async fn accept(&self, _: TcpStream) -> Result<(Box<TlsStream>, Option<Arc<str>>), String> {
        match self.0 {}
    }

    pub(super) async fn connect(&self, _: TcpStream, _: &Host) -> Result<Box<TlsStream>, String> {
        match self.0 {}
    }
}

impl TlsStream {
    pub(in crate::net) fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    pub(in crate::net) fn poll_peek(&mut self, _: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match *self {}
    }

    pub(in crate::net) fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    pub(in crate::net) fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    pub(in crate::net) fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    pub(in crate::net) fn held(&self) -> usize {
        match *self {}
    }

    pub(in crate::net) fn socket(&self) -> &TcpStream {
        match *self {}
    }
}
