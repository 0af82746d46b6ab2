//! [`Queue`]: what waits for one destination. Pieces are refcounted, so that a
//! thousand destinations share the bytes of one message; a piece is some whole
//! frames, and whatever is dropped is dropped by whole frames of which nothing
//! was written.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::kept::{Kept, Released, whole};
use super::overflow::{Overflow, QueueLimit};
use crate::framing::Framing;

/// The bytes that wait for one destination, in order.
#[derive(Debug)]
pub(crate) struct Queue {
    limit: QueueLimit,
    framing: Framing,
    pieces: VecDeque<Piece>,
    /// What was written and is not known to have arrived, if that is accounted for.
    kept: Option<Kept>,
    /// How much of the first piece was written.
    written: usize,
    /// What counts towards the limit.
    held: usize,
    waiting: Amount,
    dropped: Amount,
    is_high: bool,
    is_full: bool,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) frames: u64,
}

/// Frames, and the bytes they have on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

/// What became of a push or a write, for the one who tells others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Nothing waited before: whoever writes has to be woken.
    pub(crate) was_empty: bool,
    /// Half of the limit was passed; or a quarter, downwards.
    pub(crate) level: Option<Level>,
    /// It became full, or stopped being so.
    pub(crate) full: Option<bool>,
    /// What was dropped.
    pub(crate) dropped: Amount,
}

/// A mark that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    High,
    Low,
}

impl Queue {
    pub(crate) fn new(limit: QueueLimit, framing: Framing) -> Self {
        Self {
            limit,
            framing,
            pieces: VecDeque::new(),
            kept: None,
            written: 0,
            held: 0,
            waiting: Amount::default(),
            dropped: Amount::default(),
            is_high: false,
            is_full: false,
        }
    }

    /// Keeps what was written until it is known to have arrived. If it `resends`, what has not is for the next
    /// connection, and counts towards the limit until then.
    pub(crate) fn accounted(self, resends: bool) -> Self {
        Self { kept: Some(Kept::new(resends)), ..self }
    }

    /// Adds whole frames.
    pub(crate) fn push(&mut self, mut bytes: Bytes, mut frames: u64) -> Change {
        let was_empty = self.pieces.is_empty();
        let before = self.dropped;
        let over = (self.held + bytes.len() + PLACE).saturating_sub(self.limit.max);
        if over > 0 && !was_empty {
            match self.limit.overflow {
                Overflow::Block | Overflow::Disconnect => {}
                Overflow::DropOldest => self.drop_oldest(over),
                Overflow::DropNewest => {
                    let room = self.limit.max.saturating_sub(self.held + PLACE);
                    let (end, fit) = self.fitting(&bytes, room);
                    self.count_dropped(frames - fit, (bytes.len() - end) as u64);
                    bytes.truncate(end);
                    frames = fit;
                }
            }
        }
        if frames > 0 {
            self.held += bytes.len() + PLACE;
            self.waiting.frames += frames;
            self.waiting.bytes += bytes.len() as u64;
            self.pieces.push_back(Piece { bytes, frames });
        }
        let dropped =
            Amount { frames: self.dropped.frames - before.frames, bytes: self.dropped.bytes - before.bytes };
        Change { was_empty, dropped, ..self.marks() }
    }

    /// Points at the first bytes that wait, for one vectored write; yields how many slices.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            let skip = if count == 0 { self.written } else { 0 };
            *slot = IoSlice::new(&piece.bytes[skip..]);
            count += 1;
        }
        count
    }

    /// The rest of the frame that was written in part, if one was.
    pub(crate) fn begun(&self) -> &[u8] {
        let Some(piece) = self.pieces.front() else { return &[] };
        let mut end = 0;
        while end < self.written {
            end += self.framing.first_end(&piece.bytes[end..]);
        }
        &piece.bytes[self.written..end]
    }

    /// So many of these bytes were written.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> Change {
        self.waiting.bytes -= bytes as u64;
        while let Some(piece) = self.pieces.front() {
            let left = piece.bytes.len() - self.written;
            if bytes < left {
                self.written += bytes;
                break;
            }
            bytes -= left;
            self.written = 0;
            self.waiting.frames -= piece.frames;
            let piece = self.pieces.pop_front().expect("looked at above");
            self.keep(piece);
        }
        if self.pieces.is_empty() && self.pieces.capacity() > KEPT_PLACES {
            // An idle destination keeps no more than a few places.
            self.pieces = VecDeque::new();
        }
        self.marks()
    }

    /// Tells whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Tells whether something was written of what waits.
    pub(crate) fn has_begun(&self) -> bool {
        self.written > 0
    }

    /// What waits; a frame that was written in part counts until it is out.
    pub(crate) fn waiting(&self) -> Amount {
        self.waiting
    }

    /// What counts towards the limit, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Something was written whole.
    fn keep(&mut self, piece: Piece) {
        if !self.resends() {
            self.held -= piece.bytes.len() + PLACE;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(piece);
        }
    }

    /// How many frames of this connection are known to have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.kept.as_ref().map_or(0, Kept::arrived)
    }

    /// All that was written has arrived but so many bytes. Frames of a piece that was written in part are then out.
    pub(crate) fn acknowledged(&mut self, unacknowledged: u64) -> Change {
        self.part();
        let begun = self.written as u64;
        let released = self.kept.as_mut().map(|kept| kept.acknowledged(unacknowledged, begun, self.framing));
        self.release(released)
    }

    /// The first so many frames of this connection have arrived.
    pub(crate) fn answered(&mut self, first: u64) -> Change {
        let released = self.kept.as_mut().map(|kept| kept.answered(first, self.framing));
        self.release(released)
    }

    fn release(&mut self, released: Option<Released>) -> Change {
        if let (Some(Released { pieces, bytes }), true) = (released, self.resends()) {
            self.held -= bytes + pieces * PLACE;
        }
        self.marks()
    }

    fn resends(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::resends)
    }

    /// The whole frames that were written of the first piece become a piece that is out.
    fn part(&mut self) {
        let Some(piece) = self.pieces.front_mut() else { return };
        let (end, frames) = whole(self.framing, &piece.bytes, self.written);
        if frames == 0 {
            return;
        }
        let out = Piece { bytes: piece.bytes.split_to(end), frames };
        piece.frames -= frames;
        self.written -= end;
        self.waiting.frames -= frames;
        self.held += PLACE;
        self.keep(out);
    }

    /// The destination has been replaced: a frame that was cut begins again,
    /// and those before it in its piece are out. Yields how many that are;
    /// or how many of those that were out wait again, before all else, as the second.
    pub(crate) fn restart(&mut self) -> (Change, u64, u64) {
        let before = self.waiting.frames;
        self.part();
        let (out, mut again) = (before - self.waiting.frames, 0);
        self.waiting.bytes += std::mem::take(&mut self.written) as u64;
        if let Some(kept) = &mut self.kept {
            while kept.resends()
                && let Some(piece) = kept.pop_back()
            {
                again += piece.frames;
                self.waiting.bytes += piece.bytes.len() as u64;
                self.pieces.push_front(piece);
            }
            kept.clear();
        }
        self.waiting.frames += again;
        (self.marks(), out, again)
    }

    /// Takes out everything that waits, in pieces, for another queue. Nothing of it may have been written.
    pub(crate) fn take(&mut self) -> (Change, Vec<(Bytes, u64)>) {
        debug_assert_eq!(self.written, 0, "the one before has been restarted");
        let pieces = std::mem::take(&mut self.pieces);
        (self.clear(), pieces.into_iter().map(|piece| (piece.bytes, piece.frames)).collect())
    }

    /// Forgets everything that waits, for the end of its destination.
    pub(crate) fn clear(&mut self) -> Change {
        self.pieces = VecDeque::new();
        self.kept.as_mut().map(Kept::clear);
        (self.written, self.held, self.waiting) = (0, 0, Amount::default());
        self.marks()
    }

    /// How much of `bytes` fits into `room`, in whole frames.
    fn fitting(&self, bytes: &[u8], room: usize) -> (usize, u64) {
        let (mut end, mut frames) = (0, 0);
        while end < bytes.len() {
            let next = end + self.framing.first_end(&bytes[end..]);
            if next > room {
                break;
            }
            (end, frames) = (next, frames + 1);
        }
        (end, frames)
    }

    /// Drops whole frames from the front, of which nothing was written, until `over` bytes are gone.
    fn drop_oldest(&mut self, mut over: usize) {
        let mut kept = VecDeque::new();
        if self.written > 0 {
            // What was begun goes out: the frame that is being written, and with it those before it in its piece.
            let begun = self.pieces.front_mut().expect("something of it was written");
            let mut end = 0;
            let mut frames = 0;
            while end < self.written {
                end += self.framing.first_end(&begun.bytes[end..]);
                frames += 1;
            }
            let rest = begun.bytes.split_off(end);
            let first = Piece { bytes: std::mem::take(&mut begun.bytes), frames };
            begun.frames -= frames;
            if rest.is_empty() {
                self.pieces.pop_front();
            } else {
                begun.bytes = rest;
                self.held += PLACE;
                over += PLACE;
            }
            kept.push_back(first);
        }
        while over > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let (mut end, mut frames) = (0, 0);
            let spared = |end: usize, all: usize| if end == all { end + PLACE } else { end };
            while spared(end, piece.bytes.len()) < over && end < piece.bytes.len() {
                end += self.framing.first_end(&piece.bytes[end..]);
                frames += 1;
            }
            let spared = spared(end, piece.bytes.len());
            piece.bytes.advance(end);
            piece.frames -= frames;
            if piece.bytes.is_empty() {
                self.pieces.pop_front();
            }
            self.held -= spared;
            self.waiting.frames -= frames;
            self.waiting.bytes -= end as u64;
            self.count_dropped(frames, end as u64);
            over = over.saturating_sub(spared);
        }
        while let Some(first) = kept.pop_back() {
            self.pieces.push_front(first);
        }
    }

    fn count_dropped(&mut self, frames: u64, bytes: u64) {
        self.dropped.frames += frames;
        self.dropped.bytes += bytes;
    }

    /// Which marks were passed since the last look.
    fn marks(&mut self) -> Change {
        let mut change = Change::default();
        let max = self.limit.max;
        if !self.is_high && self.held >= max / 2 {
            self.is_high = true;
            change.level = Some(Level::High);
        } else if self.is_high && self.held <= max / 4 {
            self.is_high = false;
            change.level = Some(Level::Low);
        }
        // It opens again only at half, so that sources are not woken for every write.
        let is_full = self.held >= if self.is_full { max / 2 + 1 } else { max };
        if is_full != self.is_full {
            self.is_full = is_full;
            change.full = Some(is_full);
        }
        change
    }
}

/// What a piece costs beside its bytes; without it a million empty lines would be free.
pub(crate) const PLACE: usize = 64;
/// Places an empty queue may keep.
const KEPT_PLACES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(max: usize, overflow: Overflow) -> Queue {
        Queue::new(QueueLimit { max, overflow }, Framing::LINES)
    }

    fn push(queue: &mut Queue, text: &str) -> Change {
        let frames = text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        queue.push(Bytes::copy_from_slice(text.as_bytes()), frames)
    }

    /// Writes up to so many bytes.
    fn write(queue: &mut Queue, most: usize) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = queue.slices(&mut slices);
        let mut bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate(most);
        queue.advance(bytes.len());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_pushed_is_written_in_order_from_wherever_the_last_write_stopped() {
        let mut queue = queue(1_000, Overflow::Block);
        assert!(push(&mut queue, "one\ntwo\n").was_empty);
        assert!(!push(&mut queue, "three\n").was_empty);
        assert_eq!(write(&mut queue, 5), "one\nt");
        assert_eq!(queue.waiting(), Amount { frames: 3, bytes: 9 });
        assert_eq!(write(&mut queue, 100), "wo\nthree\n");
        assert!(queue.is_empty() && queue.held() == 0);
    }

    #[test]
    fn oldest_whole_frames_go_and_one_that_was_begun_stays() {
        let mut queue = queue(2 * PLACE + 20, Overflow::DropOldest);
        push(&mut queue, "aaa\nbbb\nccc\n");
        assert_eq!(write(&mut queue, 2), "aa");
        let change = push(&mut queue, "dddddddddddddddd\n");
        assert!(change.dropped.frames > 0);
        let rest = write(&mut queue, 100);
        assert!(rest.starts_with("a\n") && rest.ends_with("dddddddddddddddd\n"), "{rest:?}");
        assert_eq!(change.dropped, queue.dropped);
        assert_eq!(queue.dropped.bytes as usize + 2 + rest.len(), 12 + 17);
    }

    #[test]
    fn for_another_destination_a_cut_frame_begins_again_and_whole_ones_do_not() {
        let mut queue = queue(1_000, Overflow::Block);
        push(&mut queue, "one\ntwo\nthree\n");
        push(&mut queue, "four\n");
        assert!(queue.begun().is_empty());
        assert_eq!(write(&mut queue, 10), "one\ntwo\nth");
        assert_eq!(queue.begun(), b"ree\n");
        assert_eq!(queue.restart().1, 2);
        assert!(queue.begun().is_empty());
        assert_eq!((queue.waiting(), queue.held()), (Amount { frames: 2, bytes: 11 }, 11 + 2 * PLACE));
        assert_eq!(queue.restart().1, 0);
        assert_eq!(write(&mut queue, 100), "three\nfour\n");
        assert_eq!((queue.restart().1, queue.held(), queue.waiting()), (0, 0, Amount::default()));
    }

    #[test]
    fn what_has_not_arrived_waits_again_in_order_and_counts_until_then() {
        let mut queue = queue(1_000, Overflow::Block).accounted(true);
        push(&mut queue, "one\ntwo\n");
        push(&mut queue, "three\n");
        push(&mut queue, "four\nfive\n");
        assert_eq!(write(&mut queue, 16), "one\ntwo\nthree\nfo");
        assert_eq!(queue.held(), 24 + 3 * PLACE);
        queue.answered(1);
        assert_eq!((queue.held(), queue.waiting().frames), (20 + 3 * PLACE, 2));
        let (_, out, again) = queue.restart();
        assert_eq!((out, again, queue.held()), (0, 2, 20 + 3 * PLACE));
        assert_eq!(queue.waiting(), Amount { frames: 4, bytes: 20 });
        assert_eq!(write(&mut queue, 100), "two\nthree\nfour\nfive\n");
        assert!(queue.is_empty());
        queue.answered(4);
        assert_eq!((queue.held(), queue.waiting(), queue.restart().2), (0, Amount::default(), 0));
    }

    #[test]
    fn what_is_out_of_a_piece_that_was_cut_is_known_before_the_rest_waits_again() {
        let mut queue = queue(1_000, Overflow::Block).accounted(true);
        push(&mut queue, "one\ntwo\nthree\n");
        assert_eq!(write(&mut queue, 10), "one\ntwo\nth");
        queue.acknowledged(5);
        assert_eq!((queue.arrived(), queue.waiting()), (1, Amount { frames: 1, bytes: 4 }));
        assert_eq!(queue.held(), 10 + 2 * PLACE);
        let (_, out, again) = queue.restart();
        assert_eq!((out, again, queue.waiting()), (0, 1, Amount { frames: 2, bytes: 10 }));
        assert_eq!(write(&mut queue, 100), "two\nthree\n");
        queue.acknowledged(0);
        assert_eq!(queue.held(), 0);
    }

    #[test]
    fn an_acknowledgement_counts_every_whole_frame_before_it_and_no_other() {
        for resends in [false, true] {
            let mut queue = queue(1_000, Overflow::Block).accounted(resends);
            push(&mut queue, "one\ntwo\nthree\n");
            push(&mut queue, "four\nfive\nsix\n");
            assert_eq!(write(&mut queue, 22), "one\ntwo\nthree\nfour\nfiv");
            for (unacknowledged, arrived) in
                [(22, 0), (19, 0), (18, 1), (17, 1), (8, 3), (4, 3), (3, 4), (0, 4)]
            {
                queue.acknowledged(unacknowledged);
                assert_eq!(queue.arrived(), arrived, "{unacknowledged}");
            }
            // "four" is out, which nobody had asked before.
            assert_eq!(queue.waiting(), Amount { frames: 2, bytes: 6 });
            assert_eq!(queue.restart().1, 0);
            assert_eq!((queue.held(), queue.arrived()), (9 + PLACE, 0));
            assert_eq!(write(&mut queue, 7), "five\nsi");
            let (_, out, again) = queue.restart();
            assert_eq!((out, again), (1, u64::from(resends)));
            assert_eq!(write(&mut queue, 100), if resends { "five\nsix\n" } else { "six\n" });
        }
    }

    #[test]
    fn newest_whole_frames_are_refused_and_those_that_fit_are_not() {
        let mut queue = queue(2 * PLACE + 16, Overflow::DropNewest);
        push(&mut queue, "aaa\n");
        let change = push(&mut queue, "bbb\nccc\nddd\neee\n");
        assert_eq!(change.dropped, Amount { frames: 1, bytes: 4 });
        assert_eq!(write(&mut queue, 100), "aaa\nbbb\nccc\nddd\n");
    }

    #[test]
    fn an_empty_queue_takes_a_piece_of_any_size_and_says_when_it_has_room_again() {
        for overflow in Overflow::ALL {
            let mut queue = queue(100, overflow);
            let change = push(&mut queue, &format!("{}\n", "x".repeat(200)));
            assert_eq!((change.level, change.full), (Some(Level::High), Some(true)));
            assert!(queue.is_full);
            write(&mut queue, 150);
            assert!(queue.is_full, "a piece counts until it is out");
            let mut slices = [IoSlice::new(&[]); 8];
            let count = queue.slices(&mut slices);
            let left = slices[..count].iter().map(|slice| slice.len()).sum();
            let change = queue.advance(left);
            assert_eq!((change.level, change.full), (Some(Level::Low), Some(false)));
        }
    }

    proptest! {
        /// No policy tears a frame, loses count, or exceeds its limit by more than one piece.
        #[test]
        fn frames_stay_whole_and_the_accounts_add_up(
            steps in prop::collection::vec((0..4usize, 1..6usize, 0..40usize), 1..80),
            max in 100..1_000usize,
            policy in 0..4usize,
        ) {
            let overflow = Overflow::ALL[policy];
            let mut queue = queue(max, overflow);
            let (mut next, mut pushed, mut out) = (0, Amount::default(), String::new());
            for (kind, lines, size) in steps {
                if kind < 3 {
                    let mut text = String::new();
                    for _ in 0..lines {
                        text.push_str(&format!("{next:04}{}\n", "x".repeat(size)));
                        next += 1;
                    }
                    pushed.frames += lines as u64;
                    pushed.bytes += text.len() as u64;
                    let before = queue.held();
                    push(&mut queue, &text);
                    if overflow.drops() && before > 0 {
                        // What was begun stays, and an empty queue takes anything.
                        prop_assert!(queue.held() <= max + text.len() + 2 * PLACE + 250);
                    }
                } else {
                    out.push_str(&write(&mut queue, size * 4));
                }
            }
            while !queue.is_empty() {
                out.push_str(&write(&mut queue, 7));
            }
            prop_assert_eq!(queue.held(), 0);
            prop_assert_eq!(queue.waiting(), Amount::default());
            let lines: Vec<_> = out.lines().collect();
            prop_assert!(out.is_empty() || out.ends_with('\n'));
            let numbers: Vec<u32> = lines.iter().map(|line| line[..4].parse().unwrap()).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", numbers);
            prop_assert!(lines.iter().all(|line| line[4..].bytes().all(|b| b == b'x')));
            prop_assert_eq!(queue.dropped.frames + lines.len() as u64, pushed.frames);
            prop_assert_eq!(queue.dropped.bytes + out.len() as u64, pushed.bytes);
            if !overflow.drops() {
                prop_assert_eq!(queue.dropped, Amount::default());
            }
        }
    }
}
