//! The maps between the XDP program and the daemon: their names, values and layout version.
//!
//! | map        | kind              | value                          | written by |
//! |------------|-------------------|--------------------------------|------------|
//! | `RULES`    | array of 1        | [`Rules`]                      | daemon     |
//! | `CID_KEYS` | array of 1        | [`CidKeys`]                    | daemon     |
//! | `COUNTERS` | per-CPU array 1   | [`Counters`]                   | program    |
//! | `XSKMAP`   | 64 sockets        | fd                             | daemon     |
//! | `MARKS4`   | array, mmapable   | u64, see [`crate::lists`]      | daemon     |
//! | `COVER4`   | array, mmapable   | u64                            | daemon     |
//! | `COVER6`   | array, mmapable   | u64                            | daemon     |
//! | `EXACT`    | array, mmapable   | [`crate::lists::ExactBucket`]  | daemon     |
//! | `BUCKETS`  | array             | [`crate::meter::Bucket`]       | program    |
//! | `EVENTS`   | ring buffer       | [`crate::event::Event`]        | program    |
//!
//! All of them are pinned, so that a new daemon finds them as the old one left them. [`LAYOUT`] must
//! grow with every change of a value's meaning or size: a daemon refuses maps of another layout.

use crate::{
    lists::Lists,
    meter::Meters,
    packet::forget,
    reason::Reason,
    rule::{Modes, Rule},
};

pub use crate::cid::CidKeys;

/// Version of everything in this module, of [`CidKeys`], of the tables of [`crate::lists`] and
/// [`crate::meter`], and of the order of [`Reason`] and [`Rule`].
pub const LAYOUT: u32 = 3;

/// NIC queues, and so shards, that can have an AF_XDP socket each.
pub const MAX_QUEUES: u32 = 64;

/// UDP ports that can be served at the same time, and TCP ports.
pub const MAX_PORTS: usize = 8;

/// Source ports of reflectors that can be listed.
pub const MAX_REFLECTORS: usize = 32;

pub const RULES: &str = "RULES";
pub const CID_KEYS: &str = "CID_KEYS";
pub const COUNTERS: &str = "COUNTERS";
pub const XSKMAP: &str = "XSKMAP";
pub const MARKS4: &str = "MARKS4";
pub const COVER4: &str = "COVER4";
pub const COVER6: &str = "COVER6";
pub const EXACT: &str = "EXACT";
pub const BUCKETS: &str = "BUCKETS";
pub const EVENTS: &str = "EVENTS";

/// What the program is told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// [`LAYOUT`] of the writer. Anything else, as in a map that is still zero, passes every
    /// packet.
    pub layout: u32,
    /// Shards, each on the queue of its number. An id of a higher shard is not ours any more.
    pub shards: u32,
    /// Bit `i`: datagrams of queue `i` go to its AF_XDP socket.
    pub af_xdp: u64,
    /// UDP ports served, in host byte order; 0 is an empty place.
    pub ports: [u16; MAX_PORTS],
    /// TCP ports served, likewise.
    pub tcp_ports: [u16; MAX_PORTS],
    /// The daemon's note of how the program is attached. Not read by the program.
    pub attach_mode: u32,
    /// A match whose number (by rule and CPU) has none of these bits becomes an event: one less
    /// than a power of two, or all ones for the first match alone.
    pub sample_mask: u32,
    pub modes: Modes,
    pub lists: Lists,
    /// The key that places sources in buckets.
    pub bucket_key: [u64; 2],
    pub meters: Meters,
    /// Source ports of [`Rule::Amplification`]; 0 is an empty place.
    reflectors: [u16; MAX_REFLECTORS],
    /// A bit for each low byte of `reflectors`: most ports have none of them, and are not looked for.
    reflector_marks: [u64; 4],
}

impl Rules {
    /// Rules of this layout that drop nothing and steer nothing yet.
    pub const fn new(shards: u32, ports: [u16; MAX_PORTS]) -> Self {
        Self {
            layout: LAYOUT,
            shards,
            af_xdp: 0,
            ports,
            tcp_ports: [0; MAX_PORTS],
            attach_mode: 0,
            sample_mask: u32::MAX,
            modes: Modes::OFF,
            lists: Lists::NONE,
            bucket_key: [0; 2],
            meters: Meters::NONE,
            reflectors: [0; MAX_REFLECTORS],
            reflector_marks: [0; 4],
        }
    }

    #[inline(always)]
    pub fn serves(&self, port: u16) -> bool {
        holds(&self.ports, port)
    }

    #[inline(always)]
    pub fn serves_tcp(&self, port: u16) -> bool {
        holds(&self.tcp_ports, port)
    }

    /// Whether reflectors answer from `port`.
    #[inline(always)]
    pub fn reflects(&self, port: u16) -> bool {
        let (word, bit) = mark(port);
        self.reflector_marks[word] >> bit & 1 != 0 && holds(&self.reflectors, port)
    }

    /// Reflectors answer from these ports, and no others. Those beyond [`MAX_REFLECTORS`] are left out.
    pub fn set_reflectors(&mut self, ports: &[u16]) {
        self.reflectors = [0; MAX_REFLECTORS];
        self.reflector_marks = [0; 4];
        for (place, port) in self.reflectors.iter_mut().zip(ports) {
            let (word, bit) = mark(*port);
            self.reflector_marks[word] |= 1 << bit;
            *place = *port;
        }
    }

    /// Whether datagrams of `queue` go to its AF_XDP socket.
    #[inline(always)]
    pub const fn steers(&self, queue: u32) -> bool {
        queue < MAX_QUEUES && (self.af_xdp >> queue) & 1 == 1
    }

    /// Turns steering of `queue` on or off. False when there is no such queue.
    pub const fn set_steering(&mut self, queue: u32, on: bool) -> bool {
        if queue >= MAX_QUEUES {
            return false;
        }
        self.af_xdp = self.af_xdp & !(1 << queue) | (on as u64) << queue;
        true
    }
}

/// Whether `port` is listed. All places at once, four lanes in a word, for the verifier: it walks
/// everything behind a branch once more for every branch. A lane is zero where the port was found.
#[inline(always)]
fn holds(ports: &[u16], port: u16) -> bool {
    let wanted = u64::from(port) * LANES;
    let (fours, _) = ports.as_chunks();
    let mut hit = 0;
    for four in fours {
        hit |= zero_lanes(lanes(*four) ^ wanted);
    }
    hit != 0 && port != 0
}

/// The word and bit of `Rules::reflector_marks` for a port.
#[inline(always)]
const fn mark(port: u16) -> (usize, u32) {
    ((port >> 6 & 3) as usize, port as u32 & 63)
}

/// A one in each 16-bit lane of a word.
const LANES: u64 = 0x0001_0001_0001_0001;

#[inline(always)]
const fn lanes([a, b, c, d]: [u16; 4]) -> u64 {
    a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48
}

/// Not zero when a 16-bit lane of `word` is: only then a borrow reaches a top bit that was clear.
#[inline(always)]
const fn zero_lanes(word: u64) -> u64 {
    word.wrapping_sub(LANES) & !word & (LANES << 15)
}

/// Counters beyond the one for each [`Reason`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The connection id names the shard of the queue that the packet came in on.
    CidHome,
    /// The connection id names another shard: its datagram is handed over in userspace.
    CidAway,
    /// Sent to the AF_XDP socket of its queue.
    Redirected,
    /// Should have been sent to an AF_XDP socket, but the queue has none: went to the kernel.
    SocketMissing,
    /// Its source is in the allow list.
    Allowed,
    /// An event found no room in the ring.
    EventLost,
}

const EXTRA_NAMES: [&str; 6] = [
    "cid_home",
    "cid_away",
    "redirected",
    "socket_missing",
    "allowed",
    "event_lost",
];

const FIRST_EXTRA: usize = Reason::ALL.len();
const FIRST_DROPPED: usize = FIRST_EXTRA + EXTRA_NAMES.len();
const FIRST_MONITORED: usize = FIRST_DROPPED + Rule::ALL.len();

/// Number of counters.
pub const COUNTER_COUNT: usize = FIRST_MONITORED + Rule::ALL.len();

/// Names of all counters in the order of [`Counters::values`].
pub fn counter_names() -> impl Iterator<Item = &'static str> {
    let rules = Rule::DROPPED.iter().chain(Rule::MONITORED).copied();
    Reason::NAMES
        .iter()
        .copied()
        .chain(EXTRA_NAMES)
        .chain(rules)
}

/// Packets since the program was first attached, one such value for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    pub values: [u64; COUNTER_COUNT],
}

impl Counters {
    pub const ZERO: Self = Self {
        values: [0; COUNTER_COUNT],
    };

    /// Counts one packet and returns how many of its kind there were before.
    #[inline(always)]
    pub fn count(&mut self, reason: Reason) -> u64 {
        self.bump(reason as usize)
    }

    #[inline(always)]
    pub fn count_extra(&mut self, extra: Extra) {
        self.add_one(FIRST_EXTRA + extra as usize);
    }

    /// Counts a packet that `rule` dropped, and returns how many of them there were before.
    #[inline(always)]
    pub fn count_dropped(&mut self, rule: Rule) -> u64 {
        self.add_one(FIRST_DROPPED + rule as usize)
    }

    /// Counts a packet that `rule` would have dropped.
    #[inline(always)]
    pub fn count_monitored(&mut self, rule: Rule) -> u64 {
        self.add_one(FIRST_MONITORED + rule as usize)
    }

    #[inline(always)]
    fn bump(&mut self, index: usize) -> u64 {
        // Where the compiler knows that the index is in bounds it leaves out the check, and with it
        // what the verifier goes by.
        self.add_one(forget(index as u16) as usize)
    }

    #[inline(always)]
    fn add_one(&mut self, index: usize) -> u64 {
        let Some(value) = self.values.get_mut(index) else {
            return 0;
        };
        let before = *value;
        *value = before.wrapping_add(1);
        before
    }
}

/// The bytes of a map value, for a loader that wants plain data.
///
/// # Safety
/// Implementors are `repr(C)` without padding, and every bit pattern is a value of theirs.
pub unsafe trait MapValue: Copy + 'static {}

// SAFETY: repr(C) of u32, u64 and u16 fields, and of structures of those, that leave no gap (see the
// size assertions).
unsafe impl MapValue for Rules {}
// SAFETY: as above.
unsafe impl MapValue for CidKeys {}
// SAFETY: one array of u64.
unsafe impl MapValue for Counters {}

const _: () = assert!(
    size_of::<Rules>()
        == 4 + 4 + 8 + 4 * MAX_PORTS + 4 + 4 + 8 + 40 + 16 + 32 + 2 * MAX_REFLECTORS + 32
);
const _: () = assert!(size_of::<CidKeys>() == 8 + crate::cid::CID_KEY_SLOTS * 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_counters_go_together() {
        assert_eq!(counter_names().count(), COUNTER_COUNT);
        assert_eq!(Extra::EventLost as usize + 1, EXTRA_NAMES.len());
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
    }

    #[test]
    fn zeroed_rules_serve_and_steer_nothing() {
        let rules = Rules::new(2, [0; MAX_PORTS]);
        assert!(!rules.serves(0));
        assert!(!rules.serves(443));
        assert!((0..=MAX_QUEUES).all(|queue| !rules.steers(queue)));
    }

    proptest! {
        #[test]
        fn a_port_is_served_when_it_is_listed(ports: [u16; MAX_PORTS], other: u16) {
            let rules = Rules::new(1, ports);
            for port in ports {
                prop_assert_eq!(rules.serves(port), port != 0);
            }
            let neighbours = ports.map(|port| port.wrapping_add(1));
            for port in neighbours.into_iter().chain([other]) {
                prop_assert_eq!(rules.serves(port), port != 0 && ports.contains(&port));
            }
        }
    }

    proptest! {
        #[test]
        fn a_reflectors_port_is_one_that_was_set(
            set in proptest::collection::vec(1..=u16::MAX, 0..MAX_REFLECTORS + 3), other: u16,
        ) {
            let mut rules = Rules::new(1, [0; MAX_PORTS]);
            rules.set_reflectors(&[7; MAX_REFLECTORS]);
            rules.set_reflectors(&set);
            let kept = &set[..set.len().min(MAX_REFLECTORS)];
            for port in set.iter().copied().chain([other, 0, 7]) {
                prop_assert_eq!(rules.reflects(port), kept.contains(&port));
            }
        }
    }

    #[test]
    fn steering_is_by_queue() {
        let mut rules = Rules::new(2, [443, 0, 0, 0, 0, 0, 0, 8443]);
        assert!(rules.serves(443) && rules.serves(8443));
        assert!(rules.set_steering(63, true));
        assert!(rules.steers(63) && !rules.steers(0));
        assert!(rules.set_steering(63, false));
        assert!(!rules.steers(63));
        assert!(!rules.set_steering(MAX_QUEUES, true));
    }
}
