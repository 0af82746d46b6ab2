//! [`BadFrame`]: what becomes of a frame that cannot be one.

/// What becomes of a frame that is too long or is not what its framing asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadFrame {
    /// The connection it came on ends, and is reset.
    #[default]
    Close,
    /// It is left out, and counted: up to and with the end of a line that is too
    /// long; of `delimited` all bytes up to the next one that begins a frame.
    /// Other framings do not tell where that would be.
    Skip,
}

impl BadFrame {
    /// Every policy there is.
    pub const ALL: [Self; 2] = [Self::Close, Self::Skip];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Skip => "skip",
        }
    }
}
