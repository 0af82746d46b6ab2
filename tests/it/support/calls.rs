//! [`Calls`]: what slots write down.

use std::sync::{Arc, Mutex};

/// What was called, in order, and slots that write it down.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    pub(crate) fn slot(&self, name: &str) -> impl Fn(&u32) + Send + Sync + use<> {
        let (calls, name) = (self.clone(), name.to_owned());
        move |value| calls.note(&format!("{name}{value}"))
    }

    pub(crate) fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
