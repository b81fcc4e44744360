//! Bodies that outgrow what a shard may hold: passed on in step with those who follow them.
//!
//! Nobody joins any more: what comes later is passed on for itself. A request that takes nothing for
//! `limits.window_patience` while others could go on is left behind, and its answer is cut off.

use super::{LaneMessage, Shard};
use crate::flight::{FlightEvent, LedPiece, Outcome, Pace, Subscriber, Ticket, Window};
use crate::io::{FetchCommand, FetchErrorKind, FetchId, Now, Outbox, ShardId};

impl Shard {
    /// From now on no more of a flight's body is held than is needed.
    pub(super) fn begin_window(&mut self, now: Now, id: FetchId, out: &mut Outbox) {
        let open = self.config.limits.fetch_window;
        let Some(flight) = self.flights.get_mut(id) else {
            return;
        };
        flight.full = true;
        flight.closed = true;
        let kept = std::mem::take(&mut flight.pieces);
        let kept = kept.iter().map(LedPiece::heap_bytes);
        flight.window = Some(Window::new(&flight.subscribers, kept, open));
        self.stats.windows.inc();
        self.uncacheable.mark(flight.target.hash, now.unix_ms);
        self.tell_all(now, id, out, || FlightEvent::Window);
    }

    /// The owner of a flight that this shard follows holds only what is needed of it.
    pub(super) fn keep_pace(
        &mut self,
        now: Now,
        (owner, ticket, fetch): (ShardId, Ticket, FetchId),
        out: &mut Outbox,
    ) {
        let Some(flight) = self.locals.get(ticket).filter(|flight| !flight.is_over()) else {
            return self.tell_taken(now, (owner, ticket, fetch), Pace::GONE, out);
        };
        self.uncacheable.mark(flight.target.hash, now.unix_ms);
        self.locals.keep_pace(ticket, owner, fetch, now.mono);
    }

    /// Tells the owners of flights how far the requests of this shard have come.
    pub(super) fn tell_progress(&mut self, now: Now, out: &mut Outbox) {
        if !self.locals.has_paces() {
            return;
        }
        let patience = self.config.limits.window_patience;
        let (news, left_behind) = self.locals.progress(now.mono, patience);
        self.stats.waiters_left_behind.add(left_behind);
        for (owner, ticket, fetch, pieces) in news {
            self.tell_taken(now, (owner, ticket, fetch), pieces, out);
        }
    }

    fn tell_taken(
        &mut self,
        now: Now,
        (owner, ticket, fetch): (ShardId, Ticket, FetchId),
        pieces: u64,
        out: &mut Outbox,
    ) {
        if owner == self.config.shard {
            return self.taken(now, fetch, (owner, ticket), pieces, out);
        }
        let message = LaneMessage::Taken {
            ticket,
            fetch,
            pieces,
        };
        out.lanes.push((owner, message));
    }

    /// A shard has taken so many pieces of a flight's body.
    pub(super) fn taken(
        &mut self,
        now: Now,
        fetch: FetchId,
        (shard, ticket): (ShardId, Ticket),
        pieces: u64,
        out: &mut Outbox,
    ) {
        let size = self.config.limits.fetch_window;
        let flight = self.flights.get_mut(fetch);
        let Some((heap, window)) =
            flight.and_then(|flight| Some((&mut flight.heap, flight.window.as_mut()?)))
        else {
            return;
        };
        let freed = window.advance(Subscriber { shard, ticket }, pieces);
        *heap -= freed;
        self.heap_bytes -= freed;
        if window.is_deserted() {
            out.fetches.push(FetchCommand::Cancel { id: fetch });
            let outcome = Outcome::Failed(FetchErrorKind::ResponseIncomplete);
            return self.end_flight(now, fetch, outcome, out);
        }
        if let Some(bytes) = window.grant(size) {
            out.fetches.push(FetchCommand::Credit { id: fetch, bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use crate::config::Limits;
    use crate::io::{AnswerEvent, FetchCommand, FetchEvent, FetchId, RequestEvent};
    use crate::shard::lone::Lone;

    const CHUNK: usize = 64 << 10;
    const HEAP: u64 = 1 << 20;
    const WINDOW: u32 = 256 << 10;
    const PATIENCE: Duration = Duration::from_secs(5);

    /// One object, its origin, which keeps to its credit, and clients that take what they get.
    struct Long {
        lone: Lone,
        fetch: FetchId,
        credit: u64,
        sent: u64,
        cancelled: bool,
        got: HashMap<u64, u64>,
        /// How answers ended: as they should, or not.
        ended: HashMap<u64, bool>,
        /// Clients that take nothing.
        stalled: Vec<u64>,
    }

    impl Long {
        /// So many clients wait for a body of no declared length.
        fn begin(clients: u64) -> Self {
            let mut lone = Lone::with_limits(Limits {
                max_heap_fill: HEAP,
                fetch_window: WINDOW,
                window_patience: PATIENCE,
                tcp_answer_window: WINDOW,
                ..Limits::default()
            });
            (1..=clients).for_each(|id| lone.get(id));
            let fetch = lone.fetch().expect("a fetch");
            let kept = HeaderValue::from_static("max-age=60");
            let head = FetchEvent::Head {
                status: StatusCode::OK,
                headers: HeaderMap::from_iter([(header::CACHE_CONTROL, kept)]),
                length: None,
            };
            lone.bring(fetch, head);
            Self {
                lone,
                fetch,
                credit: u64::from(WINDOW),
                sent: 0,
                cancelled: false,
                got: HashMap::new(),
                ended: HashMap::new(),
                stalled: Vec::new(),
            }
        }

        /// The origin sends until so many bytes are sent, or it may not.
        fn send(&mut self, until: u64) {
            while self.sent < until && self.credit >= CHUNK as u64 && !self.cancelled {
                self.credit -= CHUNK as u64;
                self.sent += CHUNK as u64;
                let body = FetchEvent::Body(Bytes::from(vec![7; CHUNK]));
                self.lone.bring(self.fetch, body);
                self.deliver();
                assert!(self.lone.shard.holdings().heap_bytes <= HEAP);
            }
        }

        fn deliver(&mut self) {
            loop {
                let answers = self.lone.answers();
                let commands = self.lone.commands();
                if answers.is_empty() && commands.is_empty() {
                    return;
                }
                for command in commands {
                    match command {
                        FetchCommand::Credit { bytes, .. } => self.credit += u64::from(bytes),
                        FetchCommand::Cancel { .. } => self.cancelled = true,
                        _ => panic!("a second fetch"),
                    }
                }
                for (id, event) in answers {
                    self.take(id, &event);
                }
            }
        }

        fn take(&mut self, id: u64, event: &AnswerEvent) {
            match event {
                AnswerEvent::Interim { .. } | AnswerEvent::Head { .. } | AnswerEvent::Room(_) => {}
                AnswerEvent::Body(bytes) => {
                    *self.got.entry(id).or_default() += bytes.len() as u64;
                    if !self.stalled.contains(&id) {
                        let room = RequestEvent::Room(bytes.len() as u32);
                        self.lone.client(id, room);
                    }
                }
                AnswerEvent::End => drop(self.ended.insert(id, true)),
                AnswerEvent::Failed => drop(self.ended.insert(id, false)),
            }
        }

        fn end(&mut self) {
            self.lone.bring(self.fetch, FetchEvent::End);
            self.deliver();
        }
    }

    /// More than memory (16 MiB) and the heap hold.
    const LONG: u64 = 48 << 20;

    #[test]
    fn everyone_gets_all_of_a_body_that_is_held_nowhere() {
        let mut long = Long::begin(3);
        long.send(LONG);
        long.end();
        for id in 1..=3 {
            assert_eq!((long.got[&id], long.ended[&id]), (LONG, true), "{id}");
        }
        let stats = long.lone.shard.stats.snapshot();
        assert!(stats.contains(&("windows", 1)) && stats.contains(&("waiters_left_behind", 0)));
        let held = long.lone.shard.holdings();
        assert_eq!((held.heap_bytes, held.flights, held.waiters), (0, 0, 0));
    }

    #[test]
    fn who_comes_late_asks_for_itself() {
        let mut long = Long::begin(1);
        long.send(LONG);
        long.lone.get(9);
        assert!(long.lone.fetch().is_some_and(|id| id != long.fetch));
    }

    #[test]
    fn who_takes_nothing_is_left_behind() {
        let mut long = Long::begin(2);
        long.stalled.push(2);
        long.send(LONG);
        assert!(long.sent < LONG, "nothing held the origin back");
        long.lone.wait(PATIENCE);
        long.deliver();
        long.send(LONG);
        long.end();
        assert_eq!((long.got[&1], long.ended[&1]), (LONG, true));
        // It is told as soon as it takes something.
        let room = RequestEvent::Room(WINDOW * 2);
        long.lone.client(2, room);
        long.deliver();
        assert_eq!(long.ended.get(&2), Some(&false));
        assert_eq!(long.lone.shard.holdings().waiters, 0);
    }

    #[test]
    fn the_fetch_ends_with_the_last_who_wanted_it() {
        let mut long = Long::begin(2);
        long.send(LONG / 2 + LONG / 4);
        long.lone.client(1, RequestEvent::Cancel);
        long.deliver();
        assert!(!long.cancelled);
        long.lone.client(2, RequestEvent::Cancel);
        long.deliver();
        assert!(long.cancelled);
        let held = long.lone.shard.holdings();
        assert_eq!((held.heap_bytes, held.flights), (0, 0));
    }
}
