//! The decoder: any split of any stream, what is left out, limits, and memory.

use std::collections::BTreeMap;

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

/// What came of a stream of which what is bad is left out.
#[derive(Debug, Default, PartialEq)]
struct Skipping {
    bodies: Vec<Vec<u8>>,
    /// The bytes of the frames, with what tells them apart.
    wire: usize,
    skipped: Vec<Skipped>,
    rest: usize,
}

fn skipping(framing: Framing, max: usize, pieces: &[&[u8]], by_runs: bool) -> Skipping {
    let mut decoder = Decoder::new(framing, max).on_bad_frame(BadFrame::Skip);
    let (mut got, mut causes) = (Skipping::default(), BTreeMap::new());
    for piece in pieces {
        decoder.feed(piece);
        let before = got.bodies.len();
        if by_runs {
            while let Some(run) = decoder.run().unwrap() {
                got.bodies.extend(framing.bodies(&run.wire).map(<[u8]>::to_vec));
                assert_eq!(got.bodies.len() - before, run.frames as usize, "all at once");
                got.wire += run.wire.len();
            }
        } else {
            while let Some(body) = decoder.frame().unwrap() {
                got.bodies.push(body.to_vec());
            }
        }
        while let Some(skipped) = decoder.skipped() {
            let all = causes.entry(skipped.cause).or_insert((0, 0));
            *all = (all.0 + skipped.frames, all.1 + skipped.bytes);
        }
        assert!(decoder.skipping.is_none() || decoder.held.len() <= framing.seam());
    }
    got.skipped =
        causes.into_iter().map(|(cause, (frames, bytes))| Skipped { cause, frames, bytes }).collect();
    got.rest = decoder.remainder();
    if !by_runs {
        // Which of the two ends a line had is not known here.
        let left_out: u64 = got.skipped.iter().map(|skipped| skipped.bytes).sum();
        got.wire = pieces.concat().len() - left_out as usize - got.rest;
    }
    got
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

    /// The same frames, counts and rest; what is left out, passed on and kept is what came, and nothing
    /// is kept of what is left out but what may be the beginning of an end.
    #[test]
    fn any_split_leaves_out_the_same_and_loses_no_byte(
        stream in bytes(), cuts in prop::collection::vec(any::<usize>(), 0..12), max in 1..12usize
    ) {
        // That would end it.
        prop_assume!(!matches!(stream[..], [0x16, 3, 0..=4, ..]));
        for text in ["lines", "lines:crlf", "lines:616162", "delimited", "delimited:16,03", "delimited:61,00"] {
            let framing = framing(text);
            let at_once = skipping(framing, max, &[&stream], true);
            let each = skipping(framing, max, &[&stream], false);
            prop_assert_eq!(&each, &at_once, "{}", text);
            let pieces = split(&stream, &cuts);
            for by_runs in [true, false] {
                prop_assert_eq!(&skipping(framing, max, &pieces, by_runs), &at_once, "{} {}", text, by_runs);
            }
            let Skipping { wire, skipped, rest, .. } = at_once;
            let left_out: u64 = skipped.iter().map(|skipped| skipped.bytes).sum();
            prop_assert_eq!(wire + left_out as usize + rest, stream.len(), "{}", text);
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
fn what_is_bad_is_left_out_up_to_where_the_next_can_begin() {
    use DropCause::{FrameTooLong as Long, MalformedFrame as Bad};
    for (text, stream, bodies, left_out) in [
        ("lines", &b"1234\n12345\n\n123456789\nend\n"[..], &["1234", "", "end"][..], &[(Long, 2, 16)][..]),
        // It is known before its end has come, and counted as far as it has.
        ("lines", b"a\n12345", &["a"], &[(Long, 1, 5)]),
        ("lines:crlf", b"12345\r\n1234\r\n12345\na\r\n", &["1234", "a"], &[(Long, 2, 13)]),
        ("lines:616162", b"12345aaab12aab", &["12"], &[(Long, 1, 9)]),
        ("delimited", b"ab\x02c\x03\r\n\x02d\x03!", &["c", "d"], &[(Bad, 3, 5)]),
        // Begun anew; too long with its end, and with what is between it and the next.
        ("delimited", b"\x02ab\x02c\x03\x0212345\x03??\x02d\x03", &["c", "d"], &[(Long, 1, 9), (Bad, 1, 3)]),
        ("delimited", b"\x0212345\x02d\x03", &["d"], &[(Long, 1, 6)]),
        ("delimited", b"\x03\x03\x02\x03\x16", &[""], &[(Bad, 2, 3)]),
    ] {
        let got = skipping(framing(text), 4, &[stream], true);
        let expected: Vec<_> = left_out
            .iter()
            .map(|(cause, frames, bytes)| Skipped { cause: *cause, frames: *frames, bytes: *bytes })
            .collect();
        let (found, rest): (Vec<_>, _) = (got.bodies.iter().map(|body| body.as_slice()).collect(), got.rest);
        assert_eq!(found, bodies.iter().map(|body| body.as_bytes()).collect::<Vec<_>>(), "{text}");
        assert_eq!(got.skipped, expected, "{text}");
        assert_eq!(rest, 0, "{text}");
    }
}

#[test]
fn where_no_next_frame_can_be_found_or_tls_begins_a_stream_ends_in_any_case() {
    for (text, stream) in [
        ("length:4", &b"\xff\xff\xff\xff"[..]),
        ("mbap", b"\0\x01\0\x07\0\x02"),
        ("lines", b"\x16\x03\x01\x02"),
        ("delimited", b"\x16\x03\x01\x02"),
    ] {
        for size in 1..=stream.len() {
            let mut decoder = Decoder::new(framing(text), 2).on_bad_frame(BadFrame::Skip);
            let ends = stream.chunks(size).any(|piece| {
                decoder.feed(piece);
                decoder.run().is_err()
            });
            assert!(ends, "{text} in pieces of {size}");
            assert_eq!(decoder.skipped(), None);
        }
    }
}

#[test]
fn a_line_without_end_keeps_nothing_and_is_counted_on() {
    let mut decoder = Decoder::new(Framing::LINES, 1 << 20).on_bad_frame(BadFrame::Skip);
    let piece = [b'x'; 1 << 16];
    let (mut frames, mut bytes) = (0, 0);
    for nth in 1..1_000u64 {
        decoder.feed(&piece);
        assert_eq!(decoder.run(), Ok(None));
        while let Some(skipped) = decoder.skipped() {
            frames += skipped.frames;
            bytes += skipped.bytes;
        }
        let is_over = nth > 16;
        assert_eq!((frames, bytes), if is_over { (1, nth << 16) } else { (0, 0) });
        assert!(
            !is_over || decoder.memory() == 0 && decoder.remainder() == 0 && decoder.held.capacity() == 0
        );
    }
    decoder.feed(b"x\nshort\n");
    assert_eq!(decoder.run(), Ok(Some(Run { wire: "short\n".into(), frames: 1 })));
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
