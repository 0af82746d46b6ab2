//! The load: clients and the backend they reach through a relay, in one
//! process and on one core, so that the relay has the other to itself. Each
//! scenario runs for a while, and says what was done, how long each took, and
//! what the relay paid for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::meter::{Cpu, Percentiles, Sample};

/// What to do, and against whom.
pub(crate) struct Load {
    pub(crate) scenario: String,
    pub(crate) relay: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) relay_pid: u32,
    pub(crate) seconds: f64,
    pub(crate) connections: usize,
}

/// Runs the scenario.
pub(crate) fn run(load: &Load) -> Sample {
    match load.scenario.as_str() {
        "bulk" => bulk(load),
        "pingpong" => Loop::new(load).ping_pong(load, 0),
        "beside-idle" => Loop::new(load).ping_pong(load, 2_000),
        "connect" => Loop::new(load).connects(load),
        "idle" => Loop::new(load).idle(load),
        "mixed" => mixed(load),
        "fan-out" => crate::crowd::fan_out(load),
        "fan-out-from-the-first" => crate::crowd::fan_out_from_the_first(load, false),
        "fan-out-stalled" => crate::crowd::fan_out_from_the_first(load, true),
        "publish-from-the-first" => crate::crowd::publish_from_the_first(load, false),
        "publish-stalled" => crate::crowd::publish_from_the_first(load, true),
        "fan-out-paced" => crate::crowd::fan_out_paced(load),
        "fan-in" => crate::crowd::fan_in(load),
        "collect" => crate::crowd::collect(load),
        other => panic!("no scenario is called {other}"),
    }
}

fn duration(load: &Load) -> Duration {
    Duration::from_secs_f64(load.seconds)
}

pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("the backend's port {address}: {error}"));
    socket.listen(4_096).expect("a listener");
    socket.into()
}

/// The backend of streams: whoever connects says by its first byte what it is.
/// A stray connection, left over from a relay's start, says nothing and is none.
struct Backend {
    stop: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    accepting: thread::JoinHandle<()>,
}

const STREAM: u8 = b's';
const PING: u8 = b'p';

impl Backend {
    fn start(address: SocketAddr) -> Self {
        let listener = listen(address);
        listener.set_nonblocking(true).expect("an option");
        let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, received) = (Arc::clone(&stop), Arc::clone(&moved));
        let accepting = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let received = Arc::clone(&received);
                        thread::spawn(move || serve_stream(stream, &received));
                    }
                    Err(_nobody) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { stop, moved, accepting }
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.accepting.join().expect("accepting does not panic");
    }
}

fn serve_stream(mut stream: TcpStream, received: &AtomicU64) {
    stream.set_nonblocking(false).expect("an option");
    stream.set_nodelay(true).expect("an option");
    let mut tag = [0];
    match stream.read(&mut tag) {
        Ok(1) if tag[0] == PING => {
            let mut buffer = [0; 64];
            while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
        }
        Ok(1) => {
            step_back();
            // Taken from the queue without being copied, which TCP allows.
            let mut buffer = vec![0; 4 << 20];
            while let Ok((_, count @ 1..)) = recv(&stream, &mut buffer[..], RecvFlags::TRUNC) {
                received.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        _ => {}
    }
}

/// Connects through the relay and says what it is. No call on it waits for ever.
fn connect(load: &Load, tag: u8) -> TcpStream {
    let mut stream = TcpStream::connect(load.relay).expect("the relay accepts");
    stream.set_nodelay(true).expect("an option");
    stream.set_write_timeout(Some(PATIENCE)).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.write_all(&[tag]).expect("the relay carries");
    stream
}

/// Senders in threads of their own, as many as asked for.
struct Streams {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Streams {
    fn start(load: &Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sender = |_| {
            let (mut stream, stop) = (connect(load, STREAM), Arc::clone(&stop));
            thread::spawn(move || {
                step_back();
                // Small enough to stay in the cache: what is to be measured is the relay.
                let piece = vec![7; PIECE];
                while !stop.load(Ordering::Relaxed) && stream.write_all(&piece).is_ok() {}
            })
        };
        let threads = (0..load.connections).map(sender).collect();
        Self { stop, threads }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no stream panics");
        }
    }
}

/// Bytes of one write of a stream.
const PIECE: usize = 256 << 10;
/// Longer than any relay here should hold anything up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets other threads of this process go first, so that what they wait for is the relay.
fn step_back() {
    let _ = rustix::process::setpriority_process(None, 19);
}

fn bulk(load: &Load) -> Sample {
    let backend = Backend::start(load.backend);
    let streams = Streams::start(load);
    thread::sleep(Duration::from_millis(100));
    let (cpu, before, begun) = (Cpu::of(load.relay_pid), backend.moved(), Instant::now());
    thread::sleep(duration(load));
    let (moved, elapsed) = (backend.moved() - before, begun.elapsed());
    let cpu = cpu.spent();
    streams.finish();
    backend.finish();
    Sample::new(moved as f64, elapsed, cpu)
}

/// One paced ping-pong, timed from when each was due, beside bulk streams.
fn mixed(load: &Load) -> Sample {
    let backend = Backend::start(load.backend);
    let mut pinger = connect(load, PING);
    let streams = Streams::start(load);
    thread::sleep(Duration::from_millis(100));
    let (cpu, before, begun) = (Cpu::of(load.relay_pid), backend.moved(), Instant::now());
    let every = Duration::from_millis(20);
    let mut took = Vec::new();
    let mut due = begun;
    while begun.elapsed() < duration(load) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        pinger.write_all(&[7; 64]).expect("the relay carries");
        pinger.read_exact(&mut [0; 64]).expect("the relay carries");
        took.push(due.elapsed());
        due += every;
    }
    let (moved, elapsed) = (backend.moved() - before, begun.elapsed());
    let cpu = cpu.spent();
    drop(pinger);
    streams.finish();
    backend.finish();
    Sample::new(moved as f64, elapsed, cpu).with(Percentiles::of(took))
}

/// Clients and echoing backend connections on one level-triggered epoll.
struct Loop {
    epoll: OwnedFd,
    backend: TcpListener,
    relay: SocketAddr,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// The backend closes after its answer, and a client has its answer when it sees that: then no port of
    /// the relay waits (TIME_WAIT) while thousands are used.
    once: bool,
    took: Vec<Duration>,
    answered: u64,
    buffer: Vec<u8>,
}

struct Slot {
    stream: TcpStream,
    role: Role,
}

enum Role {
    Echo,
    /// A client, when it sent its message.
    Client(Instant),
    /// A client that was begun then and has not sent yet.
    Connecting(Instant),
}

/// The epoll key of the listener.
const BACKEND: u64 = u64::MAX;
const MESSAGE: [u8; 64] = [7; 64];

impl Loop {
    fn new(load: &Load) -> Self {
        let backend = listen(load.backend);
        backend.set_nonblocking(true).expect("an option");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        epoll::add(&epoll, &backend, epoll::EventData::new_u64(BACKEND), epoll::EventFlags::IN)
            .expect("an entry");
        Self {
            epoll,
            backend,
            relay: load.relay,
            slots: Vec::new(),
            free: Vec::new(),
            once: false,
            took: Vec::new(),
            answered: 0,
            buffer: vec![0; 1 << 16],
        }
    }

    fn add(&mut self, stream: TcpStream, role: Role, flags: epoll::EventFlags) -> usize {
        stream.set_nodelay(true).expect("an option");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        epoll::add(&self.epoll, stream.as_fd(), epoll::EventData::new_u64(slot as u64), flags)
            .expect("an entry");
        self.slots[slot] = Some(Slot { stream, role });
        slot
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
    }

    /// A client that is connected and waits.
    fn client(&mut self) -> usize {
        let stream = TcpStream::connect(self.relay).expect("the relay accepts");
        stream.set_nonblocking(true).expect("an option");
        self.add(stream, Role::Client(Instant::now()), epoll::EventFlags::IN)
    }

    fn send(&mut self, slot: usize) {
        let Some(slot) = &mut self.slots[slot] else { return };
        slot.role = Role::Client(Instant::now());
        let sent = (&slot.stream).write(&MESSAGE).expect("a relay takes a message");
        assert_eq!(sent, MESSAGE.len());
    }

    /// Begins a client that connects, sends, hears it back, and leaves.
    fn begin_visit(&mut self, source: u8) {
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP)).expect("a socket");
        let source: SocketAddr = (Ipv4Addr::new(127, 0, 0, source), 0).into();
        socket.bind(&source.into()).expect("a port");
        // In progress is what it says.
        let _ = socket.connect(&SockAddr::from(self.relay));
        self.add(socket.into(), Role::Connecting(Instant::now()), epoll::EventFlags::OUT);
    }

    /// Serves what is ready once. `again` says what a client does after its answer.
    fn turn(&mut self, limit: Duration, again: &mut impl FnMut(&mut Self, usize)) {
        let mut events = Vec::with_capacity(256);
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        let ready = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit));
        if ready.is_err() {
            return;
        }
        for event in events {
            match event.data.u64() {
                BACKEND => self.accept(),
                slot => self.serve(slot as usize, again),
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.backend.accept() {
            stream.set_nonblocking(true).expect("an option");
            self.add(stream, Role::Echo, epoll::EventFlags::IN);
        }
    }

    fn serve(&mut self, slot: usize, again: &mut impl FnMut(&mut Self, usize)) {
        let Some(entry) = &mut self.slots[slot] else { return };
        if let Role::Connecting(begun) = entry.role {
            entry.role = Role::Client(begun);
            let data = epoll::EventData::new_u64(slot as u64);
            epoll::modify(&self.epoll, entry.stream.as_fd(), data, epoll::EventFlags::IN).expect("an entry");
            (&entry.stream).write_all(&MESSAGE).expect("a relay takes a message");
            return;
        }
        match ((&entry.stream).read(&mut self.buffer), &entry.role) {
            (Ok(0), Role::Echo) => self.remove(slot),
            (Ok(count), Role::Echo) => {
                (&entry.stream).write_all(&self.buffer[..count]).expect("an echo");
                if self.once {
                    self.remove(slot);
                }
            }
            (Ok(64), Role::Client(_)) if self.once => {}
            (Ok(64 | 0), Role::Client(begun)) => {
                self.took.push(begun.elapsed());
                self.answered += 1;
                again(self, slot);
            }
            (Ok(count), Role::Client(_)) => panic!("{count} bytes came back"),
            (Err(error), Role::Echo) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                self.remove(slot)
            }
            (Err(error), _) => panic!("the relay broke: {error}"),
            (Ok(_), Role::Connecting(_)) => unreachable!("served above"),
        }
    }

    /// Connects `count` clients, each of which has been answered once.
    fn settle(&mut self, count: usize) -> Vec<usize> {
        let mut clients = Vec::new();
        while clients.len() < count {
            for _ in 0..(count - clients.len()).min(100) {
                let slot = self.client();
                self.send(slot);
                clients.push(slot);
            }
            let give_up = Instant::now() + Duration::from_secs(20);
            while (self.answered as usize) < clients.len() {
                assert!(Instant::now() < give_up, "{} of {} were answered", self.answered, clients.len());
                self.turn(Duration::from_millis(100), &mut |_, _| {});
            }
        }
        self.answered = 0;
        self.took.clear();
        clients
    }

    fn measure(mut self, load: &Load, mut again: impl FnMut(&mut Self, usize)) -> Sample {
        let (cpu, begun) = (Cpu::of(load.relay_pid), Instant::now());
        while begun.elapsed() < duration(load) {
            self.turn(Duration::from_millis(50), &mut again);
        }
        let elapsed = begun.elapsed();
        Sample::new(self.answered as f64, elapsed, cpu.spent()).with(Percentiles::of(self.took))
    }

    fn ping_pong(mut self, load: &Load, idle: usize) -> Sample {
        self.settle(idle);
        let clients = self.settle(load.connections);
        for slot in clients {
            self.send(slot);
        }
        self.measure(load, |this, slot| this.send(slot))
    }

    fn connects(mut self, load: &Load) -> Sample {
        self.once = true;
        for i in 0..load.connections {
            self.begin_visit(2 + (i % 200) as u8);
        }
        let mut next = 0_u8;
        self.measure(load, move |this, slot| {
            this.remove(slot);
            next = (next + 1) % 200;
            this.begin_visit(2 + next);
        })
    }

    /// Memory and descriptors of pairs that have spoken once and are silent.
    fn idle(mut self, load: &Load) -> Sample {
        let before = Cpu::resident(load.relay_pid);
        self.settle(load.connections);
        let grown = Cpu::resident(load.relay_pid).saturating_sub(before);
        Sample::new(grown as f64 / load.connections as f64, Duration::from_secs(1), 0.0)
    }
}
