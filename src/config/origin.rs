//! Where each part of a config was written, so that a fault can name its place.

use std::collections::HashMap;
use std::ops::Range;

use super::{Fault, Place};

/// The files of a config, and where in them its parts are.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    files: Vec<Source>,
    places: HashMap<Place, Spot>,
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
    /// Where its lines begin.
    lines: Vec<usize>,
}

/// A byte of a file. They are ordered as they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Spot {
    pub(super) file: usize,
    pub(super) offset: usize,
}

impl Spot {
    pub(super) fn new(file: usize, span: &Range<usize>) -> Self {
        Self { file, offset: span.start }
    }
}

impl Origins {
    /// `file:line:column` of a part, or of the nearest that was written.
    pub fn locate(&self, place: &Place) -> String {
        self.position(self.spot(place))
    }

    /// The faults in words, each with `file:line:column`, in the order of the files.
    pub fn explain(&self, faults: &[Fault]) -> Vec<String> {
        let mut lines: Vec<_> =
            faults.iter().map(|fault| (self.spot(&fault.place), fault.to_string())).collect();
        lines.sort_by_key(|(spot, _)| *spot);
        lines.into_iter().map(|(spot, text)| self.line(spot, &text)).collect()
    }

    /// Adds a file and yields its number.
    pub(super) fn add(&mut self, name: &str, text: String) -> usize {
        let lines =
            std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        self.files.push(Source { name: name.escape_debug().to_string(), text, lines });
        self.files.len() - 1
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn text(&self, file: usize) -> &str {
        &self.files[file].text
    }

    /// Remembers a place, or tells where it was before.
    pub(super) fn enter(&mut self, place: Place, spot: Spot) -> Result<(), Spot> {
        match self.places.get(&place) {
            Some(earlier) => Err(*earlier),
            None => {
                self.places.insert(place, spot);
                Ok(())
            }
        }
    }

    /// Where a place is, or the nearest that was written.
    pub(super) fn spot(&self, place: &Place) -> Spot {
        let whole = Place { element: None, ..place.clone() };
        let object = Place::new(place.table, &place.id, "");
        let table = Place::new(place.table, "", "");
        let known = [place, &whole, &object, &table].into_iter().find_map(|place| self.places.get(place));
        known.copied().unwrap_or(Spot { file: 0, offset: 0 })
    }

    /// `file:line:column`.
    pub(super) fn position(&self, spot: Spot) -> String {
        let Some(file) = self.files.get(spot.file) else { return "config".into() };
        let line = file.lines.partition_point(|begin| *begin <= spot.offset);
        let before = file.text.get(file.lines[line - 1]..spot.offset).unwrap_or_default();
        let column = before.chars().count() + 1;
        format!("{}:{line}:{column}", file.name)
    }

    pub(super) fn line(&self, spot: Spot, text: &str) -> String {
        format!("{}: {text}", self.position(spot))
    }
}
