//! Per-source token buckets in a keyed, direct-mapped array.
//!
//! A source (an IPv4 address, an IPv6 /64) has the bucket that a keyed hash of it names. There is no
//! table of sources to fill up: a flood of spoofed sources costs one cache line each and evicts nobody.
//! Sources that fall on the same bucket share it until the daemon changes the key.
//!
//! A bucket holds what was spent, not what is left, so that a map of zeros is a map of full buckets.
//! What was spent drains at the rate of the meter, in fixed point and by the kernel's tick. Two CPUs
//! that charge the same bucket at the same moment may lose one of the two charges.

/// Buckets of the map: 4 MiB of them.
pub const BUCKETS: u32 = 1 << BUCKET_BITS;

const BUCKET_BITS: u32 = 18;

/// What a packet costs in the packets meter: its unit is 1/4,096 packet.
pub const PACKET: u32 = 1 << 12;

/// What an Initial costs in the handshakes meter, and a SYN in the SYNs meter: the unit is 1/65,536.
pub const HANDSHAKE: u32 = 1 << 16;

/// Ticks beyond which it does not matter how long a source was silent (hours to days).
const MAX_ELAPSED: u32 = 1 << 24;

/// What one source has spent lately. Aligned for a copy on the stack, which BPF wants so for whole words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Tick of the last charge, the low half.
    stamp: u32,
    packets: u32,
    bytes: u32,
    /// Of TCP, which has buckets of its own: SYNs.
    handshakes: u32,
}

/// One meter: how fast a bucket drains and how much it holds. All zero: nothing is metered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Units that drain in a tick.
    pub per_tick: u32,
    /// Units that fit in.
    pub burst: u32,
}

impl Meter {
    /// `rate` a second and `burst` at once, where `cost` units are one of what is counted and a tick
    /// takes `tick_ns` nanoseconds. A rate above zero stays above zero; all saturates.
    pub fn new(rate: u64, burst: u64, cost: u32, tick_ns: u64) -> Self {
        let per_tick = u128::from(rate) * u128::from(cost) * u128::from(tick_ns) / 1_000_000_000;
        let units = u64::saturating_mul(burst, u64::from(cost));
        Self {
            per_tick: u32::try_from(per_tick)
                .unwrap_or(u32::MAX)
                .max(u32::from(rate > 0)),
            burst: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }
}

/// The meters, the same for every source. QUIC and TCP of a source have a bucket each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meters {
    pub packets: Meter,
    /// Its unit is a byte of UDP payload, or of TCP from its header on.
    pub bytes: Meter,
    pub handshakes: Meter,
    pub syns: Meter,
}

impl Meters {
    /// Meters nothing.
    pub const NONE: Self = {
        let off = Meter {
            per_tick: 0,
            burst: 0,
        };
        Self {
            packets: off,
            bytes: off,
            handshakes: off,
            syns: off,
        }
    };
}

/// Which meters had no room for a packet, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over(u32);

impl Over {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn packets(self) -> bool {
        self.0 & 1 != 0
    }

    #[inline(always)]
    pub const fn bytes(self) -> bool {
        self.0 & 2 != 0
    }

    /// Of handshakes, or of TCP of SYNs.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & 4 != 0
    }
}

/// What is charged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u32,
    /// It opens a connection: a handshake, or of TCP a SYN.
    pub opens: bool,
    pub tcp: bool,
}

/// The bucket of a source: of its IPv4 address, or of the upper half of its IPv6 address.
///
/// Multiplications by a secret, with what they carry folded down in between: not a MAC, but which sources
/// meet hangs on the key, and all that anybody ever sees of it is that some packets were dropped.
#[inline(always)]
pub const fn place(key: [u64; 2], source: u64, tcp: bool) -> u32 {
    let holder = source ^ (tcp as u64) << 63;
    let mixed = (holder ^ key[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(key[1] | 1);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> (64 - BUCKET_BITS)) as u32
}

/// Charges `bucket` for a packet at tick `now`. A meter without room is not charged.
#[inline(always)]
pub fn charge(bucket: &mut Bucket, meters: &Meters, now: u32, cost: Cost) -> Over {
    let elapsed = u64::from(now.wrapping_sub(bucket.stamp).min(MAX_ELAPSED));
    bucket.stamp = now;
    let opened = if cost.opens { HANDSHAKE } else { 0 };
    let opens = either(&meters.handshakes, &meters.syns, cost.tcp);
    let packets = spend(&mut bucket.packets, &meters.packets, elapsed, PACKET);
    let bytes = spend(&mut bucket.bytes, &meters.bytes, elapsed, cost.bytes);
    let opens = spend(&mut bucket.handshakes, &opens, elapsed, opened);
    Over(packets | bytes << 1 | opens << 2)
}

/// `first`, or `second`. Without a branch, as below.
#[inline(always)]
const fn either(first: &Meter, second: &Meter, is_second: bool) -> Meter {
    let mask = (is_second as u32).wrapping_neg();
    Meter {
        per_tick: first.per_tick & !mask | second.per_tick & mask,
        burst: first.burst & !mask | second.burst & mask,
    }
}

/// 1 when `cost` does not fit in any more, 0 when it does or the meter is off. Without a branch: the
/// verifier would walk what follows once more for each.
#[inline(always)]
fn spend(level: &mut u32, meter: &Meter, elapsed: u64, cost: u32) -> u32 {
    let (cost, burst) = (u64::from(cost), u64::from(meter.burst));
    let drained = saturating_sub(u64::from(*level), elapsed * u64::from(meter.per_tick));
    let counts = is_positive(burst) & is_positive(cost);
    let over = counts & is_negative(burst.wrapping_sub(drained + cost));
    *level = (drained + cost * (counts & (over ^ 1))) as u32;
    over as u32
}

/// For numbers below 2^63, as all here are.
#[inline(always)]
const fn saturating_sub(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    difference & is_negative(difference).wrapping_sub(1)
}

#[inline(always)]
const fn is_positive(number: u64) -> u64 {
    is_negative(number.wrapping_neg())
}

#[inline(always)]
const fn is_negative(difference: u64) -> u64 {
    difference >> 63
}

const _: () = assert!(size_of::<Bucket>() == 16 && size_of::<Meters>() == 32);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK_NS: u64 = 4_000_000;

    const fn cost(bytes: u32, opens: bool) -> Cost {
        let tcp = false;
        Cost { bytes, opens, tcp }
    }

    fn meters(rate: u64, burst: u64) -> Meters {
        Meters {
            packets: Meter::new(rate, burst, PACKET, TICK_NS),
            ..Meters::default()
        }
    }

    fn passed(bucket: &mut Bucket, meters: &Meters, now: u32, packets: u32) -> u32 {
        (0..packets)
            .filter(|_| !charge(bucket, meters, now, cost(100, false)).packets())
            .count() as u32
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut bucket, meters) = (Bucket::default(), meters(1000, 50));
        assert_eq!(passed(&mut bucket, &meters, 7, 80), 50);
        // 250 ticks are a second.
        let later: u32 = (8..258)
            .map(|now| passed(&mut bucket, &meters, now, 10))
            .sum();
        assert_eq!(later, 1000);
        assert_eq!(passed(&mut bucket, &meters, 100_000, 80), 50);
    }

    #[test]
    fn meters_that_are_off_never_fill() {
        let mut bucket = Bucket::default();
        for now in 0..1000 {
            let over = charge(&mut bucket, &Meters::default(), now, cost(u32::MAX, true));
            assert_eq!(over, Over::NONE);
        }
    }

    #[test]
    fn each_meter_counts_its_own() {
        let all = Meters {
            packets: Meter::new(0, 4, PACKET, TICK_NS),
            bytes: Meter::new(0, 2500, 1, TICK_NS),
            handshakes: Meter::new(0, 1, HANDSHAKE, TICK_NS),
            syns: Meter::new(0, 2, HANDSHAKE, TICK_NS),
        };
        let mut bucket = Bucket::default();
        let mut next = |handshake| {
            let over = charge(&mut bucket, &all, 0, cost(1000, handshake));
            (over.packets(), over.bytes(), over.opens())
        };
        assert_eq!(next(true), (false, false, false));
        assert_eq!(next(true), (false, false, true));
        assert_eq!(next(false), (false, true, false));
        assert_eq!(next(false), (false, true, false));
        assert_eq!(next(false), (true, true, false));
    }

    #[test]
    fn syns_have_a_meter_of_their_own() {
        let all = Meters {
            handshakes: Meter::new(0, 1, HANDSHAKE, TICK_NS),
            syns: Meter::new(0, 3, HANDSHAKE, TICK_NS),
            ..Meters::default()
        };
        let opened = |tcp| {
            let mut bucket = Bucket::default();
            let opens = Cost {
                tcp,
                ..cost(60, true)
            };
            let charged = (0..9).map(|_| charge(&mut bucket, &all, 0, opens));
            charged.filter(|over| !over.opens()).count()
        };
        assert_eq!((opened(false), opened(true)), (1, 3));
    }

    #[test]
    fn sources_spread_over_all_buckets_and_tcp_has_others() {
        let key = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        for (first, step) in [
            (0x0a00_0000, 1_u64),
            (0xc000_0200, 256),
            (0x2001_0db8 << 32, 1),
        ] {
            let mut hits = std::vec![0_u8; BUCKETS as usize];
            let sources = (0..u64::from(BUCKETS)).map(|n| first + n * step);
            for source in sources {
                hits[place(key, source, false) as usize] += 1;
            }
            // As many balls as bins: e^-1 of the bins stay empty when they are thrown at random.
            let empty = hits.iter().filter(|hits| **hits == 0).count() as f64;
            let share = empty / f64::from(BUCKETS);
            assert!((0.35..0.39).contains(&share), "{first:x}: {share}");
            assert!(hits.iter().all(|hits| *hits < 16), "{first:x}");
        }
        let moved = (0..1000).filter(|n| place(key, *n, false) != place(key, *n, true));
        assert!(moved.count() > 990);
        let other = [key[0], key[1] ^ 2];
        let moved = (0..1000).filter(|n| place(key, *n, false) != place(other, *n, false));
        assert!(moved.count() > 990);
    }

    #[test]
    fn the_tick_may_wrap() {
        let (mut bucket, meters) = (Bucket::default(), meters(250, 10));
        assert_eq!(passed(&mut bucket, &meters, u32::MAX, 20), 10);
        assert_eq!(passed(&mut bucket, &meters, 1, 20), 2);
    }

    #[test]
    fn what_is_too_much_to_count_saturates() {
        let meter = Meter::new(u64::MAX, u64::MAX, HANDSHAKE, TICK_NS);
        assert_eq!((meter.per_tick, meter.burst), (u32::MAX, u32::MAX));
        assert_eq!(Meter::new(1, 1, 1, 1000).per_tick, 1, "slow, but not never");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 1u64..10_000, burst in 1u64..1000,
            steps in proptest::collection::vec((0u32..20, 1u32..50), 1..60),
        ) {
            let (mut bucket, meters) = (Bucket::default(), meters(rate, burst));
            let (mut now, mut total) = (5, 0);
            for (ticks, packets) in steps {
                now += ticks;
                total += u64::from(passed(&mut bucket, &meters, now, packets));
            }
            let most = burst + u64::from(now - 5) * u64::from(meters.packets.per_tick) / u64::from(PACKET) + 1;
            prop_assert!(total <= most, "{total} > {most}");
        }
    }
}
