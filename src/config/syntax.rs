//! Faults of syntax: the parser's words, made into what was found and what to
//! try, and without those that only follow from another.

use std::ops::Range;

use toml::de::Error;

/// The faults with their offsets, one a line: what follows on the same line is a consequence.
pub(super) fn explain(text: &str, errors: &[Error]) -> Vec<(usize, String)> {
    let mut spans: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
    spans.sort_by_key(|(span, _)| span.start);
    let mut faults = Vec::new();
    let mut last_line = None;
    let mut repeated = 0..0;
    for (span, message) in spans {
        let line = text.get(..span.start).map(|before| before.matches('\n').count());
        if line.is_some() && last_line.replace(line) == Some(line) {
            continue;
        }
        if message.contains("duplicate key") {
            // In a table that is there twice every key is.
            if repeated.contains(&span.start) {
                continue;
            }
            repeated = repeated_table(text, &span).unwrap_or(repeated);
        }
        faults.push((span.start, explain_one(message, text, &span)));
        if faults.len() == MOST {
            break;
        }
    }
    faults
}

fn explain_one(message: &str, text: &str, span: &Range<usize>) -> String {
    let written = text.get(span.clone()).unwrap_or_default();
    let shown = written.lines().next().unwrap_or_default().escape_debug();
    if message.contains("duplicate key") {
        let first =
            first_line(text, span).map_or_else(|| "twice".into(), |line| format!("in line {line} already"));
        format!("`{shown}` is {first}; remove one, or give it another name")
    } else if message.contains("must be quoted") || message.contains("invalid float") {
        "a value is no number, list or true or false; write text in quotes, as in bind = \"127.0.0.1:9000\""
            .into()
    } else if message.contains("cannot extend value") {
        format!("`{shown}` is a value already and cannot be a table too; remove one")
    } else {
        format!("{message}; correct it as TOML")
    }
}

/// Where the key or the table header was written first, counted from 1.
fn first_line(text: &str, span: &Range<usize>) -> Option<usize> {
    let written = text.get(span.clone())?;
    let line = |offset: usize| text[..offset].matches('\n').count();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let own = line(span.start);
    let begin = match lines.get(own)?.starts_with('[') {
        true => 0,
        false => lines[..own].iter().rposition(|line| line.starts_with('[')).map_or(0, |header| header + 1),
    };
    let same = |other: &str| match lines[own].starts_with('[') {
        true => other.split('#').next() == lines[own].split('#').next(),
        false => other.split('=').next().is_some_and(|key| key.trim() == written),
    };
    lines[begin..own].iter().position(|line| same(line)).map(|nth| begin + nth + 1)
}

/// What belongs to a table whose header is there twice.
fn repeated_table(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let line_start = text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    if !text[line_start..].trim_start().starts_with('[') {
        return None;
    }
    let end = text.get(span.end..)?.find("\n[").map_or(text.len(), |next| span.end + next);
    Some(span.start..end)
}

/// Nobody reads more; most of them would follow from the first.
const MOST: usize = 100;
