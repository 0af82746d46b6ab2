//! Errors as they are said: of a running program in lines of their own for
//! cause and hint, and clap's as one line each: where, what, what to try.

use std::fmt::Write;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::args::Args;
use crate::address::Address;
use crate::nearest::did_you_mean;

/// What failed, all that caused it, and what to try.
pub(super) fn said(what: String, cause: Option<&dyn std::error::Error>, hint: Option<&str>) -> String {
    let mut text = what;
    for cause in std::iter::successors(cause, |error| error.source()) {
        let _ = write!(text, "\n  caused by: {cause}");
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\n  try: {hint}");
    }
    text
}

/// The line for an error that is not a request for help.
pub(super) fn line(error: &Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    // As in `--listen <ADDR>`.
    let option =
        argument.split(' ').next().unwrap_or_default().trim_end_matches('.').escape_debug().to_string();
    match error.kind() {
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
            let word =
                text(ContextKind::InvalidSubcommand).map_or(option, |word| word.escape_debug().to_string());
            let suggested =
                text(ContextKind::SuggestedArg).or_else(|| text(ContextKind::SuggestedSubcommand));
            let what = if word.starts_with('-') { "unknown option" } else { "unexpected word" };
            let verbs = Args::command();
            // A verb in the wrong place, as in `node man run`, is not meant otherwise.
            let names = verbs.get_subcommands().map(clap::Command::get_name).filter(|name| *name != word);
            let verb = did_you_mean(&word, names);
            match suggested {
                _ if word.ends_with(".toml") => format!("{word}: {what}; did you mean `node run {word}`?"),
                None if word.parse::<Address>().is_ok() => {
                    format!("{word}: {what}; did you mean `--listen {word}`?")
                }
                Some(suggested) => format!("{word}: {what}; did you mean `{suggested}`?"),
                None => {
                    let hint = verb.unwrap_or_else(|| "; `node --help` lists what there is".into());
                    format!("{word}: {what}{hint}")
                }
            }
        }
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                let value = text(ContextKind::InvalidValue).unwrap_or_default();
                format!("{option}: `{}` is not possible; write {}", value.escape_debug(), valid.join(" or "))
            }
            _ if option == "--listen" || option == "--connect" => {
                format!(
                    "{option}: needs an address; write for example {option} 9000 or {option} 127.0.0.1:9000"
                )
            }
            _ => format!("{option}: needs a value; `node --help` shows which"),
        },
        ErrorKind::ArgumentConflict if option.is_empty() => {
            "a word stands alone; every address has its option, as in --connect host:9001, \
             and a command comes first, as in node status --control PATH"
                .into()
        }
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg).unwrap_or_default();
            let other = other.split(' ').next().unwrap_or_default().trim_end_matches('.');
            if other == option {
                return format!("{option}: is given twice; remove one");
            }
            format!("{option}: cannot stand beside {other}; remove one")
        }
        ErrorKind::MissingRequiredArgument if option.starts_with("<FILE>") => {
            "a FILE is missing; `--help` after the command says which, and `node example` has some".into()
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{option}: is missing; `--help` after the command says what it may be")
        }
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8; write it in UTF-8".into(),
        _ => {
            let rendered = error.to_string();
            let first = rendered.lines().next().unwrap_or_default();
            format!("{}; `node --help` lists what there is", first.trim_start_matches("error: "))
        }
    }
}
