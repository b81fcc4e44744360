//! What lines that lose, delay and mark packets do to answers, and what a rush of new clients does to those who
//! are there. In virtual time: nothing here waits.

use std::time::Duration;

use cache_core::config::Limits;
use popcache_sim::lab::{Congestion, Lab, Line};

const MILLI: Duration = Duration::from_millis(1);

/// Emotes of which a packet has parts of two at most, all of which fit the first window.
const EMOTES: [usize; 6] = [1_300, 1_500, 1_400, 1_600, 1_350, 1_450];

/// When each emote was whole, where one packet of the answers is lost, or none. The second: it was lost.
fn emotes(lost: Option<u64>) -> (Vec<Duration>, bool) {
    let mut lab = Lab::new(&EMOTES, Limits::default(), Congestion::Cubic).expect("a shard");
    let client = lab.connect(Line::new(50 * MILLI), &[0, 1, 2, 3, 4, 5]);
    let client = client.expect("a client");
    lab.wait(1_000 * MILLI).expect("a handshake");
    if let Some(number) = lost {
        lab.lose(client, number);
    }
    lab.ask(client);
    let times = lab.answers(client).expect("answers");
    (times, lab.packets(client).lost > 0)
}

#[test]
fn a_lost_packet_delays_its_emotes_only() {
    let (on_time, _) = emotes(None);
    assert!(
        on_time.iter().all(|&time| time == 50 * MILLI),
        "{on_time:?}"
    );
    let mut late_once = [false; EMOTES.len()];
    for number in 0.. {
        let (times, lost) = emotes(Some(number));
        let is_late = |&at: &usize| times[at] != on_time[at];
        let late: Vec<usize> = (0..EMOTES.len()).filter(is_late).collect();
        // A packet has the end of one emote and the beginning of the next.
        assert!(late.len() <= 2, "packet {number} delayed {late:?}");
        late.iter().for_each(|&at| late_once[at] = true);
        if !lost {
            break;
        }
    }
    assert_eq!(late_once, [true; EMOTES.len()]);
}

/// Half a megabyte each, which is less than a window of the origin.
const SEGMENTS: [usize; 4] = [512 << 10; 4];

#[test]
fn bad_lines_bring_every_answer() {
    for loss in [100, 500] {
        for round_trip in [50, 200] {
            let mut lab =
                Lab::new(&SEGMENTS, Limits::default(), Congestion::Cubic).expect("a shard");
            let line = Line {
                rate: 2_500_000,
                queue: 256 << 10,
                loss,
                late: (10, 20 * MILLI),
                ..Line::new(round_trip * MILLI)
            };
            let client = lab.connect(line, &[0, 1, 2, 3]).expect("a client");
            lab.wait(3_000 * MILLI).expect("a handshake");
            lab.ask(client);
            let times = lab.answers(client).expect("answers");
            assert!(lab.packets(client).lost > 0, "{times:?}");
        }
    }
}

/// Packets lost and marked on a line whose queue marks what is above a part of it, or does not.
fn marks(mark_above: Option<u64>) -> (u64, u64) {
    let mut lab = Lab::new(&SEGMENTS, Limits::default(), Congestion::Cubic).expect("a shard");
    let line = Line {
        rate: 1_000_000,
        queue: 200 << 10,
        mark_above,
        ..Line::new(50 * MILLI)
    };
    let client = lab.connect(line, &[0, 1, 2, 3]).expect("a client");
    lab.wait(1_000 * MILLI).expect("a handshake");
    lab.ask(client);
    lab.answers(client).expect("answers");
    let packets = lab.packets(client);
    (packets.lost, packets.marked)
}

#[test]
fn a_marked_packet_is_a_lost_one_that_need_not_be_sent_again() {
    let (lost, marked) = marks(None);
    assert!(lost > 0 && marked == 0, "{lost} lost, {marked} marked");
    let (lost, marked) = marks(Some(32 << 10));
    assert!(lost == 0 && marked > 0, "{lost} lost, {marked} marked");
}

const RUSH: usize = 200;

#[test]
fn a_rush_of_new_clients_waits_or_is_refused_and_hits_go_on() {
    let limits = Limits {
        retry_above: 20,
        max_arrivals: 40,
        ..Limits::default()
    };
    let mut lab = Lab::new(&[1_000], limits, Congestion::Cubic).expect("a shard");
    let line = Line::new(20 * MILLI);
    let guest = lab.connect(line.clone(), &[0]).expect("a client");
    lab.wait(1_000 * MILLI).expect("a handshake");

    // Their first datagrams and the request come at the same moment, the request last.
    let rush: Vec<usize> = (0..RUSH)
        .map(|_| lab.connect(line.clone(), &[]).expect("a client"))
        .collect();
    lab.ask(guest);
    let times = lab.answers(guest).expect("an answer");
    assert_eq!(times, [20 * MILLI]);
    assert_eq!(lab.turn_of_last(guest), 0, "it waited for handshakes");

    lab.wait(5_000 * MILLI).expect("handshakes");
    let connected = rush
        .iter()
        .filter(|&&client| lab.is_connected(client))
        .count();
    let refused = rush
        .iter()
        .filter(|&&client| lab.lost(client).is_some())
        .count();
    let why = rush.iter().filter_map(|&client| lab.lost(client)).next();
    assert_eq!(connected + refused, RUSH);
    assert!(
        connected >= 40 && refused > 0,
        "{connected} connected, {refused} refused"
    );
    assert!(why.is_some_and(|why| why.contains("refused")), "{why:?}");
    assert!(
        lab.most_begun > 0 && lab.most_begun <= 4,
        "{}",
        lab.most_begun
    );
    assert!(lab.stats.retries_sent.get() > 0);
    assert_eq!(lab.stats.connections_refused.get(), refused as u64);
    assert_eq!(lab.stats.arrivals_waiting.get(), 0);

    // Once it is over nobody waits.
    let next = lab.connect(line, &[0]).expect("a client");
    lab.ask(next);
    lab.answers(next).expect("an answer");
}
