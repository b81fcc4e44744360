//! One connection to the server: its streams and the responses on them.

use std::collections::VecDeque;
use std::time::Instant;

use quinn_proto::{
    Connection, Dir, Event, ReadError, Side, StreamEvent, StreamId, VarInt, WriteError,
};

use super::engine::{Change, Completion, Failure, Shared};
use super::h3::{CONTROL_PREFACE, Response};

/// H3_REQUEST_CANCELLED, for a response that is not wanted to its end.
const CANCELLED: VarInt = VarInt::from_u32(0x10c);

pub(super) struct Peer {
    index: usize,
    pub(super) connection: Connection,
    pub(super) socket: usize,
    /// Listed in the engine's `dirty`.
    pub(super) dirty: bool,
    /// The earliest of its timers that is queued in the engine.
    pub(super) timer: Option<Instant>,
    started: Instant,
    ready: bool,
    /// Streams may be opened before the handshake is done.
    early: bool,
    /// Requests by stream number, from `first` on. Streams end about in the order of their start.
    running: VecDeque<Option<Exchange>>,
    first: u64,
    /// Requests for which there is no stream yet: key and intended time.
    waiting: VecDeque<(usize, Instant)>,
}

struct Exchange {
    key: usize,
    intended: Instant,
    first_byte: Option<Instant>,
    /// Request bytes that flow control did not take yet.
    unsent: usize,
    wrong_body: bool,
    response: Response,
}

impl Peer {
    pub(super) fn new(index: usize, connection: Connection, socket: usize, now: Instant) -> Self {
        Self {
            index,
            early: connection.has_0rtt(),
            connection,
            socket,
            dirty: false,
            timer: None,
            started: now,
            ready: false,
            running: VecDeque::new(),
            first: 0,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn request(&mut self, key: usize, intended: Instant, shared: &mut Shared) {
        self.waiting.push_back((key, intended));
        self.start_waiting(shared);
    }

    /// Starts requests while the server grants streams.
    fn start_waiting(&mut self, shared: &mut Shared) {
        while (self.ready || self.early) && !self.waiting.is_empty() {
            let Some(id) = self.connection.streams().open(Dir::Bi) else {
                return;
            };
            let Some((key, intended)) = self.waiting.pop_front() else {
                return;
            };
            debug_assert_eq!(id.index(), self.first + self.running.len() as u64);
            self.running.push_back(Some(Exchange {
                key,
                intended,
                first_byte: None,
                unsent: shared.targets.request(key).len(),
                wrong_body: false,
                response: Response::default(),
            }));
            self.write(id, shared);
        }
    }

    /// Writes the rest of a request and ends the stream.
    fn write(&mut self, id: StreamId, shared: &mut Shared) {
        let Some(exchange) = exchange(&mut self.running, self.first, id) else {
            return;
        };
        let request = shared.targets.request(exchange.key);
        let mut stream = self.connection.send_stream(id);
        while exchange.unsent > 0 {
            match stream.write(&request[request.len() - exchange.unsent..]) {
                Ok(n) => exchange.unsent -= n,
                Err(WriteError::Blocked) => return,
                // A server may answer without reading the request; the answer decides.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => exchange.unsent = 0,
            }
        }
        // Fails only where the server stopped the stream, for which see above.
        let _ = stream.finish();
    }

    /// Acts on everything the connection has to tell.
    pub(super) fn process(&mut self, now: Instant, shared: &mut Shared, changes: &mut Vec<Change>) {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.connected(now, shared, changes),
                Event::ConnectionLost { reason } => {
                    self.fail_all(shared);
                    changes.push(Change::Lost {
                        connection: self.index,
                        reason: reason.to_string(),
                    });
                }
                Event::Stream(event) => self.stream_event(event, now, shared),
                _ => {}
            }
        }
    }

    fn connected(&mut self, now: Instant, shared: &mut Shared, changes: &mut Vec<Change>) {
        self.ready = true;
        let early = self.early.then(|| self.connection.accepted_0rtt());
        if early == Some(false) {
            self.begin_again();
        }
        if let Some(id) = self.connection.streams().open(Dir::Uni) {
            // Three bytes fit in any flow control window; a server that gives none fails the requests.
            let _ = self.connection.send_stream(id).write(&CONTROL_PREFACE);
        }
        changes.push(Change::Ready {
            connection: self.index,
            handshake: now.duration_since(self.started),
            early,
        });
        self.start_waiting(shared);
    }

    /// The server took none of the early data: its streams are gone, and count from zero again.
    fn begin_again(&mut self) {
        while let Some(exchange) = self.running.pop_back() {
            if let Some(Exchange { key, intended, .. }) = exchange {
                self.waiting.push_front((key, intended));
            }
        }
        self.first = 0;
    }

    fn stream_event(&mut self, event: StreamEvent, now: Instant, shared: &mut Shared) {
        match event {
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                    self.discard(id);
                }
            }
            StreamEvent::Readable { id }
                if id.dir() == Dir::Bi && id.initiator() == Side::Client =>
            {
                self.read(id, now, shared);
            }
            StreamEvent::Readable { id } => self.discard(id),
            StreamEvent::Writable { id } if id.dir() == Dir::Bi => self.write(id, shared),
            StreamEvent::Available { dir: Dir::Bi } => self.start_waiting(shared),
            _ => {}
        }
    }

    /// Reads a stream of the server's (control, QPACK) without looking: the dynamic table is off.
    fn discard(&mut self, id: StreamId) {
        let mut stream = self.connection.recv_stream(id);
        if let Ok(mut chunks) = stream.read(true) {
            while let Ok(Some(_)) = chunks.next(usize::MAX) {}
            let _ = chunks.finalize();
        }
    }

    fn read(&mut self, id: StreamId, now: Instant, shared: &mut Shared) {
        let Some(exchange) = exchange(&mut self.running, self.first, id) else {
            return;
        };
        exchange.first_byte.get_or_insert(now);
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        let ended = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    if exchange.feed(&chunk.bytes, shared).is_err() {
                        break Some(Err(Failure::Malformed));
                    }
                }
                Ok(None) => break Some(exchange.outcome(shared)),
                Err(ReadError::Blocked) => break None,
                Err(ReadError::Reset(code)) => break Some(Err(Failure::Reset(code.into_inner()))),
            }
        };
        let _ = chunks.finalize();
        if let Some(outcome) = ended {
            if outcome == Err(Failure::Malformed) {
                // Fails where the stream is over, which is as well.
                let _ = self.connection.recv_stream(id).stop(CANCELLED);
            }
            self.complete(id, outcome, shared);
        }
    }

    fn complete(
        &mut self,
        id: StreamId,
        outcome: Result<super::qpack::Head, Failure>,
        shared: &mut Shared,
    ) {
        let slot = (id.index() - self.first) as usize;
        if let Some(exchange) = self.running[slot].take() {
            shared
                .completed
                .push(exchange.completion(self.index, outcome));
        }
        while let Some(None) = self.running.front() {
            self.running.pop_front();
            self.first += 1;
        }
    }

    fn fail_all(&mut self, shared: &mut Shared) {
        let index = self.index;
        for exchange in self.running.drain(..).flatten() {
            shared
                .completed
                .push(exchange.completion(index, Err(Failure::Connection)));
        }
        for (_, intended) in self.waiting.drain(..) {
            shared.completed.push(Completion {
                connection: index,
                intended,
                first_byte: None,
                body_bytes: 0,
                outcome: Err(Failure::Connection),
            });
        }
        (self.ready, self.early) = (false, false);
    }
}

fn exchange(
    running: &mut VecDeque<Option<Exchange>>,
    first: u64,
    id: StreamId,
) -> Option<&mut Exchange> {
    let slot = id.index().checked_sub(first)?;
    running.get_mut(slot as usize)?.as_mut()
}

impl Exchange {
    fn feed(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<(), super::h3::Malformed> {
        let Shared { heads, targets, .. } = shared;
        let wrong = &mut self.wrong_body;
        let key = self.key;
        self.response.feed(bytes, heads, |offset, part| {
            *wrong |= !targets.matches(key, offset, part);
        })
    }

    fn outcome(&self, shared: &mut Shared) -> Result<super::qpack::Head, Failure> {
        let head = self.response.finish().map_err(|_| Failure::Malformed)?;
        if head.status != shared.targets.status(self.key) {
            return Err(Failure::Status(head.status));
        }
        let whole = !self.wrong_body && shared.targets.is_whole(self.key, self.response.received);
        if whole { Ok(head) } else { Err(Failure::Body) }
    }

    fn completion(
        self,
        connection: usize,
        outcome: Result<super::qpack::Head, Failure>,
    ) -> Completion {
        Completion {
            connection,
            intended: self.intended,
            first_byte: self.first_byte,
            body_bytes: self.response.received,
            outcome,
        }
    }
}
