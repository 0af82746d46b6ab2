//! [`Responder`]: tells whoever asks by UDP which TCP port a listener has.
//! It answers only in some networks, only so often, and never more than was asked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::access::{AccessList, origin};
use super::discovery::{ROOM, is_request};
use super::holder::udp_holder;
use super::listener::BindError;
use crate::address::{Address, Host};

/// Who is answered, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// The networks in which it answers; without any, nobody.
    pub networks: AccessList,
    /// Answers in a second, to all together; what was not used in one second is not saved up for the next.
    pub answer_rate: u32,
    /// The same to one address, or to one /64 of IPv6.
    pub answer_rate_per_address: u32,
}

impl Default for DiscoveryOptions {
    /// 100 answers a second, and 10 to one address; the networks have to be named.
    fn default() -> Self {
        Self { networks: AccessList::default(), answer_rate: 100, answer_rate_per_address: 10 }
    }
}

/// What became of the datagrams that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiscoveryCounts {
    /// Answered.
    pub answered: u64,
    /// Came from another network.
    pub foreign: u64,
    /// Were no request.
    pub malformed: u64,
    /// Came too often.
    pub limited: u64,
    /// There was no port to name, since the listener does not accept.
    pub closed: u64,
    /// The answer could not be sent.
    pub failed: u64,
}

/// The same while it runs.
#[derive(Debug, Default)]
pub(crate) struct Tally([AtomicU64; Fate::ALL.len()]);

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Foreign,
    Malformed,
    Limited,
    Closed,
    Failed,
}

/// A bound UDP socket that answers while it [runs](Self::run).
#[derive(Debug)]
pub(crate) struct Responder {
    socket: UdpSocket,
    bound: SocketAddr,
}

impl Responder {
    /// Binds the UDP port of a TCP form of address: all interfaces, or one address.
    ///
    /// # Errors
    /// [`BindError`].
    pub(crate) fn bind(name: &str, address: &Address) -> Result<Self, BindError> {
        let Address::Tcp { host, port } = address else { unreachable!("the config was checked") };
        let bound = match (host, address.literal()) {
            (Host::Any, _) => match open((Ipv6Addr::UNSPECIFIED, *port).into()) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    open((Ipv4Addr::UNSPECIFIED, *port).into())
                }
                bound => bound,
            },
            (_, Some(literal)) => open(literal),
            (_, None) => unreachable!("the config was checked"),
        };
        bound.map_err(|source| BindError {
            address: format!("UDP {address}"),
            endpoint: name.to_owned(),
            hint: hint(&source, *port),
            source,
        })
    }

    /// What it is bound to, with its real port.
    pub(crate) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Answers until it is dropped or nobody gives `options` any more. `port` is asked which port to
    /// name to an address.
    pub(crate) async fn run(
        self,
        name: Arc<str>,
        mut options: watch::Receiver<DiscoveryOptions>,
        tally: Arc<Tally>,
        port: impl Fn(IpAddr) -> Option<u16>,
    ) {
        let mut pace = Pace::default();
        let mut unsaid = Unsaid::default();
        let mut datagram = [0; ROOM];
        let mut taken: u32 = 0;
        loop {
            let received = tokio::select! {
                biased;
                changed = options.changed() => match changed {
                    Ok(()) => continue,
                    Err(_gone) => return,
                },
                () = sleep_until(unsaid.due()), if unsaid.is_due() => {
                    unsaid.say(&name);
                    continue;
                }
                received = self.socket.recv_from(&mut datagram) => received,
            };
            let (count, from) = match received {
                Ok(received) => received,
                Err(error) => {
                    warn!(discovery = &*name, %error, "requests cannot be received");
                    sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            let request = &datagram[..count];
            let now = Instant::now();
            let judged = judge(request, from.ip(), &options.borrow(), &mut pace, now);
            let fate = match judged.and_then(|()| answer(request, port(from.ip()))) {
                // It goes out at once or not at all: who has asked asks again.
                Ok(answer) => match self.socket.try_send_to(answer.as_bytes(), from) {
                    Ok(_) => Fate::Answered,
                    Err(_error) => Fate::Failed,
                },
                Err(fate) => fate,
            };
            tally.count(fate);
            if fate != Fate::Answered {
                unsaid.count(fate, from);
            }
            taken += 1;
            if taken.is_multiple_of(BATCH) {
                // A flood is left to the kernel, which drops it for less.
                sleep(BREATH).await;
            }
        }
    }
}

/// Whether a request is to be answered, from what is known of it and of those before.
fn judge(
    request: &[u8],
    from: IpAddr,
    options: &DiscoveryOptions,
    pace: &mut Pace,
    now: Instant,
) -> Result<(), Fate> {
    if options.networks.allows().is_empty() || !options.networks.permits(from) {
        return Err(Fate::Foreign);
    }
    if !is_request(request) {
        return Err(Fate::Malformed);
    }
    if !pace.allows(origin(from), options, now) {
        return Err(Fate::Limited);
    }
    Ok(())
}

/// The answer to a request, which is never longer: whoever forges a sender gains nothing by it.
fn answer(request: &[u8], port: Option<u16>) -> Result<String, Fate> {
    let answer = port.ok_or(Fate::Closed)?.to_string();
    if answer.len() > request.len() { Err(Fate::Malformed) } else { Ok(answer) }
}

/// How often was answered of late.
#[derive(Debug, Default)]
struct Pace {
    all: Option<Bucket>,
    each: HashMap<IpAddr, Bucket>,
}

/// What may still be answered, up to a second's worth.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(before: Option<Self>, rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate);
        let left = before.map_or(rate, |Self { left, at }| {
            (left + now.saturating_duration_since(at).as_secs_f64() * rate).min(rate)
        });
        Self { left, at: now }
    }
}

impl Pace {
    /// Whether another may be answered; then it counts.
    fn allows(&mut self, address: IpAddr, options: &DiscoveryOptions, now: Instant) -> bool {
        let (rate, rate_of_each) = (options.answer_rate, options.answer_rate_per_address);
        let mut all = Bucket::fill(self.all, rate, now);
        let mut one = Bucket::fill(self.each.get(&address).copied(), rate_of_each, now);
        let allows = all.left >= 1.0 && one.left >= 1.0;
        if allows {
            all.left -= 1.0;
            one.left -= 1.0;
            self.each.insert(address, one);
            // After a second there is nothing to remember, and no more than twice the rate are younger.
            if self.each.len() > 4 * rate as usize {
                self.each.retain(|_, bucket| now.saturating_duration_since(bucket.at) < SECOND);
            }
        }
        self.all = Some(all);
        allows
    }
}

/// Refusals that were not named in the log yet.
#[derive(Debug, Default)]
struct Unsaid {
    counts: [u64; Fate::ALL.len()],
    last: Option<SocketAddr>,
    said: Option<Instant>,
}

impl Unsaid {
    fn count(&mut self, fate: Fate, from: SocketAddr) {
        self.counts[fate as usize] += 1;
        self.last = Some(from);
    }

    fn is_due(&self) -> bool {
        self.last.is_some()
    }

    fn due(&self) -> Instant {
        self.said.map_or_else(Instant::now, |said| said + SECOND)
    }

    fn say(&mut self, name: &str) {
        let of = |fate: Fate| self.counts[fate as usize];
        let last = self.last.map(|from| SocketAddr::new(from.ip().to_canonical(), from.port()));
        warn!(
            discovery = name,
            foreign = of(Fate::Foreign),
            malformed = of(Fate::Malformed),
            limited = of(Fate::Limited),
            closed = of(Fate::Closed),
            failed = of(Fate::Failed),
            last = last.map(tracing::field::display),
            "requests were not answered"
        );
        *self = Self { said: Some(Instant::now()), ..Self::default() };
    }
}

impl Fate {
    const ALL: [Self; 6] =
        [Self::Answered, Self::Foreign, Self::Malformed, Self::Limited, Self::Closed, Self::Failed];
}

impl Tally {
    fn count(&self, fate: Fate) {
        self.0[fate as usize].fetch_add(1, Relaxed);
    }

    /// The counts now.
    pub(crate) fn now(&self) -> DiscoveryCounts {
        let [answered, foreign, malformed, limited, closed, failed] =
            Fate::ALL.map(|fate| self.0[fate as usize].load(Relaxed));
        DiscoveryCounts { answered, foreign, malformed, limited, closed, failed }
    }
}

fn open(address: SocketAddr) -> io::Result<Responder> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let bound = socket.local_addr()?;
    Ok(Responder { socket, bound })
}

fn hint(error: &io::Error, port: u16) -> Option<String> {
    match error.kind() {
        io::ErrorKind::AddrInUse => Some(match udp_holder(port) {
            Some(holder) => format!("another port, or stop the process that holds it ({holder})"),
            None => "another port, or stop the process that holds it".into(),
        }),
        io::ErrorKind::AddrNotAvailable => Some("an address of this machine, or the port alone".into()),
        io::ErrorKind::PermissionDenied => Some("a port from 1024 up".into()),
        _ => None,
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// Datagrams between two breaths, in which others have their turn: at most some 25,000 a second are looked at.
const BATCH: u32 = 256;
const BREATH: Duration = Duration::from_millis(10);
/// Of receiving, as when the network is down.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::discovery::REQUEST;
    use super::*;

    fn options(networks: &[&str], answer_rate: u32, answer_rate_per_address: u32) -> DiscoveryOptions {
        let mut options = DiscoveryOptions { answer_rate, answer_rate_per_address, ..Default::default() };
        networks.iter().for_each(|network| options.networks.allow(network).unwrap());
        options
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_often_waits_and_nobody_else_does() {
        let (mut pace, options) = (Pace::default(), options(&["10.0.0.0/8"], 12, 5));
        let mut ask = |from: &str| judge(REQUEST, ip(from), &options, &mut pace, Instant::now());
        for _ in 0..5 {
            assert_eq!(ask("10.0.0.1"), Ok(()));
        }
        assert_eq!(ask("::ffff:10.0.0.1"), Err(Fate::Limited));
        assert_eq!(ask("10.0.0.2"), Ok(()));
        tokio::time::advance(Duration::from_millis(200)).await;
        assert_eq!(ask("10.0.0.1"), Ok(()));
        assert_eq!(ask("10.0.0.1"), Err(Fate::Limited));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let answered = (0..100).filter(|nth| ask(&format!("10.0.1.{nth}")).is_ok()).count();
        assert_eq!(answered, 12, "an hour of rest is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_few_are_remembered() {
        let (mut pace, options) = (Pace::default(), options(&["0.0.0.0/0"], 10, 1));
        for nth in 0..10_000u32 {
            let _ = judge(REQUEST, IpAddr::V4(nth.into()), &options, &mut pace, Instant::now());
            tokio::time::advance(Duration::from_millis(20)).await;
            assert!(pace.each.len() <= 41, "{}", pace.each.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_learn_nothing_and_cost_nobody_his_answer() {
        let (mut pace, options) = (Pace::default(), options(&["10.0.0.0/8", "fd00::/8"], 3, 3));
        let mut ask =
            |request: &[u8], from: &str| judge(request, ip(from), &options, &mut pace, Instant::now());
        for from in ["192.0.2.1", "11.0.0.1", "::1", "2001:db8::1"] {
            assert_eq!(ask(REQUEST, from), Err(Fate::Foreign), "{from}");
        }
        assert_eq!(ask(b"REQUEST", "10.0.0.1"), Err(Fate::Malformed));
        for from in ["10.0.0.1", "fd00::1", "::ffff:10.1.2.3"] {
            assert_eq!(ask(REQUEST, from), Ok(()), "{from}");
        }
        assert_eq!(answer(REQUEST, None), Err(Fate::Closed));
        let nobody = DiscoveryOptions::default();
        assert_eq!(judge(REQUEST, ip("10.0.0.1"), &nobody, &mut pace, Instant::now()), Err(Fate::Foreign));
    }

    proptest! {
        #[test]
        fn an_answer_is_never_longer_than_its_request(request in prop::collection::vec(any::<u8>(), 0..ROOM), port: u16) {
            match answer(&request, Some(port)) {
                Ok(answer) => prop_assert!(answer.len() <= request.len()),
                Err(fate) => prop_assert!(fate == Fate::Malformed && request.len() < 5),
            }
            let mut pace = Pace::default();
            let judged = judge(&request, ip("10.0.0.1"), &options(&["10.0.0.0/8"], 1, 1), &mut pace, Instant::now());
            prop_assert_eq!(judged.is_ok(), is_request(&request));
        }
    }
}
