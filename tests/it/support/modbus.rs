//! Modbus TCP: a device that takes one master, and masters that know what
//! their registers hold. Register `r` of unit `u` holds `value(u, r)`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::net::{abort, connect};
use super::tools::{PYTHON, root};

/// This unit never answers.
pub(crate) const MUTE: u8 = 99;
/// This one answers together with the next request that comes.
pub(crate) const SLOW: u8 = 98;

/// A device. It serves one connection at a time, and resets whoever else comes.
pub(crate) struct Device {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Connections that came while there was one.
    refused: AtomicUsize,
    current: Mutex<Option<TcpStream>>,
    /// Requests in the order in which they came: unit and register.
    seen: Mutex<Vec<(u8, u16, Instant)>>,
    accepted: Mutex<Vec<Instant>>,
}

/// What a master got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Value(u16),
    Exception(u8),
}

pub(crate) fn value(unit: u8, register: u16) -> u16 {
    (u16::from(unit) << 8 | 0x5a).wrapping_mul(40_503) ^ register.wrapping_mul(31)
}

impl Device {
    /// On the address of a listener, which is closed with [`stop`](Self::stop).
    pub(crate) fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let device = Self { address, state: Arc::clone(&state) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut current = state.current.lock().unwrap();
                if current.is_some() {
                    state.refused.fetch_add(1, Relaxed);
                    abort(stream);
                    continue;
                }
                stream.set_nodelay(true).unwrap();
                *current = Some(stream.try_clone().unwrap());
                state.accepted.lock().unwrap().push(Instant::now());
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    let _ = state.serve(stream);
                    *state.current.lock().unwrap() = None;
                });
            }
        });
        device
    }

    /// Resets the connection there is, as a device that is switched off and on.
    pub(crate) fn reset(&self) -> bool {
        let current = self.state.current.lock().unwrap();
        let Some(stream) = &*current else { return false };
        socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        stream.shutdown(std::net::Shutdown::Both).is_ok()
    }

    pub(crate) fn refused(&self) -> usize {
        self.state.refused.load(Relaxed)
    }

    pub(crate) fn seen(&self) -> Vec<(u8, u16, Instant)> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(crate) fn accepted(&self) -> Vec<Instant> {
        self.state.accepted.lock().unwrap().clone()
    }
}

impl State {
    /// Answers whatever has come together in the opposite order, as is allowed.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let (mut bytes, mut buffer, mut slow) = (Vec::new(), [0; 4_096], Vec::new());
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            bytes.extend_from_slice(&buffer[..count]);
            let mut answers = Vec::new();
            while bytes.len() >= 12 {
                let request: Vec<u8> = bytes.drain(..12).collect();
                let (unit, register) = (request[6], u16::from_be_bytes([request[8], request[9]]));
                self.seen.lock().unwrap().push((unit, register, Instant::now()));
                let [high, low] = value(unit, register).to_be_bytes();
                let mut answer = request[..4].to_vec();
                answer.extend([0, 5, unit, 3, 2, high, low]);
                match unit {
                    MUTE => {}
                    SLOW => slow.extend(answer),
                    _ => answers.push(answer),
                }
            }
            answers.push(std::mem::take(&mut slow));
            answers.reverse();
            // What is slow has waited for this.
            if answers.len() == 1 && answers[0].get(6) == Some(&SLOW) {
                slow = answers.remove(0);
            }
            stream.write_all(&answers.concat())?;
        }
    }
}

/// A master with a connection of its own.
pub(crate) struct Master {
    stream: TcpStream,
    unit: u8,
    transaction: u16,
}

impl Master {
    pub(crate) fn new(address: SocketAddr, unit: u8) -> Self {
        let stream = connect(address);
        stream.set_nodelay(true).unwrap();
        Self { stream, unit, transaction: 0 }
    }

    /// Asks for a register, without waiting for the answer.
    pub(crate) fn ask(&mut self, register: u16) -> io::Result<u16> {
        // All masters count from 1, so that what they send is the same.
        self.transaction = self.transaction.wrapping_add(1);
        let ([high, low], [r, egister]) = (self.transaction.to_be_bytes(), register.to_be_bytes());
        self.stream.write_all(&[high, low, 0, 0, 0, 6, self.unit, 3, r, egister, 0, 1])?;
        Ok(self.transaction)
    }

    /// The next answer, and its transaction.
    pub(crate) fn answer(&mut self) -> io::Result<(u16, Got)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let transaction = u16::from_be_bytes([head[0], head[1]]);
        assert_eq!((head[2], head[3], head[6]), (0, 0, self.unit), "an answer of another unit: {head:?}");
        if head[7] == 0x83 {
            return Ok((transaction, Got::Exception(head[8])));
        }
        assert_eq!(head[7..], [3, 2]);
        let mut value = [0; 2];
        self.stream.read_exact(&mut value)?;
        Ok((transaction, Got::Value(u16::from_be_bytes(value))))
    }

    /// Reads a register, and tells whether it is the right one.
    pub(crate) fn read(&mut self, register: u16) -> io::Result<Got> {
        let asked = self.ask(register)?;
        let (transaction, got) = self.answer()?;
        assert_eq!(transaction, asked, "an answer to another request");
        if let Got::Value(read) = got {
            assert_eq!(read, value(self.unit, register), "a wrong answer");
        }
        Ok(got)
    }

    /// Its connection, for who does otherwise.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// What modbus.py plays, with pymodbus: `device` or `masters`.
pub(crate) fn pymodbus(role: &str, port: u16) -> Command {
    let mut command = Command::new(PYTHON);
    command.arg(root().join("tests/it/support/modbus.py")).args([role, &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}
