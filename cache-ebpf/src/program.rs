//! The entry point in the kernel and the maps that it declares.

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT},
    },
    helpers::generated::bpf_jiffies64,
    macros::{map, xdp},
    maps::{Array, PerCpuArray, RingBuf, XskMap},
    programs::XdpContext,
};
use cache_ebpf::{
    event::{EVENTS_BYTES, Event},
    lists::{COVER4_WORDS, COVER6_WORDS, EXACT_BUCKETS, ExactBucket, MARKS4_WORDS, holds},
    maps::{CidKeys, Counters, Extra, LAYOUT, MAX_QUEUES, Rules},
    meter,
    packet::Packet,
    reason::Reason,
    tables::Tables,
    verdict::{Given, Seen, Verdict, decide},
};

#[map]
static RULES: Array<Rules> = Array::with_max_entries(1, 0);

#[map]
static CID_KEYS: Array<CidKeys> = Array::with_max_entries(1, 0);

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

#[map]
static XSKMAP: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

#[map]
static MARKS4: Array<u64> = Array::with_max_entries(2 * MARKS4_WORDS, BPF_F_MMAPABLE);

#[map]
static COVER4: Array<u64> = Array::with_max_entries(2 * COVER4_WORDS, BPF_F_MMAPABLE);

#[map]
static COVER6: Array<u64> = Array::with_max_entries(2 * COVER6_WORDS, BPF_F_MMAPABLE);

#[map]
static EXACT: Array<ExactBucket> = Array::with_max_entries(2 * EXACT_BUCKETS, BPF_F_MMAPABLE);

#[map]
static BUCKETS: Array<meter::Bucket> = Array::with_max_entries(meter::BUCKETS, 0);

/// Where the steps of a decision leave what they found. Of no use to anyone else, so not pinned.
#[map]
static SEEN: PerCpuArray<Seen> = PerCpuArray::with_max_entries(1, 0);

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// The tables as they lie in the maps.
struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn marks4(&self, index: u32) -> u64 {
        MARKS4.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn cover4(&self, index: u32) -> u64 {
        COVER4.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn cover6(&self, index: u32) -> u64 {
        COVER6.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn exact(&self, index: u32, entry: u64) -> u64 {
        EXACT.get(index).map_or(0, |bucket| holds(bucket, entry))
    }

    #[inline(always)]
    fn bucket(&mut self, index: u32) -> Option<&mut meter::Bucket> {
        let bucket = BUCKETS.get_ptr_mut(index)?;
        // SAFETY: the value of an array lies there for as long as the map does. Another CPU may
        // write the same bucket: plain words, of which any mixture is a bucket.
        Some(unsafe { &mut *bucket })
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        // SAFETY: takes nothing and reads the kernel's tick.
        unsafe { bpf_jiffies64() as u32 }
    }
}

/// Verdict on one frame. Whatever goes wrong in here, the frame goes on to the kernel.
#[xdp]
pub fn popcache_xdp(ctx: XdpContext) -> u32 {
    let (Some(rules), Some(keys)) = (RULES.get(0), CID_KEYS.get(0)) else {
        return XDP_PASS;
    };
    let (Some(counters), Some(seen)) = (COUNTERS.get_ptr_mut(0), SEEN.get_ptr_mut(0)) else {
        return XDP_PASS;
    };
    // SAFETY: this CPU's value; nothing else on this CPU touches it while the program runs.
    let counters = unsafe { &mut *counters };
    let packet = || {
        // SAFETY: the kernel keeps data..data_end readable while the program runs.
        unsafe {
            Packet::new(
                ctx.data() as *const u8,
                ctx.data_end() as *const u8,
                rules.lists.nothing(),
            )
        }
    };

    if rules.layout != LAYOUT {
        return mismatch(&ctx, rules, counters);
    }
    let given = Given {
        queue: ctx.rx_queue_index(),
        rules,
        keys,
    };
    // SAFETY: as with the counters.
    let seen = unsafe { &mut *seen };
    let verdict = decide(packet, given, &mut Maps, counters, seen);
    if seen.told.is_some() {
        tell(packet(), seen, counters);
    }
    match verdict {
        Verdict::Drop => XDP_DROP,
        Verdict::Pass => XDP_PASS,
        Verdict::Redirect { queue } => redirect(queue, counters),
    }
}

/// Puts a matching packet into the ring.
#[inline(never)]
fn tell(packet: Packet<'_>, seen: &Seen, counters: &mut Counters) {
    let Some(event) = Event::new(&packet, seen) else {
        return;
    };
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
        }
        None => counters.count_extra(Extra::EventLost),
    }
}

/// Maps of another layout: says so at the first packet of each CPU and passes all of them.
///
/// Not `#[cold]`, which would put it into a section of its own: aya links calls within one.
#[inline(never)]
fn mismatch(ctx: &XdpContext, rules: &Rules, counters: &mut Counters) -> u32 {
    if counters.count(Reason::LayoutMismatch) == 0 {
        aya_log_ebpf::warn!(
            ctx,
            "maps have layout {}, this program wants {}: every packet passes",
            rules.layout,
            LAYOUT
        );
    }
    XDP_PASS
}

#[inline(always)]
fn redirect(queue: u32, counters: &mut Counters) -> u32 {
    match XSKMAP.redirect(queue, XDP_PASS as u64) {
        Ok(_) => {
            counters.count_extra(Extra::Redirected);
            XDP_REDIRECT
        }
        Err(_) => {
            counters.count_extra(Extra::SocketMissing);
            XDP_PASS
        }
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel wants to know it; no helper used here is reserved to GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
