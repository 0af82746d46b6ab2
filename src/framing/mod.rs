//! Where one message ends and the next begins, for streams that have such a
//! thing. [`Framing`] is the closed list; a [`Decoder`] cuts what arrives, and
//! [`Framing::encode`] makes of a message what goes over the wire. Neither
//! reads a socket or knows where frames go.

mod bad_frame;
mod decoder;
mod expect;
mod scan;
mod text;
mod unfinished;

use bytes::BytesMut;

pub use self::bad_frame::BadFrame;
pub use self::decoder::{Decoder, Run, Skipped};
pub use self::expect::{Expect, Pattern};
pub use self::text::FramingError;
pub(crate) use self::unfinished::{Ticket, Unfinished};

/// How messages are told apart in a stream of bytes.
///
/// Written as text it is one word, with what differs from the default behind a
/// colon: `raw`, `lines`, `lines:crlf`, `delimited:02,03`, `length:2,little`,
/// `fixed:16`, `mbap`.
///
/// ```
/// use signal_node::framing::{Decoder, Framing};
///
/// let mut decoder = Decoder::new("lines".parse::<Framing>()?, 1 << 20);
/// decoder.feed(b"one\ntw");
/// assert_eq!(decoder.frame()?.unwrap(), "one");
/// assert_eq!(decoder.frame()?, None);
/// decoder.feed(b"o\n");
/// assert_eq!(decoder.frame()?.unwrap(), "two");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No messages: what one read yields is passed on as one piece.
    Raw,
    /// Text lines, or anything else that ends with the same bytes.
    ///
    /// Shape: body, then the end; an empty body is a frame too. With CR LF as
    /// the end a lone LF ends a line as well, and one CR before it belongs to
    /// the end; with LF alone a CR is a byte of the body like any other.
    Lines {
        /// The end.
        end: End,
    },
    /// A byte that begins a frame and one that ends it, as STX and ETX.
    ///
    /// Shape: start, body, end. Neither byte may be in the body, and nothing
    /// may be between frames.
    Delimited {
        /// The byte that begins a frame.
        start: u8,
        /// The byte that ends it; another one.
        end: u8,
    },
    /// A length before each body.
    ///
    /// Shape: length, body.
    Length {
        /// The bytes of the length: 1, 2 or 4.
        size: LengthSize,
        /// Whether its least significant byte comes first.
        little_endian: bool,
        /// Whether it counts its own bytes too.
        inclusive: bool,
    },
    /// Bodies of so many bytes, at least 1, and nothing between.
    Fixed(usize),
    /// Modbus TCP.
    ///
    /// Shape: the whole ADU with its header of 7 bytes: transaction, protocol
    /// (0), length (2 to 254), unit, function and data. The body is all of it.
    Mbap,
}

/// The bytes a line ends with: one to eight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct End {
    bytes: [u8; 8],
    length: u8,
}

/// How many bytes a length has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthSize {
    /// Up to 255.
    One,
    /// Up to 65,535.
    Two,
    /// Up to 4,294,967,295.
    Four,
}

/// Why a stream cannot be cut any further, or a message not be framed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No end came within the limit.
    #[error("a frame has not ended after {max} bytes, the most allowed (max_frame)")]
    Endless {
        /// The limit, in bytes.
        max: usize,
    },
    /// The frame says that it is longer than the limit.
    #[error("a frame of {length} bytes is longer than the {max} allowed (max_frame){hint}")]
    TooLong {
        /// What it says, in bytes.
        length: u64,
        /// The limit, in bytes.
        max: usize,
        /// What may be the matter.
        hint: String,
    },
    /// The bytes are not what the framing asks for.
    #[error("{0}")]
    Malformed(String),
    /// The message cannot be put into a frame.
    #[error("{0}")]
    Unsendable(String),
}

impl Framing {
    /// The most a body may have where nothing else is said, in bytes.
    pub const MAX_FRAME: usize = 1 << 20;

    /// Lines that end with LF.
    pub const LINES: Self = Self::Lines { end: End::LF };

    /// Appends the frame of `body` to `out`, which is unchanged after an error.
    ///
    /// # Errors
    /// [`FrameError::Unsendable`], because the body contains what ends a frame
    /// or does not fit into one, and [`FrameError::TooLong`].
    pub fn encode(&self, body: &[u8], max: usize, out: &mut BytesMut) -> Result<(), FrameError> {
        if body.len() > max {
            return Err(FrameError::TooLong { length: body.len() as u64, max, hint: String::new() });
        }
        match self {
            Self::Raw => {}
            Self::Lines { end } => {
                if end.is_inside(body) {
                    return Err(unsendable("the line contains the bytes that end one"));
                }
                out.reserve(body.len() + end.as_bytes().len());
                out.extend_from_slice(body);
                out.extend_from_slice(end.as_bytes());
                return Ok(());
            }
            Self::Delimited { start, end } => {
                if memchr::memchr2(*start, *end, body).is_some() {
                    return Err(unsendable("the frame contains a byte that begins or ends one"));
                }
                out.reserve(body.len() + 2);
                out.extend_from_slice(&[*start]);
                out.extend_from_slice(body);
                out.extend_from_slice(&[*end]);
                return Ok(());
            }
            Self::Length { size, little_endian, inclusive } => {
                let length = body.len() as u64 + if *inclusive { size.bytes() as u64 } else { 0 };
                if length > size.most() {
                    let size = size.bytes();
                    return Err(unsendable(format!("a length of {size} bytes cannot say {length}")));
                }
                let mut header = length.to_be_bytes();
                let header = &mut header[8 - size.bytes()..];
                if *little_endian {
                    header.reverse();
                }
                out.reserve(body.len() + header.len());
                out.extend_from_slice(header);
            }
            Self::Fixed(length) if body.len() != *length => {
                let found = body.len();
                return Err(unsendable(format!("a frame has {length} bytes, and this would have {found}")));
            }
            Self::Fixed(_) => {}
            Self::Mbap => match self.scan(body, 0, max) {
                Ok(Some(cut)) if cut.end == body.len() => {}
                Ok(_) => return Err(unsendable("it is not one whole Modbus ADU")),
                Err(error) => return Err(unsendable(error.to_string())),
            },
        }
        out.extend_from_slice(body);
        Ok(())
    }

    /// Tells whether a frame is on the wire exactly as it would be written, so
    /// that it may be passed on as it came.
    pub(crate) fn is_exact(&self) -> bool {
        !matches!(self, Self::Lines { end } if *end == End::CRLF)
    }
}

impl FrameError {
    /// Whether it is about a length; otherwise the bytes are wrong.
    pub(crate) fn is_of_length(&self) -> bool {
        matches!(self, Self::Endless { .. } | Self::TooLong { .. })
    }
}

impl End {
    /// LF.
    pub const LF: Self = Self { bytes: [b'\n', 0, 0, 0, 0, 0, 0, 0], length: 1 };
    /// CR LF.
    pub const CRLF: Self = Self { bytes: [b'\r', b'\n', 0, 0, 0, 0, 0, 0], length: 2 };

    /// These bytes, if they are one to eight.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut end = Self { bytes: [0; 8], length: u8::try_from(bytes.len()).ok()? };
        end.bytes.get_mut(..bytes.len()).filter(|_| !bytes.is_empty())?.copy_from_slice(bytes);
        Some(end)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Tells whether a line of this body would end before its end.
    fn is_inside(&self, body: &[u8]) -> bool {
        match self.as_bytes() {
            [byte] => memchr::memchr(*byte, body).is_some(),
            _ if *self == Self::CRLF => memchr::memchr(b'\n', body).is_some(),
            end => {
                // It may also begin in the body and be completed by the end itself.
                let tail = body.len().saturating_sub(end.len());
                let seam = [&body[tail..], end].concat();
                memchr::memmem::find(body, end).is_some()
                    || memchr::memmem::find(&seam, end) != Some(body.len() - tail)
            }
        }
    }
}

impl LengthSize {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// The most it can say.
    const fn most(self) -> u64 {
        (1 << (8 * self.bytes())) - 1
    }
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "End({})", self.as_bytes().escape_ascii())
    }
}

fn unsendable(text: impl Into<String>) -> FrameError {
    FrameError::Unsendable(text.into())
}
