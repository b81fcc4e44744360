//! Sessions that clients may resume over QUIC: each once, on whichever core they come to.
//!
//! A ticket is the name of an entry here and nothing else. Who resumes takes the entry out, so that a second
//! ClientHello with the same ticket, such as a copy of the first flight with its early data, finds nothing: it
//! gets a full handshake, and its early data cannot be read (RFC 8446 section 8.1). Nothing has to be
//! remembered of the time before the start, as a register of ClientHellos would: a process that knows no
//! ticket takes no early data.
//!
//! ```text
//!   name (32 random bytes) -> part (of 16, a mutex each) -> slot of a ring
//!   the next session takes the place of the oldest, used or not
//! ```
//!
//! The mutexes are on the way of handshakes, never of requests, and are held for a look-up in a hash table.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::server::StoresServerSessions;

/// So many shards can be at handshakes at a time and seldom meet.
const PARTS: usize = 16;

/// What the TLS library tells clients (RFC 8446 section 4.6.1).
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of memory that a session takes, at most: its slot, its place in the table, and what TLS keeps of it.
pub const SESSION_BYTES: u64 = 384;

/// Bytes that TLS may keep of a session; what is longer (by a long name of the server) is not kept.
const MAX_SECRET: usize = 256;

/// The latest sessions given out, up to a bound.
pub struct Sessions {
    parts: Box<[Mutex<Part>]>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    given: AtomicU64,
    taken: AtomicU64,
    replayed: AtomicU64,
    unknown: AtomicU64,
    displaced: AtomicU64,
}

/// The name that a client knows a session by: its ticket.
type Name = [u8; 32];

struct Part {
    ring: Vec<Session>,
    capacity: usize,
    /// The slot of the oldest, once the ring is full.
    next: usize,
    /// Slots by the beginning of their names, which are random.
    slots: HashMap<u64, u32>,
    unused: u64,
}

struct Session {
    name: Name,
    given: Instant,
    /// `None`: it was resumed.
    secret: Option<Box<[u8]>>,
}

/// What a ticket stands for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Session(Vec<u8>),
    /// It was resumed before.
    Used,
    /// It is too old, was displaced, or never was.
    Nothing,
}

impl Sessions {
    /// Room for `max` sessions, rounded up so that all parts are equal.
    pub fn new(max: usize) -> Self {
        let capacity = max.div_ceil(PARTS).max(1);
        let part = || Mutex::new(Part::new(capacity));
        Self {
            parts: (0..PARTS).map(|_| part()).collect(),
            counts: Counts::default(),
        }
    }

    /// Names and values.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let unused = (0..PARTS).map(|part| self.part(part).unused).sum();
        let of = |count: &AtomicU64| count.load(Relaxed);
        let counts = &self.counts;
        vec![
            ("sessions", unused),
            ("sessions_given", of(&counts.given)),
            ("sessions_resumed", of(&counts.taken)),
            ("sessions_replayed", of(&counts.replayed)),
            ("sessions_unknown", of(&counts.unknown)),
            ("sessions_displaced", of(&counts.displaced)),
        ]
    }

    fn part(&self, number: usize) -> MutexGuard<'_, Part> {
        // A part is whole between any two of its steps.
        let part = self.parts[number % PARTS].lock();
        part.unwrap_or_else(PoisonError::into_inner)
    }

    fn part_of(&self, name: &Name) -> MutexGuard<'_, Part> {
        self.part(usize::from(name[31]))
    }

    fn give(&self, name: Name, secret: &[u8], now: Instant) {
        let displaced = self.part_of(&name).give(name, secret.into(), now);
        self.counts.given.fetch_add(1, Relaxed);
        self.counts.displaced.fetch_add(displaced.into(), Relaxed);
    }

    fn resume(&self, name: &Name, now: Instant) -> Option<Vec<u8>> {
        let found = self.part_of(name).resume(name, now);
        let count = match found {
            Found::Session(_) => &self.counts.taken,
            Found::Used => &self.counts.replayed,
            Found::Nothing => &self.counts.unknown,
        };
        count.fetch_add(1, Relaxed);
        match found {
            Found::Session(secret) => Some(secret),
            Found::Used | Found::Nothing => None,
        }
    }
}

impl Part {
    fn new(capacity: usize) -> Self {
        Self {
            // Taken at once, and touched as it fills.
            ring: Vec::with_capacity(capacity),
            capacity,
            next: 0,
            slots: HashMap::new(),
            unused: 0,
        }
    }

    /// Whether one that nobody had resumed made way.
    fn give(&mut self, name: Name, secret: Box<[u8]>, given: Instant) -> bool {
        let session = Session {
            name,
            given,
            secret: Some(secret),
        };
        self.unused += 1;
        if self.ring.len() < self.capacity {
            self.slots.insert(short(&name), self.ring.len() as u32);
            self.ring.push(session);
            return false;
        }
        let slot = self.next;
        self.next = (slot + 1) % self.capacity;
        let oldest = std::mem::replace(&mut self.ring[slot], session);
        if self.slots.get(&short(&oldest.name)) == Some(&(slot as u32)) {
            self.slots.remove(&short(&oldest.name));
        }
        self.slots.insert(short(&name), slot as u32);
        self.unused -= u64::from(oldest.secret.is_some());
        oldest.secret.is_some()
    }

    fn resume(&mut self, name: &Name, now: Instant) -> Found {
        let slot = self.slots.get(&short(name));
        let session = slot.and_then(|&slot| self.ring.get_mut(slot as usize));
        let Some(session) = session.filter(|session| session.name == *name) else {
            return Found::Nothing;
        };
        let Some(secret) = session.secret.take() else {
            return Found::Used;
        };
        self.unused -= 1;
        match now.saturating_duration_since(session.given) <= LIFETIME {
            true => Found::Session(secret.into()),
            false => Found::Nothing,
        }
    }
}

fn short(name: &Name) -> u64 {
    name.iter()
        .take(8)
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

impl fmt::Debug for Sessions {
    /// Without what it keeps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counters()).finish()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let Ok(name) = Name::try_from(key) else {
            return false;
        };
        if value.len() > MAX_SECRET {
            return false;
        }
        self.give(name, &value, Instant::now());
        true
    }

    /// TLS 1.2 alone would resume a session more than once.
    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let name = Name::try_from(key).ok()?;
        self.resume(&name, Instant::now())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The part is chosen by the last byte.
    fn name(number: u64, part: u8) -> Name {
        let mut name = [part; 32];
        name[..8].copy_from_slice(&number.to_be_bytes());
        name
    }

    fn count(sessions: &Sessions, wanted: &str) -> u64 {
        let counters = sessions.counters();
        let found = counters.iter().find(|(name, _)| *name == wanted);
        found.expect("a counter of that name").1
    }

    #[test]
    fn a_session_is_resumed_once() {
        let sessions = Sessions::new(64);
        assert!(sessions.put(name(1, 3).to_vec(), b"secret".to_vec()));
        assert_eq!(count(&sessions, "sessions"), 1);
        assert_eq!(sessions.get(&name(1, 3)), None);
        assert_eq!(sessions.take(&name(1, 3)).as_deref(), Some(&b"secret"[..]));
        assert_eq!(sessions.take(&name(1, 3)), None);
        assert_eq!(sessions.take(&name(2, 3)), None);
        for (counter, value) in [
            ("sessions", 0),
            ("sessions_given", 1),
            ("sessions_resumed", 1),
            ("sessions_replayed", 1),
            ("sessions_unknown", 1),
        ] {
            assert_eq!(count(&sessions, counter), value, "{counter}");
        }
    }

    #[test]
    fn what_is_no_ticket_of_ours_is_nothing() {
        let sessions = Sessions::new(64);
        assert!(!sessions.put(vec![1; 31], b"secret".to_vec()));
        assert!(!sessions.put(vec![1; 32], vec![0; MAX_SECRET + 1]));
        assert_eq!(sessions.take(&[1; 31]), None);
        assert_eq!(sessions.take(&[1; 4096]), None);
        // The beginning alone is not enough.
        sessions.put(name(1, 3).to_vec(), b"secret".to_vec());
        let mut other = name(1, 3);
        other[20] ^= 1;
        assert_eq!(sessions.take(&other), None);
        assert!(sessions.take(&name(1, 3)).is_some());
    }

    #[test]
    fn past_the_bound_the_oldest_makes_way() {
        let sessions = Sessions::new(4 * PARTS);
        for number in 0..10 {
            sessions.put(name(number, 5).to_vec(), vec![number as u8]);
        }
        // Another part has room of its own.
        sessions.put(name(0, 6).to_vec(), vec![0]);
        assert_eq!(count(&sessions, "sessions"), 5);
        assert_eq!(count(&sessions, "sessions_displaced"), 6);
        for number in 0..10 {
            let taken = sessions.take(&name(number, 5));
            assert_eq!(taken.is_some(), number >= 6, "{number}");
        }
        // Those that were used make way without being counted.
        for number in 10..14 {
            sessions.put(name(number, 5).to_vec(), vec![0]);
        }
        assert_eq!(count(&sessions, "sessions_displaced"), 6);
    }

    #[test]
    fn an_old_session_is_nothing() {
        let sessions = Sessions::new(64);
        let now = Instant::now();
        for number in 0..2 {
            sessions.give(name(number, 1), b"secret", now);
        }
        let late = now + LIFETIME + Duration::from_secs(1);
        assert!(sessions.resume(&name(0, 1), now + LIFETIME).is_some());
        assert_eq!(sessions.resume(&name(1, 1), late), None);
        assert_eq!(count(&sessions, "sessions"), 0);
    }

    #[test]
    fn of_many_cores_one_gets_it() {
        let sessions = Sessions::new(1024);
        for number in 0..200 {
            sessions.give(name(number, number as u8), b"secret", Instant::now());
        }
        let taken: usize = thread::scope(|scope| {
            let all = || (0..200).filter(|&n| sessions.take(&name(n, n as u8)).is_some());
            let cores: Vec<_> = (0..4).map(|_| scope.spawn(move || all().count())).collect();
            let taken = cores.into_iter().map(|core| core.join().expect("a core"));
            taken.sum()
        });
        assert_eq!(taken, 200);
        assert_eq!(count(&sessions, "sessions_replayed"), 600);
    }

    #[test]
    fn what_it_keeps_is_not_shown() {
        let sessions = Sessions::new(16);
        sessions.put(name(1, 1).to_vec(), b"secret".to_vec());
        let shown = format!("{sessions:?}");
        assert!(shown.contains("sessions_given") && !shown.contains("secret"));
    }
}
