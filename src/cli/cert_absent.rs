//! In the place of `node cert` where TLS is not built.

use std::path::Path;

use crate::net::NO_TLS;

/// Says that there is none.
pub(super) fn make(_: &Path, _: &[String], _: u32) -> Result<String, String> {
    Err(NO_TLS.into())
}
