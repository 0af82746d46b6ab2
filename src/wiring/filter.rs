//! [`Filter`]: what a wire does to a frame on its way. Each takes one and
//! yields none, one or several.

use std::sync::Arc;

use super::template::{Template, read_hex, write_hex};
use crate::framing::Pattern;
use crate::registry::{Call, CallError, Frame, Registry};

/// One filter of a wire, in the order of its list.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Takes white space off both ends.
    Trim,
    /// Makes ASCII letters large.
    Upper,
    /// Makes ASCII letters small.
    Lower,
    /// Makes hexadecimal digits of bytes.
    Hex,
    /// Makes bytes of hexadecimal digits; what is none is dropped.
    Unhex,
    /// Puts a text before it.
    Prefix(String),
    /// Puts a text behind it.
    Suffix(String),
    /// Puts a text with placeholders in its place.
    Template(Template),
    /// Drops what does not match.
    Match(Pattern),
    /// Makes several of it, at each occurrence of a text, which is left out.
    Split(String),
    /// Asks a function of a script.
    Function {
        /// The script, as `script.ID`.
        script: Arc<str>,
        /// The function.
        function: Arc<str>,
    },
}

impl Filter {
    /// The names of those that take nothing.
    pub(crate) const WORDS: [&str; 5] = ["trim", "upper", "lower", "hex", "unhex"];
    /// The names of those that take a text.
    pub(crate) const KEYS: [&str; 5] = ["template", "prefix", "suffix", "match", "split"];

    /// The one of a word.
    pub(crate) fn word(word: &str) -> Option<Self> {
        Some(match word {
            "trim" => Self::Trim,
            "upper" => Self::Upper,
            "lower" => Self::Lower,
            "hex" => Self::Hex,
            "unhex" => Self::Unhex,
            _ => {
                let (script, function) = word.strip_prefix("script.")?.split_once('.')?;
                if script.is_empty() || function.is_empty() || function.contains('.') {
                    return None;
                }
                Self::Function { script: format!("script.{script}").into(), function: function.into() }
            }
        })
    }

    /// The one of a key with its text.
    ///
    /// # Errors
    /// Nothing, if there is none of this key; else what is wrong with the text.
    pub(crate) fn keyed(key: &str, text: &str) -> Result<Self, Option<String>> {
        Ok(match key {
            "template" => Self::Template(Template::parse(text)?),
            "prefix" => Self::Prefix(text.to_owned()),
            "suffix" => Self::Suffix(text.to_owned()),
            "match" => Self::Match(Pattern::parse(text)?),
            "split" if text.is_empty() => return Err(Some("`split` needs a text to split at".into())),
            "split" => Self::Split(text.to_owned()),
            _ => return Err(None),
        })
    }

    /// Its word, or its key and text.
    pub(crate) fn written(&self) -> (String, Option<String>) {
        match self {
            Self::Trim => ("trim".into(), None),
            Self::Upper => ("upper".into(), None),
            Self::Lower => ("lower".into(), None),
            Self::Hex => ("hex".into(), None),
            Self::Unhex => ("unhex".into(), None),
            Self::Prefix(text) => ("prefix".into(), Some(text.clone())),
            Self::Suffix(text) => ("suffix".into(), Some(text.clone())),
            Self::Template(template) => ("template".into(), Some(template.to_string())),
            Self::Match(pattern) => ("match".into(), Some(pattern.text().to_owned())),
            Self::Split(text) => ("split".into(), Some(text.clone())),
            Self::Function { script, function } => (format!("{script}.{function}"), None),
        }
    }

    /// Takes the data of a call, and puts what becomes of it into `out`.
    async fn apply(&self, call: &Call, registry: &Registry, out: &mut Vec<Frame>) -> Result<(), CallError> {
        let data = call.data.clone().unwrap_or_default();
        let one = match self {
            Self::Trim => data.slice_ref(data.trim_ascii()),
            Self::Upper => data.to_ascii_uppercase().into(),
            Self::Lower => data.to_ascii_lowercase().into(),
            Self::Hex => {
                let mut hex = Vec::new();
                write_hex(&data, &mut hex);
                hex.into()
            }
            Self::Unhex => match read_hex(&data) {
                Some(bytes) => bytes.into(),
                None => {
                    let text = "the frame is not of hexadecimal digits, two for each byte";
                    return Err(CallError::Argument(text.into()));
                }
            },
            Self::Prefix(text) => [text.as_bytes(), &data].concat().into(),
            Self::Suffix(text) => [&data, text.as_bytes()].concat().into(),
            Self::Template(template) => template.expand(call, registry),
            Self::Match(pattern) if pattern.is_match(&data) => data,
            Self::Match(_) => return Ok(()),
            Self::Split(at) => {
                let mut begin = 0;
                for end in memchr::memmem::find_iter(&data, at).chain([data.len()]) {
                    out.push(Frame { data: data.slice(begin..end), to_sender: false });
                    begin = end + at.len();
                }
                return Ok(());
            }
            Self::Function { script, function } => {
                out.extend(
                    registry.filter(script, function, Call { as_filter: true, ..call.clone() }).await?,
                );
                return Ok(());
            }
        };
        out.push(Frame { data: one, to_sender: false });
        Ok(())
    }
}

/// Takes the data of a call through filters. What goes back to the sender goes through no more of them.
///
/// # Errors
/// The first that could not be done; then nothing comes of the frame.
pub(crate) async fn through(
    filters: &[Filter],
    call: &Call,
    registry: &Registry,
) -> Result<Vec<Frame>, CallError> {
    let mut frames = vec![Frame { data: call.data.clone().unwrap_or_default(), to_sender: false }];
    for filter in filters {
        let mut next = Vec::with_capacity(frames.len());
        for frame in frames {
            if frame.to_sender {
                next.push(frame);
                continue;
            }
            let call = Call { data: Some(frame.data), ..call.clone() };
            filter.apply(&call, registry, &mut next).await?;
        }
        frames = next;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::registry::{Arguments, Trail};

    async fn filtered(filters: &[Filter], data: &[u8]) -> Result<Vec<Vec<u8>>, CallError> {
        let call = Call {
            signal: "a.message_received".into(),
            connection: None,
            data: Some(Bytes::copy_from_slice(data)),
            arguments: Arguments::new(),
            trail: Trail::default(),
            as_filter: false,
        };
        let frames = through(filters, &call, &Registry::default()).await?;
        Ok(frames.into_iter().map(|frame| frame.data.to_vec()).collect())
    }

    fn filters(texts: &[(&str, &str)]) -> Vec<Filter> {
        let read = |(key, text): &(&str, &str)| match Filter::word(key) {
            Some(filter) => filter,
            None => Filter::keyed(key, text).unwrap(),
        };
        texts.iter().map(read).collect()
    }

    #[tokio::test]
    async fn a_frame_goes_through_all_filters_in_order() {
        for (list, data, expected) in [
            (&[("trim", "")][..], &b" a b \r\n"[..], &[&b"a b"[..]][..]),
            (&[("upper", ""), ("prefix", "<"), ("suffix", ">")], b"a\xff1", &[b"<A\xff1>"]),
            (&[("lower", ""), ("hex", "")], b"AB", &[b"6162"]),
            (&[("unhex", ""), ("template", "[{data}]")], b"61 62", &[b"[ab]"]),
            (&[("split", ","), ("trim", ""), ("match", "^[0-9]+$")], b"1, 2,x,", &[b"1", b"2"]),
            (&[("split", ",,")], b"a,,b,,", &[b"a", b"b", b""]),
            (&[("match", "b.d")], b"abcd", &[b"abcd"]),
            (&[("match", "^b")], b"abcd", &[]),
            (&[], b"x", &[b"x"]),
        ] {
            assert_eq!(filtered(&filters(list), data).await.unwrap(), expected, "{list:?}");
        }
        let error = filtered(&filters(&[("unhex", "")]), b"xyz").await.unwrap_err();
        assert!(matches!(error, CallError::Argument(_)), "{error}");
    }

    #[tokio::test]
    async fn an_expression_that_explodes_elsewhere_takes_its_time_here() {
        let pattern = filters(&[("match", "^(a+)+$")]);
        let mut data = vec![b'a'; 200_000];
        data.push(b'b');
        let begun = std::time::Instant::now();
        assert!(filtered(&pattern, &data).await.unwrap().is_empty());
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        let error = Pattern::parse("(a{1000}){1000}").unwrap_err();
        assert!(error.contains("is no regular expression"), "{error}");
        assert!(Pattern::parse("(").unwrap_err().contains("unclosed group"));
    }

    #[test]
    fn a_filter_is_written_as_it_is_read() {
        for word in Filter::WORDS.into_iter().chain(["script.chat.f"]) {
            assert_eq!(Filter::word(word).unwrap().written(), (word.to_owned(), None));
        }
        for key in Filter::KEYS {
            let filter = Filter::keyed(key, "x").unwrap();
            assert_eq!(filter.written(), (key.to_owned(), Some("x".to_owned())));
        }
        assert_eq!(Filter::word("tirm"), None);
        assert_eq!(Filter::word("script.chat"), None);
        assert_eq!(Filter::keyed("sufix", "x"), Err(None));
    }
}
