//! `[script.ID]`: where its text is, and what cannot be with it: a text that is no
//! Luau, a handler of a signal that there is not, a function that a wire names and nobody has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Config, Fault, Place};
use crate::nearest::{did_you_mean, quoted};
use crate::registry::Of;
use crate::script::{ScriptOptions, Source, check};
use crate::wiring::{Filter, Signal};

/// A script by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScriptConfig {
    /// Its text, if it stands in the config.
    pub code: String,
    /// The file it stands in otherwise, seen from the config's folder.
    pub file: String,
    /// The object whose signals its functions `on_…` handle; empty for none.
    pub target: String,
    /// The file `auth.verify` looks in, seen from the config's folder; empty for none.
    pub passwords: String,
    /// Its text, as it was read.
    pub source: Source,
    /// What it may take.
    pub options: ScriptOptions,
}

impl ScriptConfig {
    /// A script that stands in a text.
    pub fn new(source: Source) -> Self {
        Self { code: source.text.to_string(), source, ..Self::default() }
    }

    /// Finds its text and files, with what a key in `folder` means. `line` is where `code` begins in the file `name`.
    ///
    /// # Errors
    /// What is wrong with `code` or `file`.
    pub(super) fn resolve(
        &mut self,
        name: &str,
        folder: &Path,
        line: usize,
        read: impl Fn(&Path) -> Result<String, String>,
    ) -> Result<(), (&'static str, String)> {
        if !self.passwords.is_empty() {
            self.options.passwords = Some(folder.join(&self.passwords));
        }
        self.source = match (self.code.is_empty(), self.file.is_empty()) {
            (true, true) => return Err(("", "has neither `code` nor `file`; write one".into())),
            (false, false) => return Err(("file", "stands beside `code`; remove one".into())),
            (false, true) => Source { name: name.into(), text: self.code.as_str().into(), line },
            (true, false) => {
                let path: PathBuf = folder.join(&self.file);
                let text =
                    read(&path).map_err(|problem| ("file", format!("{}: {problem}", path.display())))?;
                Source::new(self.file.as_str(), text)
            }
        };
        if self.source.text.len() > LONGEST {
            let key = if self.file.is_empty() { "code" } else { "file" };
            return Err((key, "is longer than 1 MiB; no script is".into()));
        }
        Ok(())
    }
}

impl Config {
    /// The scripts, as `script.ID`.
    pub(crate) fn scripts(&self) -> impl Iterator<Item = String> {
        self.script.keys().map(|id| format!("script.{id}"))
    }

    /// The objects whose signals scripts handle.
    pub(crate) fn script_targets(&self) -> impl Iterator<Item = &str> {
        self.script.values().map(|script| script.target.as_str()).filter(|target| !target.is_empty())
    }

    /// The scripts by name, each with the number of wires that come before it: the order of the files. Without
    /// one, all wires come first.
    pub(crate) fn scripts_in_order(&self) -> Vec<(usize, &str)> {
        let known = self.between.iter().filter(|(_, id)| self.script.contains_key(id));
        let mut order: Vec<_> = known.map(|(wires, id)| (*wires, id.as_str())).collect();
        let others = self.script.keys().filter(|id| !self.between.iter().any(|(_, known)| known == *id));
        order.extend(others.map(|id| (usize::MAX, id.as_str())));
        order
    }

    /// What is wrong with the scripts, and with wires to them.
    pub(super) fn check_scripts(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut functions = BTreeMap::new();
        for (id, script) in &self.script {
            let mut add =
                |key, text: String| faults.push(Fault { place: Place::new("script", id, key), text });
            let options = &script.options;
            if !(1 << 20..=1 << 30).contains(&options.max_memory) {
                add("max_memory", "is not from 1MiB to 1GiB; write for example 16MiB".into());
                continue;
            }
            if !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&options.max_time) {
                add("max_time", "is not from 1ms to 10s; write for example 20ms".into());
                continue;
            }
            // That it has no text was said when it was read.
            if script.source.text.is_empty() {
                continue;
            }
            let key = if script.file.is_empty() { "code" } else { "file" };
            match check(&script.source, options) {
                Ok(names) => {
                    self.check_handlers(script, &names, &self.called(id), &mut |text| add(key, text));
                    functions.insert(format!("script.{id}"), names);
                }
                Err(error) => add(key, error.text),
            }
            if !script.target.is_empty() && self.kind_of(&script.target).is_none() {
                add("target", self.object(&script.target).err().unwrap_or_default());
            }
        }
        self.check_functions(&functions, &mut faults);
        faults
    }

    /// Scripts of which nothing is called.
    pub(super) fn unused_scripts(&self) -> impl Iterator<Item = &String> {
        let unused =
            |(id, script): &(&String, &ScriptConfig)| script.target.is_empty() && self.called(id).is_empty();
        self.script.iter().filter(unused).map(|(id, _)| id)
    }

    /// The functions of a script that wires and steps name.
    fn called(&self, id: &str) -> BTreeSet<&str> {
        let object = format!("script.{id}");
        let slots = self
            .connect
            .iter()
            .map(|wire| &wire.slot)
            .chain(self.step.iter().filter_map(|step| step.call.as_ref()));
        let slots = slots.filter(|slot| slot.object == object).map(|slot| slot.name.as_str());
        let relays = self.relay.values().flat_map(|relay| relay.via.iter().chain(&relay.via_back));
        let filters = self.connect.iter().flat_map(|wire| &wire.via).chain(relays);
        let filters = filters.filter_map(|filter| match filter {
            Filter::Function { script, function } if **script == *object => Some(&**function),
            _ => None,
        });
        slots.chain(filters).collect()
    }

    /// That each `on_…` is a signal of the target.
    fn check_handlers(
        &self,
        script: &ScriptConfig,
        names: &[Arc<str>],
        called: &BTreeSet<&str>,
        add: &mut dyn FnMut(String),
    ) {
        let target = &script.target;
        let handlers = names.iter().filter_map(|name| Some((name, name.strip_prefix("on_")?)));
        let mut any = false;
        for (name, signal) in handlers.clone().filter(|(name, _)| !called.contains(&***name)) {
            any = true;
            if target.is_empty() {
                add(format!("nothing calls `{name}`; name the object of the signal in `target`"));
                continue;
            }
            // What a script emits it may emit by any name.
            let Some(of) = self.kind_of(target).filter(|of| *of != Of::Script) else { continue };
            if let Err(hint) = Signal::find(of, signal) {
                let hint = hint.replace("did you mean `", "did you mean `on_");
                add(format!("`{name}` handles nothing: `{target}` has no signal `{signal}`{hint}"));
            }
        }
        if !any && !target.is_empty() {
            add(format!(
                "has no handler for `{target}`; write for example function on_message_received(conn, data)"
            ));
        }
        if names.iter().any(|name| &**name == "on_message_received")
            && let Some(relay) = self.relay_of(target)
        {
            add(format!(
                "relay.{relay} has the bytes of `{target}`; take it out of that relay, or handle other signals"
            ));
        }
    }

    /// That each function a wire names is there.
    fn check_functions(&self, functions: &BTreeMap<String, Vec<Arc<str>>>, faults: &mut Vec<Fault>) {
        let missing = |object: &str, function: &str| {
            let names = functions.get(object)?;
            let list = || names.iter().map(|name| &**name);
            if list().any(|name| name == function) {
                return None;
            }
            let hint = did_you_mean(function, list()).unwrap_or_else(|| match names[..] {
                [] => "; it has none".into(),
                _ => format!("; there are {}", quoted(list())),
            });
            Some(format!("`{object}` has no function `{}`{hint}", function.escape_debug()))
        };
        for (nth, wire) in self.connect.iter().enumerate() {
            let at = |key| Place::new("connect", &(nth + 1).to_string(), key);
            if let Some(text) = missing(&wire.slot.object, &wire.slot.name) {
                faults.push(Fault { place: at("slot"), text });
            }
            for (element, filter) in wire.via.iter().enumerate() {
                if let Filter::Function { script, function } = filter
                    && let Some(text) = missing(script, function)
                {
                    faults.push(Fault { place: at("via").element(element), text });
                }
            }
        }
        for (id, relay) in &self.relay {
            for (key, filters) in [("via", &relay.via), ("via_back", &relay.via_back)] {
                for (element, filter) in filters.iter().enumerate() {
                    if let Filter::Function { script, function } = filter
                        && let Some(text) = missing(script, function)
                    {
                        faults.push(Fault { place: Place::new("relay", id, key).element(element), text });
                    }
                }
            }
        }
        for (nth, step) in self.step.iter().enumerate() {
            if let Some(call) = &step.call
                && let Some(text) = missing(&call.object, &call.name)
            {
                faults.push(Fault { place: Place::new("step", &(nth + 1).to_string(), "call"), text });
            }
        }
    }
}

/// In bytes, of a text.
const LONGEST: usize = 1 << 20;

#[cfg(all(test, not(feature = "script")))]
mod tests {
    use super::*;

    #[test]
    fn without_scripts_a_file_with_one_is_told_which_feature_is_missing() {
        let text = "[listen.a]\nbind = \"127.0.0.1:0\"\n[script.s]\ntarget = \"a\"\ncode = \"function on_listening() end\"\n";
        let error = Config::parse(vec![("x.toml".into(), text.into())]).unwrap_err().to_string();
        assert!(
            error.starts_with("x.toml:5:8: script.s.code: this program was built without scripts"),
            "{error}"
        );
        assert!(error.ends_with("build it with the feature `script`"), "{error}");
    }
}
