//! `-x`: what a tap read, as hex and text.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::writer::LogQueue;
use crate::config::LogFormat;
use crate::event::ConnectionId;
use crate::flow::{Tap, TapChunk, TapDirection, TapReader};

/// The thread that writes the dump.
pub(super) struct Dump {
    tap: Tap,
    done: mpsc::Receiver<()>,
}

impl Dump {
    /// Starts the thread, and yields the tap that feeds it.
    pub(super) fn start(log: LogQueue, format: LogFormat) -> std::io::Result<(Self, Tap)> {
        let (tap, reader) = Tap::new();
        // One word at the end.
        let (say, done) = mpsc::sync_channel(1);
        thread::Builder::new().name("hexdump".into()).spawn(move || {
            run(&reader, &log, format);
            let _ = say.send(());
        })?;
        Ok((Self { tap: tap.clone(), done }, tap))
    }

    /// Writes what the tap holds, waiting at most for `limit`.
    pub(super) fn finish(self, limit: Duration) {
        self.tap.close();
        // Whoever stopped the terminal does not get the rest.
        let _ = self.done.recv_timeout(limit);
    }
}

fn run(reader: &TapReader, log: &LogQueue, format: LogFormat) {
    let mut expected: HashMap<(ConnectionId, TapDirection), u64> = HashMap::new();
    while let Some(chunk) = reader.next() {
        let key = (chunk.connection, chunk.direction);
        let before = expected.get(&key).copied().unwrap_or(0);
        if chunk.offset > before {
            log.block(skipped(&chunk, before, format).into_bytes());
        }
        if chunk.bytes.is_empty() {
            expected.remove(&key);
            continue;
        }
        expected.insert(key, chunk.offset + chunk.bytes.len() as u64);
        for (i, piece) in chunk.bytes.chunks(PIECE).enumerate() {
            let offset = chunk.offset + (i * PIECE) as u64;
            let block = match format {
                LogFormat::Text => text(&chunk, (i == 0).then_some(chunk.bytes.len()), offset, piece),
                LogFormat::Json => object(&chunk, offset, piece),
            };
            log.block(block.into_bytes());
        }
    }
}

fn time(at: SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_micros(at)
}

const fn arrow(direction: TapDirection) -> char {
    match direction {
        TapDirection::ToTarget => '>',
        TapDirection::ToClient => '<',
    }
}

const fn word(direction: TapDirection) -> &'static str {
    match direction {
        TapDirection::ToTarget => "to_target",
        TapDirection::ToClient => "to_client",
    }
}

fn skipped(chunk: &TapChunk, from: u64, format: LogFormat) -> String {
    let bytes = chunk.offset - from;
    match format {
        LogFormat::Text => format!(
            "{} {} connection {} offset {from}: {bytes} bytes not shown\n",
            arrow(chunk.direction),
            time(chunk.at),
            chunk.connection
        ),
        LogFormat::Json => {
            let object = json!({
                "timestamp": time(chunk.at).to_string(),
                "event": "hexdump_skipped",
                "connection": chunk.connection,
                "direction": word(chunk.direction),
                "offset": from,
                "bytes": bytes,
            });
            format!("{object}\n")
        }
    }
}

fn text(chunk: &TapChunk, header: Option<usize>, offset: u64, piece: &[u8]) -> String {
    let mut out = String::with_capacity(piece.len() * 5 + 80);
    if let Some(length) = header {
        let (arrow, at, id) = (arrow(chunk.direction), time(chunk.at), chunk.connection);
        let _ = writeln!(out, "{arrow} {at} connection {id} offset {offset} length {length}");
    }
    for (i, row) in piece.chunks(ROW).enumerate() {
        let _ = write!(out, "  {:08x} ", offset + (i * ROW) as u64);
        for column in 0..ROW {
            let gap = if column == ROW / 2 { "  " } else { " " };
            let _ = match row.get(column) {
                Some(byte) => write!(out, "{gap}{byte:02x}"),
                None => write!(out, "{gap}  "),
            };
        }
        let _ = writeln!(out, "  |{}|", printable(row));
    }
    out
}

fn object(chunk: &TapChunk, offset: u64, piece: &[u8]) -> String {
    let hex = piece.iter().fold(String::with_capacity(piece.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let object = json!({
        "timestamp": time(chunk.at).to_string(),
        "event": "hexdump",
        "connection": chunk.connection,
        "direction": word(chunk.direction),
        "offset": offset,
        "hex": hex,
        "text": printable(piece),
    });
    format!("{object}\n")
}

fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '.' }).collect()
}

/// Bytes in a row.
const ROW: usize = 16;
/// Bytes in a block: the terminal gets whole rows, the queue gets even pieces.
const PIECE: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, bytes: &[u8]) -> TapChunk {
        let direction = TapDirection::ToTarget;
        let at = SystemTime::UNIX_EPOCH;
        TapChunk { connection: ConnectionId::next(), direction, offset, at, bytes: bytes.to_vec() }
    }

    #[test]
    fn rows_show_offset_hex_and_text_and_nothing_that_could_move_a_cursor() {
        let chunk = chunk(18, b"hello \x1b[2J world\r\n");
        let shown = text(&chunk, Some(18), 18, &chunk.bytes);
        let rows: Vec<_> = shown.lines().skip(1).collect();
        assert_eq!(
            rows,
            [
                "  00000012  68 65 6c 6c 6f 20 1b 5b  32 4a 20 77 6f 72 6c 64  |hello .[2J world|",
                "  00000022  0d 0a                                             |..|",
            ]
        );
        assert!(shown.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)));
    }

    #[test]
    fn what_was_skipped_is_named_by_offset_and_count() {
        let shown = skipped(&chunk(100, b"x"), 40, LogFormat::Text);
        assert!(shown.contains("offset 40: 60 bytes not shown"), "{shown}");
    }
}
