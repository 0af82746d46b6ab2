//! Finding the end of the first frame in a piece of a stream: the one place
//! that knows what each [`Framing`] looks like on the wire.

use std::ops::Range;

use super::{End, FrameError, Framing};

/// A whole frame at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) body: Range<usize>,
    /// Where the next frame begins.
    pub(super) end: usize,
}

impl Framing {
    /// The first frame of `bytes`, or nothing while it is incomplete. In the
    /// first `seen` bytes no end was found before, so they are not searched again.
    pub(super) fn scan(&self, bytes: &[u8], seen: usize, max: usize) -> Result<Option<Cut>, FrameError> {
        match *self {
            Self::Raw if bytes.is_empty() => Ok(None),
            Self::Raw => Ok(Some(Cut { body: 0..bytes.len(), end: bytes.len() })),
            Self::Lines { end } => line(bytes, seen, max, &end),
            Self::Delimited { start, end } => delimited(bytes, seen, max, start, end),
            Self::Length { size, little_endian, inclusive } => {
                let Some(header) = bytes.get(..size.bytes()) else { return Ok(None) };
                let (length, other) = match little_endian {
                    true => (number(header.iter().rev()), number(header.iter())),
                    false => (number(header.iter()), number(header.iter().rev())),
                };
                let own = if inclusive { header.len() as u64 } else { 0 };
                let Some(body) = length.checked_sub(own) else {
                    let text = format!("a length of {length} does not even count its own {own} bytes");
                    return Err(FrameError::Malformed(text));
                };
                if body > max as u64 {
                    let fits = other >= own && other - own <= max as u64 && other != length;
                    let order = if little_endian { "big" } else { "little" };
                    let hint = if fits { format!("; {order}-endian it would be {other}") } else { "".into() };
                    return Err(FrameError::TooLong { length: body, max, hint });
                }
                // Within the limit, which is a usize.
                Ok(whole(bytes, header.len()..header.len() + body as usize))
            }
            Self::Fixed(length) if length > max => {
                Err(FrameError::TooLong { length: length as u64, max, hint: String::new() })
            }
            Self::Fixed(length) => Ok(whole(bytes, 0..length)),
            Self::Mbap => mbap(bytes, max),
        }
    }

    /// Where the last whole frame of `bytes` ends, and how many there are; and
    /// what is wrong with the next one, if something is.
    pub(super) fn scan_all(&self, bytes: &[u8], seen: usize, max: usize) -> (usize, u64, Option<FrameError>) {
        if let Self::Lines { end } = self
            && let [byte] = end.as_bytes()
            && bytes.len() <= max
        {
            // None of them can be too long, so it is enough to count the ends.
            let Some(last) = memchr::memrchr(*byte, &bytes[seen..]) else { return (0, 0, None) };
            let end = seen + last + 1;
            return (end, memchr::memchr_iter(*byte, &bytes[seen..end]).count() as u64, None);
        }
        let (mut end, mut frames) = (0, 0);
        loop {
            let seen = if end == 0 { seen } else { 0 };
            match self.scan(&bytes[end..], seen, max) {
                Ok(Some(cut)) => {
                    end += cut.end;
                    frames += 1;
                }
                Ok(None) => return (end, frames, None),
                Err(error) => return (end, frames, Some(error)),
            }
        }
    }

    /// Whether it tells where the next frame can begin after one that was bad.
    pub(crate) fn finds_next(&self) -> bool {
        matches!(self, Self::Lines { .. } | Self::Delimited { .. })
    }

    /// Where that is in what follows the first byte of the bad one, if it has come. Whatever was
    /// looked at before need not be given again, but for its last [`seam`](Self::seam) bytes.
    pub(super) fn find_next(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Lines { end } => line_end(bytes, 0, end).map(|(body, end)| body + end),
            Self::Delimited { start, .. } => memchr::memchr(*start, bytes),
            Self::Raw | Self::Length { .. } | Self::Fixed(_) | Self::Mbap => None,
        }
    }

    /// How many bytes may belong to what tells that and is not complete.
    pub(super) fn seam(&self) -> usize {
        match self {
            // A CR before an LF tells nothing.
            Self::Lines { end } if *end != End::CRLF => end.as_bytes().len() - 1,
            _ => 0,
        }
    }

    /// The bodies of whole frames that were cut before.
    pub(crate) fn bodies<'a>(&self, mut bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let framing = *self;
        std::iter::from_fn(move || {
            let cut = framing.scan(bytes, 0, usize::MAX).ok().flatten()?;
            let body = &bytes[cut.body];
            bytes = &bytes[cut.end..];
            Some(body)
        })
    }

    /// Where the first whole frame of bytes that were cut before ends.
    pub(crate) fn first_end(&self, bytes: &[u8]) -> usize {
        let cut = self.scan(bytes, 0, usize::MAX).ok().flatten();
        cut.map_or(bytes.len(), |cut| cut.end)
    }
}

fn line(bytes: &[u8], seen: usize, max: usize, end: &End) -> Result<Option<Cut>, FrameError> {
    let ends = end.as_bytes();
    let from = seen.saturating_sub(ends.len() - 1);
    match line_end(bytes, from, end) {
        Some((body, _)) if body > max => Err(FrameError::Endless { max }),
        Some((body, end)) => Ok(Some(Cut { body: 0..body, end: body + end })),
        // All but a part of an end would be body.
        None if bytes.len() - bytes.len().min(ends.len() - 1) > max => Err(FrameError::Endless { max }),
        None => Ok(None),
    }
}

/// Where the first end of a line after the first `from` bytes is, and how long it is.
#[inline]
fn line_end(bytes: &[u8], from: usize, end: &End) -> Option<(usize, usize)> {
    match end.as_bytes() {
        [byte] => memchr::memchr(*byte, &bytes[from..]).map(|at| (from + at, 1)),
        _ if *end == End::CRLF => memchr::memchr(b'\n', &bytes[from..]).map(|at| {
            let at = from + at;
            if at > 0 && bytes[at - 1] == b'\r' { (at - 1, 2) } else { (at, 1) }
        }),
        ends => memchr::memmem::find(&bytes[from..], ends).map(|at| (from + at, ends.len())),
    }
}

fn delimited(bytes: &[u8], seen: usize, max: usize, start: u8, end: u8) -> Result<Option<Cut>, FrameError> {
    match bytes.first() {
        None => return Ok(None),
        Some(byte) if *byte != start => {
            let text = format!("a frame begins with {byte:02X} where {start:02X} is expected");
            return Err(FrameError::Malformed(text));
        }
        Some(_) => {}
    }
    let from = seen.max(1);
    match memchr::memchr2(start, end, &bytes[from..]).map(|at| from + at) {
        Some(at) if at - 1 > max => Err(FrameError::Endless { max }),
        Some(at) if bytes[at] == end => Ok(Some(Cut { body: 1..at, end: at + 1 })),
        Some(_) => {
            let text = format!("a frame begins ({start:02X}) before the one before it has ended ({end:02X})");
            Err(FrameError::Malformed(text))
        }
        None if bytes.len() - 1 > max => Err(FrameError::Endless { max }),
        None => Ok(None),
    }
}

fn mbap(bytes: &[u8], max: usize) -> Result<Option<Cut>, FrameError> {
    let Some(protocol) = bytes.get(2..4) else { return Ok(None) };
    if protocol != [0, 0] {
        let protocol = number(protocol.iter());
        return Err(FrameError::Malformed(format!("not Modbus: its protocol is {protocol} and not 0")));
    }
    let Some(length) = bytes.get(4..6) else { return Ok(None) };
    let length = number(length.iter()) as usize;
    if !(2..=254).contains(&length) {
        return Err(FrameError::Malformed(format!("not Modbus: a length of {length} is not from 2 to 254")));
    }
    if 6 + length > max {
        return Err(FrameError::TooLong { length: 6 + length as u64, max, hint: String::new() });
    }
    Ok(whole(bytes, 0..6 + length))
}

/// The frame with this body, if all of it is there.
fn whole(bytes: &[u8], body: Range<usize>) -> Option<Cut> {
    let end = body.end;
    (bytes.len() >= end).then_some(Cut { body, end })
}

/// Bytes as a number, the first the most significant.
fn number<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}
