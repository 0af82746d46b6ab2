//! [`Decoder`]: bytes in as they come, whole frames out. How the stream was
//! split on its way makes no difference to what comes out.

use bytes::{Bytes, BytesMut};

use super::{End, FrameError, Framing, LengthSize};

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
}

/// Whole frames as they came over the wire, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The frames, with what tells them apart.
    pub wire: Bytes,
    /// How many there are.
    pub frames: u64,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new(framing: Framing, max_frame: usize) -> Self {
        Self { framing, max_frame, held: BytesMut::new(), seen: 0, is_first: true, fault: None }
    }

    /// Takes the next bytes of the stream. What they complete is yielded by
    /// [`frame`](Self::frame) or [`run`](Self::run), of which the caller uses
    /// one until it yields nothing, before it feeds more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The body of the next whole frame.
    ///
    /// # Errors
    /// [`FrameError`] where the boundary is lost: nothing can come after it.
    pub fn frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.is_secret() {
            return Err(self.fail(tls()));
        }
        match self.framing.scan(&self.held, self.seen, self.max_frame) {
            Ok(Some(cut)) => {
                let frame = self.take(cut.end);
                Ok(Some(frame.slice(cut.body)))
            }
            Ok(None) => {
                self.seen = self.held.len();
                Ok(None)
            }
            Err(fault) => Err(self.fail(fault)),
        }
    }

    /// All whole frames there are, at once.
    ///
    /// # Errors
    /// [`FrameError`] where the boundary is lost, after what came before it.
    pub fn run(&mut self) -> Result<Option<Run>, FrameError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.is_secret() {
            return Err(self.fail(tls()));
        }
        let (end, frames, fault) = self.framing.scan_all(&self.held, self.seen, self.max_frame);
        if let Some(fault) = fault {
            let fault = self.fail(fault);
            if frames == 0 {
                return Err(fault);
            }
        }
        let run = (frames > 0).then(|| Run { wire: self.take(end), frames });
        self.seen = self.held.len();
        Ok(run)
    }

    /// Bytes of a frame that is not whole. At the end of the stream they are
    /// what is lost: a last line without its end is not a line.
    pub fn remainder(&self) -> usize {
        self.held.len()
    }

    /// The memory that is kept for it.
    pub(crate) fn memory(&self) -> usize {
        if self.held.is_empty() { 0 } else { self.held.capacity() }
    }

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

    /// Whether the stream begins as TLS does, in a framing whose messages cannot begin so.
    fn is_secret(&self) -> bool {
        self.is_first
            && matches!(&self.held[..], [0x16, 0x03, 0..=4, ..])
            && match self.framing {
                Framing::Lines { end } => end == End::LF || end == End::CRLF,
                Framing::Delimited { start, .. } => start != 0x16,
                // As a length that would be too long in any case.
                Framing::Length { size, little_endian, .. } => {
                    size == LengthSize::Four && !little_endian && self.max_frame < 0x1603_0000
                }
                Framing::Mbap => true,
                Framing::Raw | Framing::Fixed(_) => false,
            }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of each kind, and what is special.
    const ALL: &[&str] = &[
        "raw",
        "lines",
        "lines:crlf",
        "lines:616162",
        "delimited",
        "length:1",
        "length:2,little",
        "length:4",
        "length:4,little,inclusive",
        "fixed:3",
        "mbap",
    ];

    fn framing(text: &str) -> Framing {
        text.parse().unwrap()
    }

    /// All frames of a stream that comes in these pieces, why it ended early if it did, and what was left.
    fn frames(framing: Framing, max: usize, pieces: &[&[u8]]) -> (Vec<Bytes>, Option<FrameError>, usize) {
        let mut decoder = Decoder::new(framing, max);
        let mut all = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.frame() {
                    Ok(Some(frame)) => all.push(frame),
                    Ok(None) => break,
                    Err(fault) => return (all, Some(fault), 0),
                }
            }
        }
        (all, None, decoder.remainder())
    }

    /// The same by runs.
    fn runs(framing: Framing, max: usize, pieces: &[&[u8]]) -> (Vec<u8>, u64, bool) {
        let mut decoder = Decoder::new(framing, max);
        let (mut wire, mut count) = (Vec::new(), 0);
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.run() {
                    Ok(Some(run)) => {
                        wire.extend_from_slice(&run.wire);
                        count += run.frames;
                    }
                    Ok(None) => break,
                    Err(_) => return (wire, count, true),
                }
            }
        }
        (wire, count, false)
    }

    fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let begins = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([bytes.len()]);
        begins.zip(ends).map(|(begin, end)| &bytes[begin..end]).collect()
    }

    /// Bytes of which many are special to some framing.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let special = prop_oneof![
            Just(b'\n'),
            Just(b'\r'),
            Just(2u8),
            Just(3u8),
            Just(0u8),
            Just(b'a'),
            Just(b'b'),
            any::<u8>()
        ];
        prop::collection::vec(special, 0..60)
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_gives_the_same_frames(
            stream in bytes(), cuts in prop::collection::vec(any::<usize>(), 0..12), max in 1..40usize
        ) {
            for text in ALL.iter().filter(|text| **text != "raw") {
                let framing = framing(text);
                let at_once = frames(framing, max, &[&stream]);
                let pieces = split(&stream, &cuts);
                let (all, fault, left) = frames(framing, max, &pieces);
                prop_assert_eq!(&all, &at_once.0, "{}", text);
                prop_assert_eq!(fault.is_some(), at_once.1.is_some(), "{}", text);
                prop_assert_eq!(left, at_once.2);
                let (wire, count, failed) = runs(framing, max, &pieces);
                prop_assert_eq!(count as usize, all.len());
                prop_assert_eq!(failed, fault.is_some());
                prop_assert!(stream.starts_with(&wire));
            }
        }

        #[test]
        fn what_was_encoded_is_decoded_whatever_the_split(
            bodies in prop::collection::vec(bytes(), 1..12), cuts in prop::collection::vec(any::<usize>(), 0..12)
        ) {
            for text in ALL.iter().filter(|text| **text != "raw") {
                let framing = framing(text);
                let mut wire = BytesMut::new();
                let sent: Vec<_> =
                    bodies.iter().filter(|body| framing.encode(body, 1_000, &mut wire).is_ok()).collect();
                let (all, fault, left) = frames(framing, 1_000, &split(&wire, &cuts));
                prop_assert_eq!((fault, left), (None, 0), "{}", text);
                prop_assert_eq!(all, sent, "{}", text);
            }
        }

        #[test]
        fn bytes_pass_a_raw_decoder_unchanged(stream in bytes(), cuts in prop::collection::vec(any::<usize>(), 0..12)) {
            let (all, fault, left) = frames(Framing::Raw, 1, &split(&stream, &cuts));
            prop_assert_eq!((all.concat(), fault, left), (stream, None, 0));
        }
    }

    fn texts(framing_text: &str, stream: &[u8]) -> Vec<String> {
        let (all, fault, _) = frames(framing(framing_text), 1_000, &[stream]);
        assert_eq!(fault, None);
        all.iter().map(|frame| frame.escape_ascii().to_string()).collect()
    }

    #[test]
    fn lines_keep_their_bytes_and_crlf_takes_one_carriage_return() {
        let stream = b"a\r\n\n\rb\n\xff\0\r\r\nrest";
        assert_eq!(texts("lines", stream), ["a\\r", "", "\\rb", "\\xff\\x00\\r\\r"]);
        assert_eq!(texts("lines:crlf", stream), ["a", "", "\\rb", "\\xff\\x00\\r"]);
        // An end that begins inside what looks like one.
        assert_eq!(texts("lines:616162", b"aaab!aab"), ["a", "!"]);
        assert!(framing("lines").encode(b"a\nb", 10, &mut BytesMut::new()).is_err());
    }

    #[test]
    fn a_frame_at_the_limit_passes_and_one_byte_more_does_not() {
        for (text, fits, too_long) in [
            ("lines", &b"1234\n"[..], &b"12345\n"[..]),
            ("lines", b"1234\n", b"12345"),
            ("lines:crlf", b"1234\r\n", b"12345\r\n"),
            ("lines:crlf", b"1234\r\n", b"123456"),
            ("delimited", b"\x021234\x03", b"\x0212345\x03"),
            ("delimited", b"\x021234\x03", b"\x0212345"),
            ("length:4", b"\0\0\0\x041234", b"\0\0\0\x05"),
            ("length:4", b"\0\0\0\x041234", b"\xff\xff\xff\xff"),
            ("length:1,inclusive", b"\x051234", b"\x06"),
        ] {
            let (all, fault, _) = frames(framing(text), 4, &[fits]);
            assert_eq!((all, fault), (vec![Bytes::from_static(b"1234")], None), "{text}");
            let (all, fault, _) = frames(framing(text), 4, &[too_long]);
            assert!(all.is_empty() && fault.is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_named_after_all_that_was_whole() {
        for (text, stream, said) in [
            ("delimited", &b"\x02a\x03b"[..], "62 where 02 is expected"),
            ("delimited", b"\x02a\x03\x02b\x02", "before the one before it has ended"),
            ("length:2,inclusive", b"\0\x03a\0\x01", "does not even count its own 2 bytes"),
            ("length:4", b"\0\0\0\x01a\x05\0\0\0", "83886080 bytes is longer"),
            ("length:4", b"\0\0\0\x01a\x05\0\0\0", "little-endian it would be 5"),
            ("mbap", b"\0\x01\0\0\0\x02\x01\x04\0\x01\0\x01", "its protocol is 1"),
            ("mbap", b"\0\x01\0\0\0\x02\x01\x04\0\x01\0\0\0\x01", "a length of 1 is not"),
            ("mbap", b"\0\x01\0\0\0\x02\x01\x04\0\x01\0\0\0\xff", "a length of 255 is not"),
        ] {
            let (all, fault, _) = frames(framing(text), 1_000, &[stream]);
            assert_eq!(all.len(), 1, "{text}");
            let fault = fault.unwrap().to_string();
            assert!(fault.contains(said), "{text}: {fault}");
            let mut decoder = Decoder::new(framing(text), 1_000);
            decoder.feed(stream);
            assert_eq!(decoder.run().unwrap().unwrap().frames, 1);
            assert!(decoder.run().is_err() && decoder.run().is_err(), "it stays so");
        }
    }

    #[test]
    fn an_announced_length_reserves_nothing_and_an_empty_frame_is_one() {
        let mut decoder = Decoder::new(framing("length:4"), usize::MAX);
        decoder.feed(b"\xff\xff\xff\xff1234");
        assert_eq!(decoder.frame(), Ok(None));
        assert!(decoder.memory() < 100, "{}", decoder.memory());
        assert_eq!(texts("length:1", b"\0\0\x01a\0"), ["", "", "a", ""]);
        assert_eq!(texts("lines", b"\n\n"), ["", ""]);
    }

    #[test]
    fn what_is_left_of_a_large_piece_keeps_no_more_than_itself() {
        let mut decoder = Decoder::new(Framing::LINES, 1 << 20);
        decoder.feed(&[&[b'x'; 60_000][..], b"\nrest"].concat());
        decoder.run().unwrap();
        assert!(decoder.memory() < 100, "{}", decoder.memory());
        decoder.feed(b"\n");
        decoder.run().unwrap();
        assert_eq!((decoder.remainder(), decoder.memory()), (0, 0));
    }
}
