//! A [`Framing`] as people write it, on the command line and in a file.

use std::fmt;
use std::str::FromStr;

use super::{End, Framing, LengthSize};
use crate::nearest::did_you_mean;

/// Why a text is no [`Framing`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FramingError(String);

impl FromStr for Framing {
    type Err = FramingError;

    fn from_str(text: &str) -> Result<Self, FramingError> {
        let (word, rest) = match text.split_once(':') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        let shown = || text.escape_debug();
        match (word, rest) {
            ("raw", None) => Ok(Self::Raw),
            ("mbap", None) => Ok(Self::Mbap),
            ("lines", None) => Ok(Self::LINES),
            ("lines", Some("crlf")) => Ok(Self::Lines { end: End::CRLF }),
            ("lines", Some(hex)) => match bytes(hex).as_deref().and_then(End::new) {
                Some(end) => Ok(Self::Lines { end }),
                None => error(format!(
                    "`{}` is not how a line ends; write lines, lines:crlf, or one to eight bytes in hex \
                     such as lines:00",
                    shown()
                )),
            },
            ("delimited", None) => Ok(Self::Delimited { start: 2, end: 3 }),
            ("delimited", Some(rest)) => match rest.split_once(',').map(|(a, b)| (bytes(a), bytes(b))) {
                Some((Some(start), Some(end))) if start.len() == 1 && end.len() == 1 && start != end => {
                    Ok(Self::Delimited { start: start[0], end: end[0] })
                }
                _ => error(format!(
                    "`{}` does not name the bytes that begin and end a frame; write two different ones \
                     in hex such as delimited:02,03",
                    shown()
                )),
            },
            ("length", rest) => length(rest).map_or_else(
                || {
                    error(format!(
                        "`{}` does not say what a length is; write 1, 2 or 4 bytes, then what differs, \
                         such as length:2 or length:4,little,inclusive",
                        shown()
                    ))
                },
                Ok,
            ),
            ("fixed", Some(number)) if number.bytes().all(|b| b.is_ascii_digit()) => match number.parse() {
                Ok(length @ 1..) => Ok(Self::Fixed(length)),
                _ => error(format!("`{}` is no number of bytes; write for example fixed:16", shown())),
            },
            ("fixed", _) => {
                error(format!("`{}` does not say how many bytes; write for example fixed:16", shown()))
            }
            ("raw" | "mbap", Some(_)) => error(format!("{word} has no variants; write {word} alone")),
            _ => {
                let hint = did_you_mean(word, WORDS.into_iter())
                    .unwrap_or_else(|| format!("; write {}", WORDS.join(", ")));
                error(format!("there is no framing `{}`{hint}", shown()))
            }
        }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("raw"),
            Self::Lines { end: End::LF } => f.write_str("lines"),
            Self::Lines { end: End::CRLF } => f.write_str("lines:crlf"),
            Self::Lines { end } => {
                f.write_str("lines:")?;
                end.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02X}"))
            }
            Self::Delimited { start: 2, end: 3 } => f.write_str("delimited"),
            Self::Delimited { start, end } => write!(f, "delimited:{start:02X},{end:02X}"),
            Self::Length { size, little_endian, inclusive } => {
                write!(f, "length:{}", size.bytes())?;
                f.write_str(if *little_endian { ",little" } else { "" })?;
                f.write_str(if *inclusive { ",inclusive" } else { "" })
            }
            Self::Fixed(length) => write!(f, "fixed:{length}"),
            Self::Mbap => f.write_str("mbap"),
        }
    }
}

/// `2`, `4,little`, `1,inclusive`, or nothing for four bytes, the most significant first.
fn length(text: Option<&str>) -> Option<Framing> {
    let mut words = text.unwrap_or("4").split(',');
    let size = match words.next()? {
        "1" => LengthSize::One,
        "2" => LengthSize::Two,
        "4" => LengthSize::Four,
        _ => return None,
    };
    let mut rest: Vec<_> = words.collect();
    let mut take = |word: &str| {
        let place = rest.iter().position(|one| *one == word);
        place.map(|place| rest.remove(place)).is_some()
    };
    let (little_endian, big, inclusive) = (take("little"), take("big"), take("inclusive"));
    // What is left is unknown, or was said twice.
    let is_clear = rest.is_empty() && !(little_endian && big);
    is_clear.then_some(Framing::Length { size, little_endian, inclusive })
}

/// Bytes in hex: `02`, `0D0A`, `0D 0A`.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = hex.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let pair = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(pair).collect())?
}

fn error<T>(text: String) -> Result<T, FramingError> {
    Err(FramingError(text))
}

const WORDS: [&str; 6] = ["raw", "lines", "delimited", "length", "fixed", "mbap"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        for (written, shown) in [
            ("raw", "raw"),
            ("lines", "lines"),
            ("lines:0a", "lines"),
            ("lines:0D 0A", "lines:crlf"),
            ("lines:00", "lines:00"),
            ("delimited", "delimited"),
            ("delimited:7b,7d", "delimited:7B,7D"),
            ("length", "length:4"),
            ("length:2,big", "length:2"),
            ("length:4,inclusive,little", "length:4,little,inclusive"),
            ("fixed:16", "fixed:16"),
            ("mbap", "mbap"),
        ] {
            let framing: Framing = written.parse().unwrap();
            assert_eq!(framing.to_string(), shown);
            assert_eq!(shown.parse(), Ok(framing));
        }
    }

    #[test]
    fn what_cannot_be_meant_says_what_to_write() {
        for text in [
            "",
            "line",
            "Lines",
            "raw:1",
            "mbap:",
            "lines:",
            "lines:0",
            "lines:xx",
            "lines:000000000000000000",
            "delimited:",
            "delimited:02",
            "delimited:02,02",
            "delimited:0202,03",
            "length:",
            "length:3",
            "length:2,litle",
            "length:2,little,little",
            "length:2,little,big",
            "fixed",
            "fixed:",
            "fixed:0",
            "fixed:-1",
            "fixed:99999999999999999999",
        ] {
            let error = text.parse::<Framing>().unwrap_err().to_string();
            assert!(error.contains("; write") || error.contains("did you mean"), "{text}: {error}");
        }
        assert!("line".parse::<Framing>().unwrap_err().to_string().contains("did you mean `lines`?"));
    }
}
