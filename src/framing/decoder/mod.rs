//! [`Decoder`]: bytes in as they come, whole frames out. How the stream was
//! split on its way makes no difference to what comes out.

use bytes::{Bytes, BytesMut};

use super::{BadFrame, End, FrameError, Framing, LengthSize};
use crate::event::DropCause;

/// Cuts a stream into frames.
///
/// Limits: a body has at most `max_frame` bytes, which is known before memory
/// is kept for it: what is held are the bytes that came, never what a length
/// announces. Half a frame is never yielded.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    max_frame: usize,
    held: BytesMut,
    /// How many of the held bytes are known to contain no end.
    seen: usize,
    /// Nothing of the stream has been taken yet.
    is_first: bool,
    fault: Option<FrameError>,
    /// What is bad is left out, and does not end the stream.
    skips: bool,
    /// What comes is left out for this cause, up to where the next frame can begin.
    skipping: Option<DropCause>,
    skipped: Vec<Skipped>,
}

/// Whole frames as they came over the wire, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The frames, with what tells them apart.
    pub wire: Bytes,
    /// How many there are.
    pub frames: u64,
}

/// What was left out, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// `FrameTooLong` or `MalformedFrame`.
    pub cause: DropCause,
    /// Frames that began to be left out; what is between two frames counts as one.
    pub frames: u64,
    /// Bytes, with what tells frames apart; of a frame that has not ended those that have come.
    pub bytes: u64,
}

impl Decoder {
    /// A decoder at the beginning of a stream, which ends with the first bad frame.
    pub fn new(framing: Framing, max_frame: usize) -> Self {
        Self {
            framing,
            max_frame,
            held: BytesMut::new(),
            seen: 0,
            is_first: true,
            fault: None,
            skips: false,
            skipping: None,
            skipped: Vec::new(),
        }
    }

    /// The same with another policy, if its framing tells where the next frame begins.
    /// A stream that begins as TLS does ends with either.
    pub fn on_bad_frame(self, policy: BadFrame) -> Self {
        Self { skips: policy == BadFrame::Skip && self.framing.finds_next(), ..self }
    }

    /// Takes the next bytes of the stream. What they complete is yielded by
    /// [`frame`](Self::frame) or [`run`](Self::run), of which the caller uses
    /// one until it yields nothing, before it feeds more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// What is held of a frame that is not whole.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Takes the next bytes of the stream with the memory they are in, behind what was [held](Self::held).
    pub(crate) fn replace(&mut self, bytes: BytesMut) {
        debug_assert!(bytes.starts_with(&self.held), "what was held comes first");
        self.held = bytes;
    }

    /// The body of the next whole frame.
    ///
    /// # Errors
    /// [`FrameError`] where the boundary is lost: nothing can come after it.
    pub fn frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        while self.is_between()? {
            match self.framing.scan(&self.held, self.seen, self.max_frame) {
                Ok(Some(cut)) => {
                    let frame = self.take(cut.end);
                    return Ok(Some(frame.slice(cut.body)));
                }
                Ok(None) => {
                    self.seen = self.held.len();
                    break;
                }
                Err(fault) => self.bad(fault)?,
            }
        }
        Ok(None)
    }

    /// All whole frames there are, at once.
    ///
    /// # Errors
    /// [`FrameError`] where the boundary is lost, after what came before it.
    pub fn run(&mut self) -> Result<Option<Run>, FrameError> {
        if !self.is_between()? {
            return Ok(None);
        }
        let (end, frames, fault) = self.framing.scan_all(&self.held, self.seen, self.max_frame);
        if let Some(fault) = fault {
            return self.run_around(end, frames, fault);
        }
        let run = (frames > 0).then(|| Run { wire: self.take(end), frames });
        self.seen = self.held.len();
        Ok(run)
    }

    /// The same where so many frames, up to `end`, come before a bad one.
    #[cold]
    fn run_around(
        &mut self,
        mut end: usize,
        mut frames: u64,
        fault: FrameError,
    ) -> Result<Option<Run>, FrameError> {
        // Copied into one, since many small runs would cost those who hear them more.
        let (mut wire, mut all, mut fault) = (BytesMut::new(), 0, Some(fault));
        loop {
            wire.extend_from_slice(&self.take(end));
            all += frames;
            match fault.map(|fault| self.bad(fault)) {
                Some(Err(fault)) if all == 0 => return Err(fault),
                // Said when it is asked again.
                Some(Err(_)) => break,
                Some(Ok(())) if !self.is_between()? => break,
                Some(Ok(())) => {}
                None => {
                    self.seen = self.held.len();
                    break;
                }
            }
            (end, frames, fault) = self.framing.scan_all(&self.held, self.seen, self.max_frame);
        }
        Ok((all > 0).then(|| Run { wire: wire.freeze(), frames: all }))
    }

    /// What was left out since this was asked last, one cause at a time. It is counted as it
    /// comes, so that after the end of the stream nothing is missing.
    pub fn skipped(&mut self) -> Option<Skipped> {
        self.skipped.pop()
    }

    /// Bytes of a frame that is not whole. At the end of the stream they are
    /// what is lost: a last line without its end is not a line. Of a frame that
    /// is left out there are none.
    pub fn remainder(&self) -> usize {
        if self.skipping.is_some() { 0 } else { self.held.len() }
    }

    /// The memory that is kept for it.
    pub(crate) fn memory(&self) -> usize {
        if self.remainder() == 0 { 0 } else { self.held.capacity() }
    }

    /// Whether what is held is the beginning of a frame.
    #[inline]
    fn is_between(&mut self) -> Result<bool, FrameError> {
        let is_plain = !self.is_first && self.skipping.is_none() && self.fault.is_none();
        if is_plain { Ok(true) } else { self.find_beginning() }
    }

    /// Finds it, where it may be another. What is left out before it is no longer held after this.
    fn find_beginning(&mut self) -> Result<bool, FrameError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.is_first {
            match self.is_secret() {
                Some(true) => return Err(self.fail(tls())),
                Some(false) => {}
                None => return Ok(false),
            }
        }
        Ok(self.skipping.is_none_or(|cause| self.skip(cause)))
    }

    /// Takes the first frame for a bad one: leaves it out, or ends the stream.
    fn bad(&mut self, fault: FrameError) -> Result<(), FrameError> {
        if !self.skips {
            return Err(self.fail(fault));
        }
        let cause = if fault.is_of_length() { DropCause::FrameTooLong } else { DropCause::MalformedFrame };
        // Its first byte may look like the beginning of the next.
        self.take(1);
        self.count(Skipped { cause, frames: 1, bytes: 1 });
        self.skipping = Some(cause);
        Ok(())
    }

    /// Leaves out what is held up to where the next frame can begin; tells whether that has come.
    fn skip(&mut self, cause: DropCause) -> bool {
        let next = self.framing.find_next(&self.held);
        let end = next.unwrap_or(self.held.len());
        self.count(Skipped { cause, frames: 0, bytes: (end - self.seen) as u64 });
        if next.is_some() {
            self.take(end);
            self.skipping = None;
        } else {
            // It is counted, and looked at again: the next frame may begin after it and what comes.
            let kept = end.min(self.framing.seam());
            self.take(end - kept);
            self.seen = kept;
        }
        next.is_some()
    }

    fn count(&mut self, new: Skipped) {
        match self.skipped.iter_mut().find(|known| known.cause == new.cause) {
            Some(known) => {
                known.frames += new.frames;
                known.bytes += new.bytes;
            }
            None if new.bytes == 0 => {}
            None => self.skipped.push(new),
        }
    }

    // Part of every run, where a call shows: it has several callers, and most never come.
    #[inline(always)]
    fn take(&mut self, end: usize) -> Bytes {
        (self.seen, self.is_first) = (0, false);
        let taken = self.held.split_to(end).freeze();
        // The rest would keep the memory of all that was taken, and an idle connection keeps none.
        self.held = match self.held.len() {
            0 => BytesMut::new(),
            rest if rest < taken.len() => BytesMut::from(&self.held[..]),
            _ => std::mem::take(&mut self.held),
        };
        taken
    }

    /// Whether the stream begins as TLS does, in a framing whose messages cannot begin so, if that is known.
    fn is_secret(&self) -> Option<bool> {
        let begins_so = match &self.held[..] {
            [0x16, 0x03, 0..=4, ..] => Some(true),
            [0x16] | [0x16, 0x03] => None,
            _ => return Some(false),
        };
        let is_foreign = match self.framing {
            Framing::Lines { end } => end == End::LF || end == End::CRLF,
            Framing::Delimited { start, .. } => start != 0x16,
            // As a length that would be too long in any case.
            Framing::Length { size, little_endian, .. } => {
                size == LengthSize::Four && !little_endian && self.max_frame < 0x1603_0000
            }
            Framing::Mbap => true,
            Framing::Raw | Framing::Fixed(_) => false,
        };
        if is_foreign { begins_so } else { Some(false) }
    }

    fn fail(&mut self, fault: FrameError) -> FrameError {
        self.fault = Some(fault.clone());
        fault
    }
}

fn tls() -> FrameError {
    FrameError::Malformed("it begins as TLS does, and here messages are plain".into())
}

#[cfg(test)]
mod tests;
