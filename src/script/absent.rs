//! What stands here where the program was built without scripts: everything is refused, by the feature's name.

use std::sync::Arc;

use super::error::ScriptError;
use super::options::{ScriptOptions, Source};
use crate::registry::{Call, Called, Functions, Registry};

/// There is none.
#[derive(Debug)]
pub(crate) enum Script {}

impl Script {
    pub(crate) async fn start(
        _: &str,
        _: &Source,
        _: &ScriptOptions,
        _: &Registry,
    ) -> Result<Arc<Self>, ScriptError> {
        Err(ScriptError::new(NOT_BUILT))
    }

    pub(crate) fn close(&self) {
        match *self {}
    }

    pub(crate) async fn stop(&self) {
        match *self {}
    }
}

impl Functions for Script {
    fn names(&self) -> Vec<Arc<str>> {
        match *self {}
    }

    fn call<'a>(&'a self, _: &'a str, _: Call) -> Called<'a> {
        match *self {}
    }
}

pub(crate) fn check(_: &Source, _: &ScriptOptions) -> Result<Vec<Arc<str>>, ScriptError> {
    Err(ScriptError::new(NOT_BUILT))
}

#[cfg(feature = "cli")]
pub(crate) mod passwords {
    use std::path::Path;

    use super::NOT_BUILT;

    pub(crate) fn set(_: &Path, _: &str, _: &[u8]) -> Result<bool, String> {
        Err(NOT_BUILT.into())
    }
}

const NOT_BUILT: &str = "this program was built without scripts; build it with the feature `script`";
