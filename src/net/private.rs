//! A Unix listener for this user alone, which is no listener of the node's
//! config: the control socket.

use std::os::unix::net::UnixListener;
use std::path::Path;

use super::listener::{BindError, UnixPath, hint, open};
use crate::address::Address;

/// Listens at `path` for this user alone, in the place of a socket that nobody listens on any more.
///
/// # Errors
/// [`BindError`], which names who listens there already.
pub(crate) fn bind_private(endpoint: &str, path: &Path) -> Result<(UnixListener, UnixPath), BindError> {
    let bound = open(path, Some(0o600), BACKLOG).map(|(socket, path)| (socket.into(), path));
    bound.map_err(|source| {
        let address = Address::Unix(path.to_owned());
        let shown = address.to_string();
        let hint = hint(&source, &address, &shown);
        BindError { address: shown, endpoint: endpoint.to_owned(), hint, source }
    })
}

/// Its clients are few.
const BACKLOG: i32 = 16;
