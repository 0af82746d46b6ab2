//! Every key there is, a line each: reading, `--show`, the schema, the
//! reference file and what a reload does with it all follow from that line.

use std::marker::PhantomData;

use toml::de::DeValue;

use super::kinds::{
    AddressText, InterfaceName, Kind, Limit, Names, Networks, Number, OneOf, Problem, Size, SocketPath,
    SomeNetworks, Source, Switch, Text, Time, Word,
};
use super::layers::{FilePath, SystemOrFile, ViaText};
use super::messages::{Auto, FramingText, Off};
use super::peer::{Beats, Data};
use super::tags::Written;
use super::wires::{Args, Expected, Filters, MaybeMember, Member, Settings};
use super::{ClientConfig, Config, DiscoveryConfig, ListenConfig, LogFormat, RelayConfig, ScriptConfig};
use crate::address::Address;
use crate::framing::BadFrame;
use crate::net::{DialOptions, Keepalive, ListenOptions, Overflow, ProxyVersion, TlsOptions};
use crate::relay::{JoinOn, NameFrame, Naming, RelayMode, Reply, Strategy, Tag, Unknown};
use crate::script::OnError;
use crate::wiring::{StepOptions, TimerOptions, WireOptions};

/// When a changed key takes effect at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// At once, for every connection.
    Live,
    /// For connections that are made later.
    NewConnections,
    /// The listener is bound anew; its connections stay.
    Rebind,
    /// Not before the next start; a reload says so.
    Restart,
}

/// A key of a table whose values are a `T`.
pub(crate) struct Key<T> {
    /// How it is written.
    pub(crate) name: &'static str,
    /// Whether there is no default.
    pub(crate) is_required: bool,
    /// When a change takes effect.
    pub(crate) reload: Reload,
    /// What it does, in a few words.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "printed by the program alone"))]
    pub(crate) about: &'static str,
    read: Box<Read<T>>,
    write: Box<dyn Fn(&T) -> String>,
    keep: Box<Keep<T>>,
    expected: fn() -> String,
    schema: fn() -> String,
}

type Keep<T> = dyn Fn(&T, &mut T);
type Read<T> = dyn Fn(&mut T, &DeValue<'_>) -> Result<(), Vec<Problem>>;

impl<T> Key<T> {
    /// Sets it to what a file says.
    pub(super) fn read(&self, object: &mut T, value: &DeValue<'_>) -> Result<(), Vec<Problem>> {
        (self.read)(object, value)
    }

    /// Its value as TOML.
    pub(crate) fn write(&self, object: &T) -> String {
        (self.write)(object)
    }

    /// Gives it the value it had in `old`.
    pub(crate) fn keep(&self, old: &T, new: &mut T) {
        (self.keep)(old, new);
    }

    /// What it is expected to be, in words.
    pub(crate) fn expected(&self) -> String {
        (self.expected)()
    }

    /// Its JSON Schema.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "printed by the program alone"))]
    pub(crate) fn schema(&self) -> String {
        (self.schema)()
    }
}

/// A key of kind `K` in the field that `field` yields.
fn key<T: Clone + 'static, K: Kind<Value: Clone> + 'static>(
    _: PhantomData<K>,
    name: &'static str,
    field: fn(&mut T) -> &mut K::Value,
    reload: Reload,
    about: &'static str,
) -> Key<T> {
    let read = move |object: &mut T, value: &DeValue<'_>| {
        *field(object) = K::read(value)?;
        Ok(())
    };
    let write = move |object: &T| K::write(field(&mut object.clone()));
    let keep = move |old: &T, new: &mut T| field(new).clone_from(field(&mut old.clone()));
    Key {
        name,
        is_required: false,
        reload,
        about,
        read: Box::new(read),
        write: Box::new(write),
        keep: Box::new(keep),
        expected: K::expected,
        schema: K::schema,
    }
}

fn required<T>(key: Key<T>) -> Key<T> {
    Key { is_required: true, ..key }
}

/// The kind of a key, as a value.
const fn a<K>() -> PhantomData<K> {
    PhantomData
}

use Reload::{Live, NewConnections, Rebind, Restart};

/// The keys of `[node]`.
#[rustfmt::skip]
pub(crate) fn node() -> Vec<Key<Config>> {
    vec![
        key(a::<Auto<Number<usize>>>(), "max_connections", |c: &mut Config| &mut c.node.max_connections, Live, "clients of all listeners at once; auto: what the descriptor limit allows"),
        key(a::<Time>(), "shutdown_grace", |c| &mut c.node.shutdown_grace, Live, "time for connections to end once the node is told to stop"),
        key(a::<Size>(), "budget", |c| &mut c.node.budget, Restart, "memory for bytes that wait for a destination"),
        key(a::<Size>(), "max_read", |c| &mut c.node.max_read, Restart, "the largest read: more for bulk, less for a neighbour's sake"),
        key(a::<Number<usize>>(), "threads", |c| &mut c.program.threads, Restart, "threads that move bytes"),
        key(a::<SocketPath>(), "control", |c| &mut c.program.control, Restart, "a Unix socket by which others can ask and steer the node, or off"),
        key(a::<Switch>(), "hexdump", |c| &mut c.program.hexdump, Restart, "show every byte on stderr"),
        key(a::<Text>(), "log", |c| &mut c.program.log, Restart, "what is logged, as a filter"),
        key(a::<OneOf<LogFormat>>(), "log_format", |c| &mut c.program.log_format, Restart, "how stderr is written"),
    ]
}

/// The keys of `[listen.ID]`.
#[rustfmt::skip]
pub(crate) fn listen() -> Vec<Key<ListenConfig>> {
    vec![
        required(key(a::<AddressText>(), "bind", |l: &mut ListenConfig| &mut l.bind, Rebind, "where to listen")),
        key(a::<Networks<true>>(), "allow", |l| l.options.access.allow_mut(), NewConnections, "who may connect"),
        key(a::<Networks<false>>(), "deny", |l| l.options.access.deny_mut(), NewConnections, "who may not; wins over allow"),
        key(a::<Auto<Number<usize>>>(), "max_connections", |l| &mut l.options.max_connections, Live, "clients of this listener at once; auto: as many as the node's"),
        key(a::<Auto<Number<usize>>>(), "max_connections_per_address", |l| &mut l.options.max_connections_per_address, NewConnections, "clients of one address, or of one /64 of IPv6, at once; more are reset; auto: no limit"),
        key(a::<Auto<Number<u32>>>(), "accept_rate", |l| &mut l.options.accept_rate, NewConnections, "clients accepted in a second, on average; more wait in the backlog; auto: no limit"),
        key(a::<Auto<Number<u32>>>(), "backlog", |l| &mut l.options.backlog, Live, "clients the kernel may hold that were not accepted yet; auto: net.core.somaxconn"),
        key(a::<Time>(), "keepalive_idle", |l| &mut l.options.keepalive.idle, NewConnections, "silence before a client is probed"),
        key(a::<Time>(), "keepalive_interval", |l| &mut l.options.keepalive.interval, NewConnections, "time between probes"),
        key(a::<Number<u32>>(), "keepalive_probes", |l| &mut l.options.keepalive.probes, NewConnections, "unanswered probes that end the connection"),
        key(a::<Auto<InterfaceName>>(), "interface", |l| &mut l.options.kernel.interface, NewConnections, "the only network interface by which bytes come and go"),
        key(a::<Auto<Number<u8>>>(), "tos", |l| &mut l.options.kernel.tos, NewConnections, "the type-of-service byte, or traffic class; 0xB8 is expedited forwarding"),
        key(a::<Auto<Size>>(), "kernel_receive_buffer", |l| &mut l.options.kernel.kernel_receive_buffer, NewConnections, "SO_RCVBUF; auto: the kernel adapts it"),
        key(a::<Auto<Size>>(), "kernel_send_buffer", |l| &mut l.options.kernel.kernel_send_buffer, NewConnections, "SO_SNDBUF; auto: the kernel adapts it"),
        key(a::<Auto<FramingText>>(), "framing", |l| &mut l.options.messages.framing, NewConnections, "how messages are told apart; auto: not at all"),
        key(a::<Auto<Size>>(), "max_frame", |l| &mut l.options.messages.max_frame, NewConnections, "the most a message may have; auto: 1MiB"),
        key(a::<OneOf<BadFrame>>(), "bad_frame", |l| &mut l.options.messages.bad_frame, NewConnections, "what becomes of one that is longer, or not what the framing asks for: close: its sender is reset; skip: it is left out and counted, with lines and delimited"),
        key(a::<Auto<Size>>(), "queue_max", |l| &mut l.options.messages.queue.max, NewConnections, "what may wait for a connection; auto: 1MiB"),
        key(a::<Auto<OneOf<Overflow>>>(), "queue_overflow", |l| &mut l.options.messages.queue.overflow, NewConnections, "what happens when more would; auto: disconnect"),
        key(a::<Off<Data>>(), "hello", |l| &mut l.options.peer.hello, NewConnections, "what each client is sent first, after each connect: one message; without framing, these bytes"),
        key(a::<Off<Beats>>(), "heartbeat", |l| &mut l.options.peer.heartbeat, NewConnections, "a probe to each client, and how soon it must be answered: send, every, within, expect; needs framing"),
        key(a::<Limit>(), "read_timeout", |l| &mut l.options.peer.read_timeout, NewConnections, "ends a connection from which nothing has come for so long"),
        key(a::<Limit>(), "write_timeout", |l| &mut l.options.peer.write_timeout, NewConnections, "ends a connection for which bytes wait, and that has taken none for so long"),
        key(a::<Limit>(), "first_frame_timeout", |l| &mut l.options.peer.first_frame_timeout, NewConnections, "ends a connection that has not sent a whole message so long after its beginning; without framing, a byte"),
        key(a::<Switch>(), "allow_half_open", |l| &mut l.options.messages.allow_half_open, NewConnections, "where it is wired, whether a connection whose peer has finished stays until a slot ends it, for an hour at most"),
        key(a::<Off<Text>>(), "tls", |l| &mut l.tls, NewConnections, "the [tls.ID] it speaks; off: none"),
        key(a::<Switch>(), "accept_proxy", |l| &mut l.options.accept_proxy, NewConnections, "each client is announced by a PROXY header, version 1 or 2"),
        key(a::<Networks<false>>(), "trusted", |l| &mut l.options.trusted, NewConnections, "the networks of the proxies whose headers are believed"),
    ]
}

/// The keys of `[client.ID]`.
#[rustfmt::skip]
pub(crate) fn client() -> Vec<Key<ClientConfig>> {
    vec![
        required(key(a::<AddressText>(), "to", |c: &mut ClientConfig| &mut c.to, NewConnections, "what is dialled: for each client of a pair anew; in publish and collect, and where it is wired, once, and kept connected")),
        key(a::<Time>(), "connect_timeout", |c| &mut c.options.connect_timeout, NewConnections, "time to reach it, all its addresses together"),
        key(a::<Source>(), "source", |c| &mut c.options.source, NewConnections, "the local address to connect from; auto: the kernel's choice"),
        key(a::<Time>(), "keepalive_idle", |c| &mut c.options.keepalive.idle, NewConnections, "silence before the target is probed"),
        key(a::<Time>(), "keepalive_interval", |c| &mut c.options.keepalive.interval, NewConnections, "time between probes"),
        key(a::<Number<u32>>(), "keepalive_probes", |c| &mut c.options.keepalive.probes, NewConnections, "unanswered probes that end the connection"),
        key(a::<Auto<InterfaceName>>(), "interface", |c| &mut c.options.kernel.interface, NewConnections, "the only network interface by which bytes come and go"),
        key(a::<Auto<Number<u8>>>(), "tos", |c| &mut c.options.kernel.tos, NewConnections, "the type-of-service byte, or traffic class; 0xB8 is expedited forwarding"),
        key(a::<Auto<Size>>(), "kernel_receive_buffer", |c| &mut c.options.kernel.kernel_receive_buffer, NewConnections, "SO_RCVBUF; auto: the kernel adapts it"),
        key(a::<Auto<Size>>(), "kernel_send_buffer", |c| &mut c.options.kernel.kernel_send_buffer, NewConnections, "SO_SNDBUF; auto: the kernel adapts it"),
        key(a::<Auto<FramingText>>(), "framing", |c| &mut c.options.messages.framing, NewConnections, "how messages are told apart; auto: as the relay's listener"),
        key(a::<Auto<Size>>(), "max_frame", |c| &mut c.options.messages.max_frame, NewConnections, "the most a message may have; auto: 1MiB"),
        key(a::<OneOf<BadFrame>>(), "bad_frame", |c| &mut c.options.messages.bad_frame, NewConnections, "what becomes of one that is longer, or not what the framing asks for: close: the connection is reset; skip: it is left out and counted, with lines and delimited"),
        key(a::<Off<Text>>(), "tls", |c| &mut c.tls, NewConnections, "the [tls.ID] that is spoken with it; off: none"),
        key(a::<Off<OneOf<ProxyVersion>>>(), "send_proxy", |c| &mut c.options.send_proxy, NewConnections, "tells the target by a PROXY header which client it is for"),
        key(a::<Off<ViaText>>(), "proxy", |c| &mut c.proxy, NewConnections, "the SOCKS5 or HTTP proxy that makes the connection; its password is shown as ***"),
        key(a::<Auto<Size>>(), "queue_max", |c| &mut c.options.messages.queue.max, NewConnections, "what may wait for it; auto: 1MiB, and 16MiB in mode collect and where it is wired"),
        key(a::<Auto<OneOf<Overflow>>>(), "queue_overflow", |c| &mut c.options.messages.queue.overflow, NewConnections, "what happens when more would; auto: disconnect, and block in mode collect and where it is wired"),
        key(a::<Off<Data>>(), "hello", |c| &mut c.options.peer.hello, NewConnections, "what the target is sent first, after each connect: one message; without framing, these bytes"),
        key(a::<Off<Beats>>(), "heartbeat", |c| &mut c.options.peer.heartbeat, NewConnections, "a probe to the target, and how soon it must be answered: send, every, within, expect; needs framing"),
        key(a::<Limit>(), "read_timeout", |c| &mut c.options.peer.read_timeout, NewConnections, "ends a connection from which nothing has come for so long"),
        key(a::<Limit>(), "write_timeout", |c| &mut c.options.peer.write_timeout, NewConnections, "ends a connection for which bytes wait, and that has taken none for so long"),
        key(a::<Limit>(), "first_frame_timeout", |c| &mut c.options.peer.first_frame_timeout, NewConnections, "ends a connection that has not sent a whole message so long after its beginning; without framing, a byte"),
        key(a::<Switch>(), "allow_half_open", |c| &mut c.options.messages.allow_half_open, NewConnections, "where it is wired, whether a connection whose peer has finished stays until a slot ends it, for an hour at most"),
    ]
}

/// The keys of `[relay.ID]`.
#[rustfmt::skip]
pub(crate) fn relay() -> Vec<Key<RelayConfig>> {
    vec![
        required(key(a::<Names>(), "from", |r: &mut RelayConfig| &mut r.from, NewConnections, "the listeners whose clients it takes; in mode publish, who is heard; in mode bridge, a listener, or a client that is dialled first")),
        key(a::<Names>(), "to", |r| &mut r.to, NewConnections, "the clients it leads to: the first is dialled, the next when that fails; in mode publish, who hears; in mode bridge, what from is"),
        key(a::<OneOf<RelayMode>>(), "mode", |r| &mut r.mode, NewConnections, "pair: a connection of its own for each client; echo: all comes back, and there is no to; hub: each client hears what the others send; publish: those in to hear those in from; collect: all go to one target that is kept connected; bridge: two listeners whose clients meet, or two targets that are both dialled"),
        key(a::<Filters>(), "via", |r| &mut r.via, Live, "filters that messages go through on their way from `from`, in order, before the relay does anything else with them; not in modes pair, echo and bridge"),
        key(a::<Filters>(), "via_back", |r| &mut r.via_back, Live, "the same for those that come back, in mode collect"),
        key(a::<OneOf<Strategy>>(), "strategy", |r| &mut r.options.targets.strategy, NewConnections, "which of several targets a client of a pair gets, or the one connection of mode collect: failover: the first that is up; round_robin: each in turn; least_connections: the one with the fewest"),
        key(a::<Time>(), "hold", |r| &mut r.options.targets.hold, NewConnections, "a target that has failed is not used for so long; if they are checked, it must be reachable for so long before it is used again"),
        key(a::<Limit>(), "check", |r| &mut r.options.targets.check, NewConnections, "each target is tried so often, by a connection that is closed at once"),
        key(a::<OneOf<Reply>>(), "reply", |r| &mut r.options.reply, NewConnections, "in mode collect, who gets what the target says: broadcast: every client; tagged: the one whose name stands before it, as in tag; request: the client that had asked, and they take turns"),
        key(a::<Time>(), "request_timeout", |r| &mut r.options.request.timeout, Live, "with reply request, how long a request waits for its answer, and for a target that is not connected"),
        key(a::<Number<usize>>(), "overlap", |r| &mut r.options.request.overlap, Live, "requests on the link at once, up to 256; more than 1 need framing mbap"),
        key(a::<Limit>(), "pause", |r| &mut r.options.request.pause, Live, "the least time from an answer, and from a request, to the next request"),
        key(a::<Limit>(), "delay_after_connect", |r| &mut r.options.request.delay_after_connect, Live, "how long the target is left alone once it is connected"),
        key(a::<Off<Written<Tag>>>(), "tag", |r| &mut r.options.tags.tag, NewConnections, "in mode collect, what stands before each message on its way to the target; {name} is the client's name"),
        key(a::<Written<Naming>>(), "name", |r| &mut r.options.tags.name, NewConnections, "where that name is taken from: address, or a pattern that finds it in the client's first message"),
        key(a::<OneOf<NameFrame>>(), "name_frame", |r| &mut r.options.tags.name_frame, NewConnections, "what becomes of the message it was found in: pass: it goes to the target like any other; consume: it goes no further"),
        key(a::<Written<Unknown>>(), "unknown", |r| &mut r.options.tags.unknown, NewConnections, "what happens to a tagged answer for a client that is not there, beside being counted: drop: nothing; close: the connection to the target is reset; reply:TEXT: the target is sent that text, in which {name} is the name"),
        key(a::<Switch>(), "resend", |r| &mut r.options.resend, NewConnections, "in mode collect, whether what was unconfirmed when a connection to the target ended is sent again: kept in its queue until then, and perhaps got twice"),
        key(a::<Number<usize>>(), "max_waiting", |r| &mut r.options.bridge.max_waiting, NewConnections, "in mode bridge, clients of one listener that may wait for the other's"),
        key(a::<Limit>(), "wait_timeout", |r| &mut r.options.bridge.wait_timeout, NewConnections, "in mode bridge, ends a connection that has waited for so long"),
        key(a::<OneOf<JoinOn>>(), "join_on", |r| &mut r.options.bridge.join_on, NewConnections, "in mode bridge, when the second target is dialled: data: the first has something to say; connection: it is connected"),
        key(a::<Limit>(), "idle_timeout", |r| &mut r.options.idle_timeout, Live, "ends a pair, or a member of another mode, in which nothing moves for so long"),
        key(a::<Time>(), "half_closed_timeout", |r| &mut r.options.half_closed_timeout, Live, "the same once one side has finished"),
    ]
}

/// The keys of `[tls.ID]`.
#[rustfmt::skip]
pub(crate) fn tls() -> Vec<Key<TlsOptions>> {
    vec![
        key(a::<Off<FilePath>>(), "cert", |t: &mut TlsOptions| &mut t.cert, NewConnections, "our certificate, a PEM file, seen from the folder of this one; a listener needs one"),
        key(a::<Off<FilePath>>(), "key", |t| &mut t.key, NewConnections, "its private key, a PEM file, seen from the folder of this one"),
        key(a::<SystemOrFile>(), "ca", |t| &mut t.ca, NewConnections, "to connect: the authorities whose servers are believed, a PEM file, seen from the folder of this one; system: those of this machine"),
        key(a::<Off<FilePath>>(), "client_ca", |t| &mut t.client_ca, NewConnections, "to listen: clients must show a certificate signed by one of these, a PEM file, seen from the folder of this one; off: they need none"),
        key(a::<Auto<Text>>(), "server_name", |t| &mut t.server_name, NewConnections, "to connect: the name the server's certificate must be for; auto: the host that is dialled"),
    ]
}

/// The keys of `[discovery.ID]`.
#[rustfmt::skip]
pub(crate) fn discovery() -> Vec<Key<DiscoveryConfig>> {
    vec![
        required(key(a::<AddressText>(), "bind", |d: &mut DiscoveryConfig| &mut d.bind, Rebind, "the UDP port on which it is asked; on all interfaces, since a broadcast reaches no single address")),
        required(key(a::<Text>(), "for", |d| &mut d.listener, Live, "the listener whose TCP port it tells, for as long as that accepts")),
        required(key(a::<SomeNetworks>(), "networks", |d| d.options.networks.allow_mut(), Live, "who is answered; nobody else gets a word")),
        key(a::<Number<u32>>(), "answer_rate", |d| &mut d.options.answer_rate, Live, "answers in a second, to all together"),
        key(a::<Number<u32>>(), "answer_rate_per_address", |d| &mut d.options.answer_rate_per_address, Live, "answers in a second to one address, or to one /64 of IPv6"),
    ]
}

/// The keys of `[timer.ID]`.
#[rustfmt::skip]
pub(crate) fn timer() -> Vec<Key<TimerOptions>> {
    vec![
        key(a::<Limit>(), "every", |t: &mut TimerOptions| &mut t.every, Live, "fires again and again, so long after the last time"),
        key(a::<Limit>(), "after", |t| &mut t.after, Live, "fires once, so long after its start"),
    ]
}

/// The keys of `[script.ID]`.
#[rustfmt::skip]
pub(crate) fn script() -> Vec<Key<ScriptConfig>> {
    vec![
        key(a::<Text>(), "code", |s: &mut ScriptConfig| &mut s.code, Live, "the script itself, in Luau; or write file"),
        key(a::<Text>(), "file", |s| &mut s.file, Live, "the file it stands in, seen from the folder of this one"),
        key(a::<Text>(), "target", |s| &mut s.target, Live, "the object whose signals its functions on_… handle"),
        key(a::<Size>(), "max_memory", |s| &mut s.options.max_memory, Live, "what its values may take"),
        key(a::<Time>(), "max_time", |s| &mut s.options.max_time, Live, "how long a function may run until it returns or waits"),
        key(a::<OneOf<OnError>>(), "on_error", |s| &mut s.options.on_error, Live, "drop: what the function was called with is dropped; close: its connection is closed, too"),
        key(a::<Text>(), "passwords", |s| &mut s.passwords, Live, "the file auth.verify looks in, seen from the folder of this one; node passwd writes it"),
        key(a::<Settings>(), "settings", |s| &mut s.options.settings, Live, "what the script finds in its table `settings`"),
    ]
}

/// The keys of `[[connect]]`.
#[rustfmt::skip]
pub(crate) fn connect() -> Vec<Key<WireOptions>> {
    vec![
        required(key(a::<Member>(), "signal", |w: &mut WireOptions| &mut w.signal, Live, "where it begins, as OBJECT.SIGNAL")),
        required(key(a::<Member>(), "slot", |w| &mut w.slot, Live, "what is called, as OBJECT.SLOT")),
        key(a::<Filters>(), "via", |w| &mut w.via, Live, "filters that the data goes through, in order"),
        key(a::<Args>(), "args", |w| &mut w.args, Live, "what the slot is called with; {…} stands for what the signal carries"),
        key(a::<Auto<Size>>(), "queue_max", |w| &mut w.queue_max, Live, "what may wait in a queue of its own; auto: 1MiB if queue_overflow is set, else it has none, and its source waits for the slot"),
        key(a::<Auto<OneOf<Overflow>>>(), "queue_overflow", |w| &mut w.queue_overflow, Live, "what happens when more would: block, drop_oldest or drop_newest; auto: block"),
        key(a::<Switch>(), "once", |w| &mut w.once, Live, "the first signal is the last that it takes"),
    ]
}

/// The keys of `[[step]]`.
#[rustfmt::skip]
pub(crate) fn step() -> Vec<Key<StepOptions>> {
    vec![
        key(a::<MaybeMember>(), "call", |s: &mut StepOptions| &mut s.call, Restart, "calls a slot, as OBJECT.SLOT"),
        key(a::<MaybeMember>(), "wait", |s| &mut s.wait, Restart, "waits for a signal, as OBJECT.SIGNAL; each is waited for once"),
        key(a::<Args>(), "args", |s| &mut s.args, Restart, "what the slot is called with; {data} is that of the last signal"),
        key(a::<Time>(), "within", |s| &mut s.within, Restart, "time for the signal to come, or the slot to be done"),
        key(a::<Expected>(), "expect", |s| &mut s.expect, Restart, "what the signal is to carry: a text, or exact, prefix, regex or hex"),
    ]
}

impl Reload {
    /// How the manual says it.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "printed by the program alone"))]
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NewConnections => "new connections",
            Self::Rebind => "rebind",
            Self::Restart => "restart",
        }
    }
}

impl Word for RelayMode {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for OnError {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for Strategy {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for JoinOn {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for LogFormat {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl ListenConfig {
    /// A listener at `bind` with the default of every option.
    pub fn new(bind: Address) -> Self {
        Self { bind, options: ListenOptions::default(), tls: None }
    }
}

impl ClientConfig {
    /// A client of `to` with the default of every option.
    pub fn new(to: Address) -> Self {
        Self { to, options: DialOptions::default(), tls: None, proxy: None }
    }
}

/// What [`Keepalive`] the kernel can be asked for.
pub(super) fn keepalive_faults(keepalive: &Keepalive) -> Vec<(&'static str, &'static str)> {
    let mut faults = Vec::new();
    let times = [("keepalive_idle", keepalive.idle), ("keepalive_interval", keepalive.interval)];
    for (key, time) in times {
        if !(1..=32_767).contains(&time.as_secs()) || time.subsec_nanos() > 0 {
            faults.push((key, "the kernel counts in whole seconds up to 32767; write one such as \"10s\""));
        }
    }
    if !(1..=127).contains(&keepalive.probes) {
        faults.push(("keepalive_probes", "the kernel counts from 1 to 127; write a number of these"));
    }
    faults
}
