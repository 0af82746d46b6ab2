//! From files to a [`Config`]: reads each once, and finds every fault with its
//! place. Nothing else is opened.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expand::expand;
use super::keys::{self, Key};
use super::kinds::unknown_key;
use super::origin::{Origins, Spot};
use super::syntax;
use super::{ClientConfig, Config, DiscoveryConfig, ListenConfig, Place, RelayConfig, ScriptConfig};
use crate::address::Address;
use crate::nearest::did_you_mean;
use crate::net::TlsOptions;
use crate::wiring::{StepOptions, TimerOptions, WireOptions};

/// Files that are no config: everything that is wrong with them, a line each,
/// as `file:line:column: where: what; what to try`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The lines.
    pub faults: Vec<String>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("\n"))
    }
}

impl std::error::Error for FileError {}

impl Config {
    /// Reads a config from TOML files, which are merged, and checks it.
    /// Variables are those of this process.
    ///
    /// # Errors
    /// Everything that is wrong with it. Nothing was opened but the files.
    pub fn read<P: AsRef<Path>>(files: &[P]) -> Result<(Self, Origins), FileError> {
        let mut texts = Vec::new();
        let mut faults = Vec::new();
        for path in files {
            let name = path.as_ref().display().to_string();
            match read(path.as_ref()) {
                Ok(text) => texts.push((name, text)),
                Err(problem) => faults.push(format!("{}: {problem}", name.escape_debug())),
            }
        }
        if faults.is_empty() { Self::parse(texts) } else { Err(FileError { faults }) }
    }

    /// The same from texts that were read before, each with its name.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(texts: Vec<(String, String)>) -> Result<(Self, Origins), FileError> {
        let mut reading = Reading::default();
        for (name, text) in texts {
            let folder = Path::new(&name).parent().unwrap_or_else(|| Path::new("")).to_owned();
            reading.files.push((name.clone(), folder));
            reading.origins.add(&name, text);
        }
        reading.run();
        let Reading { config, origins, mut faults, .. } = reading;
        if faults.is_empty() {
            return Ok((config, origins));
        }
        faults.sort();
        faults.dedup();
        let faults = faults.iter().map(|(spot, text)| origins.line(*spot, text)).collect();
        Err(FileError { faults })
    }
}

/// Reads a file whole, or says why not. Never waits for a pipe.
fn read(path: &Path) -> Result<String, String> {
    let explain = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such file; `node example` prints some to begin with".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => "may not be read; change its permissions".into(),
        _ => format!("cannot be read: {error}; name another file"),
    };
    let kind = fs::metadata(path).map_err(explain)?.file_type();
    if kind.is_dir() {
        return Err("is a folder; name the files in it".into());
    }
    if !kind.is_file() {
        return Err("is no regular file; write the config to one".into());
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(explain)?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(explain)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err("is larger than 4 MiB; no config is".into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: byte {valid} of the file is not UTF-8; write it in UTF-8")
    })
}

#[derive(Default)]
struct Reading {
    config: Config,
    origins: Origins,
    /// Their names, and the folders they are in.
    files: Vec<(String, PathBuf)>,
    vars: BTreeMap<String, String>,
    faults: Vec<(Spot, String)>,
    /// Strings with a variable that is not set.
    unset: Vec<Spot>,
    /// Strings that had a variable in them.
    expanded: HashSet<Spot>,
    /// Objects, and `node`, of which something could not be read.
    unread: HashSet<(&'static str, String)>,
}

impl Reading {
    fn run(&mut self) {
        let origins = &self.origins;
        let texts: Vec<_> = (0..origins.len()).map(|file| origins.text(file).to_owned()).collect();
        let mut tables = Vec::new();
        for (file, text) in texts.iter().enumerate() {
            let (table, errors) = DeTable::parse_recoverable(text);
            let faults = syntax::explain(text, &errors).into_iter();
            self.faults.extend(faults.map(|(offset, text)| (Spot { file, offset }, text)));
            tables.push(table.into_inner());
        }
        // After a fault of syntax nobody knows what the rest would have meant.
        if !self.faults.is_empty() {
            return;
        }
        for (file, table) in tables.iter_mut().enumerate() {
            self.vars(file, table);
        }
        for (file, table) in tables.iter_mut().enumerate() {
            self.expand_table(file, "", table);
        }
        for (file, table) in tables.iter().enumerate() {
            self.tables(file, table);
        }
        self.order_scripts();
        let mut faults = self.config.check_parts();
        if self.faults.is_empty() && faults.is_empty() {
            faults = self.config.unused();
        }
        for fault in faults {
            // Nothing to do is a consequence of anything that could not be read.
            if fault.place.id.is_empty() && fault.place.table == "relay" && !self.faults.is_empty() {
                continue;
            }
            // What is left of an object that could not be read is not judged, but names are.
            let object = (fault.place.table, fault.place.id.clone());
            if fault.place.element.is_some() || !self.unread.contains(&object) {
                self.faults.push((self.origins.spot(&fault.place), fault.to_string()));
            }
        }
    }

    /// Remembers which wires stand before which scripts.
    fn order_scripts(&mut self) {
        let spot = |table, id: &str| self.origins.spot(&Place::new(table, id, ""));
        let wires: Vec<_> =
            (1..=self.config.connect.len()).map(|nth| spot("connect", &nth.to_string())).collect();
        let mut scripts: Vec<_> =
            self.config.script.keys().map(|id| (spot("script", id), id.clone())).collect();
        scripts.sort();
        let before = |script: Spot| wires.iter().filter(|wire| **wire < script).count();
        self.config.between = scripts.into_iter().map(|(spot, id)| (before(spot), id)).collect();
    }

    fn fault(&mut self, file: usize, span: &Range<usize>, text: impl Into<String>) {
        self.faults.push((Spot::new(file, span), text.into()));
    }

    /// `[vars]`, which may use the environment and nothing else.
    fn vars(&mut self, file: usize, root: &mut DeTable<'_>) {
        let Some(key) = root.keys().find(|key| key.get_ref() == "vars").map(|key| key.span()) else { return };
        let Some(vars) = root.remove("vars") else { return };
        let DeValue::Table(table) = vars.get_ref() else {
            return self.fault(file, &key, "vars: is a table of its own; write [vars]");
        };
        for (name, value) in table {
            let place = format!("vars.{}", name.get_ref().escape_debug());
            let Some(text) = value.get_ref().as_str() else {
                let text = format!("{place}: found no text; write it in quotes");
                self.fault(file, &value.span(), text);
                continue;
            };
            match expand(text, &environment, &BTreeMap::new()) {
                Ok(text) if !self.vars.contains_key(name.get_ref().as_ref()) => {
                    self.vars.insert(name.get_ref().clone().into_owned(), text);
                }
                Ok(_) => {
                    self.fault(file, &name.span(), format!("{place}: another file sets it too; remove one"))
                }
                Err(problem) => self.fault(file, &value.span(), format!("{place}: {problem}")),
            }
        }
    }

    fn expand_table(&mut self, file: usize, path: &str, table: &mut DeTable<'_>) {
        let names: Vec<_> = table.keys().map(|key| key.get_ref().clone().into_owned()).collect();
        for (name, (_, value)) in names.iter().zip(table.iter_mut()) {
            let dot = if path.is_empty() { "" } else { "." };
            self.expand_value(file, &format!("{path}{dot}{}", name.escape_debug()), value);
        }
    }

    fn expand_value(&mut self, file: usize, path: &str, value: &mut Spanned<DeValue<'_>>) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("${") => match expand(text, &environment, &self.vars) {
                Ok(expanded) => {
                    *text = expanded.into();
                    self.expanded.insert(Spot::new(file, &span));
                }
                Err(problem) => {
                    self.fault(file, &span, format!("{path}: {problem}"));
                    self.unset.push(Spot::new(file, &span));
                    *text = "".into();
                }
            },
            DeValue::Array(list) => {
                list.iter_mut().for_each(|element| self.expand_value(file, path, element));
            }
            DeValue::Table(table) => self.expand_table(file, path, table),
            _ => {}
        }
    }

    fn tables(&mut self, file: usize, root: &DeTable<'_>) {
        for (name, value) in root {
            let span = name.span();
            let shown = name.get_ref().escape_debug().to_string();
            let table = TABLES.iter().find(|table| **table == name.get_ref().as_ref());
            let Some(table) = table else {
                let hint = did_you_mean(&shown, TABLES.into_iter()).unwrap_or_else(|| {
                    "; the tables are [node], [vars], [listen.ID], [client.ID], [relay.ID], [tls.ID], \
                     [discovery.ID], [timer.ID], [script.ID], [[connect]] and [[step]]"
                        .into()
                });
                self.fault(file, &span, format!("{shown}: there is no such table{hint}"));
                continue;
            };
            if LISTS.contains(table) {
                let _ = self.origins.enter(Place::new(table, "", ""), Spot::new(file, &span));
                self.list(file, table, &span, value);
                continue;
            }
            let DeValue::Table(inside) = value.get_ref() else {
                let header = if *table == "node" { "[node]".into() } else { format!("[{table}.ID]") };
                self.fault(file, &span, format!("{shown}: is a table; write {header} and its keys below"));
                continue;
            };
            let spot = Spot::new(file, &span);
            if *table == "node" {
                // Files may share it, as long as each key is in one of them.
                let _ = self.origins.enter(Place::new("node", "", ""), spot);
                let mut config = std::mem::take(&mut self.config);
                self.keys(file, &Place::new("node", "", ""), inside, &keys::node(), &mut config);
                self.config = config;
            } else {
                let _ = self.origins.enter(Place::new(table, "", ""), spot);
                for (id, object) in inside {
                    self.object(file, table, id, object);
                }
            }
        }
    }

    /// The tables of a list, `[[connect]]`, which are counted over all files.
    fn list(&mut self, file: usize, table: &'static str, span: &Range<usize>, value: &Spanned<DeValue<'_>>) {
        let elements = value.get_ref().as_array();
        let Some(elements) = elements.filter(|list| list.iter().all(|one| one.get_ref().is_table())) else {
            let hint = if table == "connect" { "; a target is [client.ID]" } else { "" };
            return self.fault(
                file,
                span,
                format!("{table}: is a list; write [[{table}]] and its keys below{hint}"),
            );
        };
        for element in elements.iter() {
            let DeValue::Table(inside) = element.get_ref() else { continue };
            let nth = if table == "connect" { self.config.connect.len() } else { self.config.step.len() };
            let place = Place::new(table, &(nth + 1).to_string(), "");
            let _ = self.origins.enter(place.clone(), Spot::new(file, &element.span()));
            if table == "connect" {
                let mut wire = WireOptions::default();
                self.keys(file, &place, inside, &keys::connect(), &mut wire);
                self.config.connect.push(wire);
            } else {
                let mut step = StepOptions::default();
                self.keys(file, &place, inside, &keys::step(), &mut step);
                self.config.step.push(step);
            }
        }
    }

    fn object(
        &mut self,
        file: usize,
        table: &'static str,
        id: &Spanned<std::borrow::Cow<'_, str>>,
        object: &Spanned<DeValue<'_>>,
    ) {
        let span = id.span();
        let id = id.get_ref().as_ref();
        let place = Place::new(table, id, "");
        let DeValue::Table(inside) = object.get_ref() else {
            let text = format!("{place}: stands in no object; write [{table}.NAME] and its keys below");
            return self.fault(file, &span, text);
        };
        if let Err(earlier) = self.origins.enter(place.clone(), Spot::new(file, &span)) {
            let earlier = self.origins.position(earlier);
            let text = format!("{place}: is in {earlier} already; give one another name");
            return self.fault(file, &span, text);
        }
        match table {
            "listen" => {
                let mut listener = ListenConfig::new(NOWHERE);
                self.keys(file, &place, inside, &keys::listen(), &mut listener);
                self.config.listen.insert(id.to_owned(), listener);
            }
            "client" => {
                let mut client = ClientConfig::new(NOWHERE);
                self.keys(file, &place, inside, &keys::client(), &mut client);
                self.config.client.insert(id.to_owned(), client);
            }
            "tls" => {
                let mut tls = TlsOptions::default();
                self.keys(file, &place, inside, &keys::tls(), &mut tls);
                tls.seen_from(&self.files[file].1);
                self.config.tls.insert(id.to_owned(), tls);
            }
            "discovery" => {
                let mut discovery = DiscoveryConfig::new(NOWHERE, "");
                self.keys(file, &place, inside, &keys::discovery(), &mut discovery);
                self.config.discovery.insert(id.to_owned(), discovery);
            }
            "timer" => {
                let mut timer = TimerOptions::default();
                self.keys(file, &place, inside, &keys::timer(), &mut timer);
                self.config.timer.insert(id.to_owned(), timer);
            }
            "script" => self.script(file, &place, inside),
            _ => {
                let mut relay = RelayConfig::default();
                self.keys(file, &place, inside, &keys::relay(), &mut relay);
                self.config.relay.insert(id.to_owned(), relay);
            }
        }
    }

    /// A script, with the text it stands in.
    fn script(&mut self, file: usize, place: &Place, table: &DeTable<'_>) {
        let mut script = ScriptConfig::default();
        let before = self.faults.len();
        self.keys(file, place, table, &keys::script(), &mut script);
        let line = table.get("code").map_or(1, |code| first_line(self.origins.text(file), &code.span()));
        let (path, folder) = self.files[file].clone();
        let name =
            Path::new(&path).file_name().map_or_else(|| path.as_str().into(), |name| name.to_string_lossy());
        if self.faults.len() == before
            && let Err((key, text)) = script.resolve(&name, &folder, line, read)
        {
            let place = Place { key, ..place.clone() };
            self.faults.push((self.origins.spot(&place), format!("{place}: {text}")));
        }
        self.config.script.insert(place.id.clone(), script);
    }

    /// Reads the keys of one table into `object`.
    fn keys<T>(&mut self, file: usize, place: &Place, table: &DeTable<'_>, keys: &[Key<T>], object: &mut T) {
        let before = self.faults.len();
        for (name, value) in table {
            let shown = name.get_ref().escape_debug().to_string();
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref().as_ref()) else {
                let known: Vec<_> = keys.iter().map(|key| key.name).collect();
                let text = format!("{place}.{shown}: {}", unknown_key(&shown, &known));
                self.fault(file, &name.span(), text);
                continue;
            };
            let place = Place { key: key.name, ..place.clone() };
            if let Err(earlier) = self.origins.enter(place.clone(), Spot::new(file, &value.span())) {
                let earlier = self.origins.position(earlier);
                self.fault(file, &name.span(), format!("{place}: is set in {earlier} already; remove one"));
                continue;
            }
            let elements = value.get_ref().as_array().into_iter().flat_map(|list| list.iter());
            for (nth, element) in elements.enumerate() {
                let _ = self.origins.enter(place.clone().element(nth), Spot::new(file, &element.span()));
            }
            let span = value.span();
            let is_inside = |spot: &Spot| spot.file == file && span.contains(&spot.offset);
            // A variable that is not set was said already.
            if self.unset.iter().any(is_inside) {
                self.unread.insert((place.table, place.id.clone()));
                continue;
            }
            let mut result = key.read(object, value.get_ref());
            if let (Err(_), DeValue::String(text)) = (&result, value.get_ref())
                && self.expanded.contains(&Spot::new(file, &span))
                && let Ok(bare) = DeValue::parse(text)
            {
                // A variable can only be written in quotes, a number or a switch only without.
                result = key.read(object, bare.get_ref()).or(result);
            }
            for problem in result.err().into_iter().flatten() {
                let spot = match problem.element {
                    Some(nth) => self.origins.spot(&place.clone().element(nth)),
                    None => self.origins.spot(&place),
                };
                self.faults.push((spot, format!("{place}: {}", problem.text)));
            }
        }
        let is_missing = |key: &&Key<T>| key.is_required && !table.contains_key(key.name);
        for key in keys.iter().filter(is_missing) {
            let text = format!("{place}: `{}` is missing; write {}", key.name, key.expected());
            self.faults.push((self.origins.spot(place), text));
        }
        if self.faults.len() > before {
            self.unread.insert((place.table, place.id.clone()));
        }
    }
}

/// The line that what stands in quotes begins in.
fn first_line(text: &str, quoted: &Range<usize>) -> usize {
    let lines = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count();
    let quotes = text.get(quoted.clone()).unwrap_or_default();
    let is_long = quotes.starts_with("'''") || quotes.starts_with("\"\"\"");
    // A newline right after the quotes is not part of it.
    let skips = is_long && quotes[3..].trim_start_matches('\r').starts_with('\n');
    lines(&text[..quoted.start]) + 1 + usize::from(skips)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

const TABLES: [&str; 10] =
    ["node", "listen", "client", "relay", "tls", "discovery", "timer", "script", "connect", "step"];
/// Those of them that are lists.
const LISTS: [&str; 2] = ["connect", "step"];
/// Stands for an address that is missing or could not be read; its object is not judged.
const NOWHERE: Address = Address::Echo;
const MOST_BYTES: u64 = 4 << 20;
