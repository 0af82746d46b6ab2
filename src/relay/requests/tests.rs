//! The rules of [`Requests`], with a clock that stands still.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A Modbus request or answer of one register.
fn adu(transaction: u16, unit: u8) -> Bytes {
    let [high, low] = transaction.to_be_bytes();
    Bytes::copy_from_slice(&[high, low, 0, 0, 0, 6, unit, 3, 0, 1, 0, 1])
}

fn up(options: RequestOptions, has_ids: bool) -> Requests {
    let mut requests = Requests::new(options, Instant::now());
    requests.use_ids(has_ids);
    requests.connected(Instant::now());
    requests
}

fn next(requests: &mut Requests) -> Option<Bytes> {
    requests.next(Instant::now(), |_| false)
}

fn clients<const N: usize>() -> [ConnectionId; N] {
    std::array::from_fn(|_| ConnectionId::next())
}

fn ask(requests: &mut Requests, client: ConnectionId, frame: &Bytes) {
    assert_eq!(requests.asked(client, frame.clone(), Instant::now()), None);
}

fn answer(requests: &mut Requests, frame: &Bytes) -> Answer {
    requests.answered(frame, Instant::now())
}

fn failed(client: ConnectionId, fault: RequestFault, reply: Option<&[u8]>) -> Failed {
    let reply = reply.map(Bytes::copy_from_slice);
    Failed { client: Some(client), fault, reply, confuses: false }
}

#[tokio::test(start_paused = true)]
async fn each_client_has_its_turn_and_its_answer_with_its_own_id() {
    let mut requests = up(RequestOptions { overlap: 3, ..Default::default() }, true);
    let [a, b, c] = clients();
    for (client, unit) in [(a, 1), (a, 1), (a, 1), (b, 2), (c, 3)] {
        ask(&mut requests, client, &adu(7, unit));
    }
    let sent: Vec<_> = std::iter::from_fn(|| next(&mut requests)).collect();
    assert_eq!(
        sent.iter().map(|frame| frame[6]).collect::<Vec<_>>(),
        [1, 2, 3],
        "in turn, and three at most"
    );
    assert_eq!(sent.iter().map(|frame| id_of(frame)).collect::<HashSet<_>>().len(), 3);
    for (nth, client) in [(2, c), (0, a), (1, b)] {
        assert_eq!(answer(&mut requests, &sent[nth]), Answer::For(client, adu(7, sent[nth][6])));
    }
    assert_eq!(answer(&mut requests, &sent[0]), Answer::Unasked);
    // One whose answers nobody fetches has no turn.
    assert_eq!(requests.next(Instant::now(), |client| client == a), None);
    let rest: Vec<_> = std::iter::from_fn(|| next(&mut requests)).collect();
    assert_eq!((rest.len(), requests.owed(a), requests.open()), (2, 2, 2));
    assert_eq!(requests.waiting(), Held::default());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_is_known_by_its_id_and_reaches_nobody() {
    let mut requests = up(RequestOptions::default(), true);
    let [a, b] = clients();
    ask(&mut requests, a, &adu(7, 1));
    ask(&mut requests, b, &adu(7, 2));
    let late = next(&mut requests).unwrap();
    assert_eq!(next(&mut requests), None, "one at a time");
    tokio::time::sleep_until(requests.deadline(Instant::now()).unwrap()).await;
    let expired = requests.expire(Instant::now(), 0);
    let told = failed(a, RequestFault::TimedOut, Some(&[0, 7, 0, 0, 0, 3, 1, 0x83, 0x0B]));
    assert_eq!(expired, Expired { failed: vec![told], closes: false });
    let on_time = next(&mut requests).unwrap();
    assert_eq!(answer(&mut requests, &late), Answer::Late);
    assert_eq!(answer(&mut requests, &on_time), Answer::For(b, adu(7, 2)));
    assert_eq!((requests.owed(a), requests.owed(b), requests.open()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_ids_a_timeout_closes_the_link_and_ends_a_client_that_has_asked_more() {
    let mut requests = up(RequestOptions::default(), false);
    let [a, b] = clients();
    let line = Bytes::from_static(b"READ?\n");
    for client in [a, a, b] {
        ask(&mut requests, client, &line);
    }
    assert_eq!(next(&mut requests), Some(line.clone()));
    tokio::time::sleep(SECOND).await;
    let confused = Failed { confuses: true, ..failed(a, RequestFault::TimedOut, None) };
    assert_eq!(requests.expire(Instant::now(), 0), Expired { failed: vec![confused], closes: true });
    assert_eq!(
        (next(&mut requests), requests.deadline(Instant::now())),
        (None, None),
        "nothing more is sent"
    );
    assert_eq!(requests.left(a), Held { requests: 1, bytes: 6 });
    assert_eq!(requests.disconnected(0, Instant::now()), (vec![], 0));
    requests.connected(Instant::now());
    assert_eq!(next(&mut requests), Some(line.clone()));
    requests.left(b);
    assert_eq!(answer(&mut requests, &line), Answer::Left);
    assert_eq!(answer(&mut requests, &line), Answer::Unasked);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_when_the_link_ends_fails_and_what_was_not_waits_again_for_so_long() {
    let mut requests = up(RequestOptions { overlap: 2, ..Default::default() }, true);
    let [a, b] = clients();
    ask(&mut requests, a, &adu(1, 1));
    ask(&mut requests, b, &adu(2, 2));
    ask(&mut requests, b, &adu(3, 2));
    assert!(next(&mut requests).is_some() && next(&mut requests).is_some());
    let told = failed(a, RequestFault::LinkLost, Some(&[0, 1, 0, 0, 0, 3, 1, 0x83, 0x0B]));
    assert_eq!(requests.disconnected(1, Instant::now()), (vec![told], 1));
    assert_eq!((next(&mut requests), requests.waiting().requests), (None, 2));
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(requests.expire(Instant::now(), 0), Expired::default());
    assert_eq!(requests.deadline(Instant::now()), Some(Instant::now() + SECOND / 2));
    tokio::time::sleep(SECOND / 2).await;
    let expired = requests.expire(Instant::now(), 0).failed;
    let never_sent = |id| failed(b, RequestFault::NoLink, Some(&[0, id, 0, 0, 0, 3, 2, 0x83, 0x0A]));
    assert_eq!(expired, [never_sent(2), never_sent(3)]);
    assert_eq!((requests.open(), requests.waiting()), (0, Held::default()));
    ask(&mut requests, a, &adu(4, 1));
    assert_eq!(requests.gone().len(), 1);
    assert!(requests.asked(a, adu(5, 1), Instant::now()).is_some(), "there will be no link");
}

#[tokio::test(start_paused = true)]
async fn pauses_are_kept_and_a_silent_or_stuck_link_is_given_up() {
    let options = RequestOptions {
        pause: Some(SECOND / 10),
        delay_after_connect: Some(SECOND / 5),
        ..Default::default()
    };
    let mut requests = up(options, true);
    let [a] = clients();
    let begun = Instant::now();
    for _ in 0..6 {
        ask(&mut requests, a, &adu(1, 1));
    }
    let mut when = Vec::new();
    while let Some(due) = requests.deadline(Instant::now()).filter(|_| when.len() < 3) {
        tokio::time::sleep_until(due).await;
        if let Some(frame) = next(&mut requests) {
            when.push((Instant::now() - begun).as_millis());
            tokio::time::sleep(SECOND / 100).await;
            answer(&mut requests, &frame);
        }
    }
    assert_eq!(when, [200, 310, 420]);
    let mut closes = Vec::new();
    for _ in 0..2 {
        tokio::time::sleep(SECOND).await;
        next(&mut requests).unwrap();
        tokio::time::sleep(SECOND).await;
        closes.push(requests.expire(Instant::now(), 0).closes);
    }
    assert_eq!(closes, [false, true], "nothing has come for three timeouts");
}

#[tokio::test(start_paused = true)]
async fn ids_are_unique_on_the_link_and_do_not_come_back_while_an_answer_may() {
    let mut requests = up(RequestOptions::default(), true);
    let [a] = clients();
    let mut used = HashSet::new();
    let mut rounds = 0;
    // Every other request has no answer, and no silence is long.
    loop {
        ask(&mut requests, a, &adu(1, 1));
        ask(&mut requests, a, &adu(1, 1));
        let frame = next(&mut requests).unwrap();
        assert!(!used.contains(&id_of(&frame)), "an id whose answer may still come");
        answer(&mut requests, &frame);
        let lost = next(&mut requests).unwrap();
        assert!(used.insert(id_of(&lost)));
        tokio::time::sleep(SECOND).await;
        rounds += 1;
        if requests.expire(Instant::now(), 0).closes {
            break;
        }
    }
    assert_eq!(rounds, MOST_LATE);
}
