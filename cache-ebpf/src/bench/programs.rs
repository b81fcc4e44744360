//! The entry points in the kernel and the maps that they declare.

use core::{marker::PhantomData, ptr::write_volatile};

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    helpers::generated::bpf_jiffies64,
    macros::{map, xdp},
    maps::{Array, DevMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
    programs::XdpContext,
};
use cache_ebpf::{
    meter::{self, Bucket, Cost, Meter, Meters},
    packet::Packet,
    parse::{self, Network},
    vary::{Frame, MAX_AT, Variation, vary},
};

#[map]
static VARIATION: Array<Variation> = Array::with_max_entries(1, 0);

/// The interface to send through. Of a map the kernel has it at hand; by its number it would look it up
/// for every frame.
#[map]
static OUT: DevMap = DevMap::with_max_entries(1, 0);

/// Frames that this CPU has made.
#[map]
static MADE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Frames and bytes that this CPU has swallowed.
#[map]
static SUNK: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The program that a varied packet is handed to.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Prefixes of IPv4, as a list of them is usually built.
#[map]
static PREFIXES: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(1 << 20, 0);

/// Sources, as a table of them is usually built: as many as the guard has buckets.
#[map]
static SOURCES: LruHashMap<u64, Bucket> = LruHashMap::with_max_entries(meter::BUCKETS, 0);

/// The frame of a context, to be written.
struct Written<'a> {
    start: *mut u8,
    end: *mut u8,
    context: PhantomData<&'a XdpContext>,
}

impl<'a> Written<'a> {
    #[inline(always)]
    fn of(ctx: &'a XdpContext) -> Self {
        Self {
            start: ctx.data() as *mut u8,
            end: ctx.data_end() as *mut u8,
            context: PhantomData,
        }
    }

    #[inline(always)]
    fn place<const N: usize>(&self, at: u16) -> Option<*mut [u8; N]> {
        if at > MAX_AT {
            return None;
        }
        let place = self.start.wrapping_add(at as usize);
        (place.wrapping_add(N) <= self.end).then_some(place.cast())
    }
}

impl Frame for Written<'_> {
    #[inline(always)]
    fn get<const N: usize>(&self, at: u16) -> Option<[u8; N]> {
        let place = self.place(at)?;
        // SAFETY: found to lie before the end of the frame, which the kernel keeps while the program
        // runs; bytes have no alignment.
        Some(unsafe { *place })
    }

    #[inline(always)]
    fn set<const N: usize>(&mut self, at: u16, bytes: [u8; N]) -> Option<()> {
        let place = self.place(at)?;
        // SAFETY: as above; an XDP program may write its frame.
        unsafe { *place = bytes };
        Some(())
    }
}

/// Makes the next frame out of this one.
#[inline(always)]
fn next_frame(ctx: &XdpContext) -> Option<()> {
    let variation = VARIATION.get(0)?;
    let made = MADE.get_ptr_mut(0)?;
    // SAFETY: this CPU's value; nothing else on this CPU touches it while the program runs.
    let n = unsafe {
        let n = *made;
        *made = n.wrapping_add(1);
        n
    };
    vary(&mut Written::of(ctx), variation, n)
}

/// Sends live frames through the interface.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    match next_frame(&ctx) {
        Some(()) => OUT.redirect(0, XDP_ABORTED.into()).unwrap_or(XDP_ABORTED),
        None => XDP_ABORTED,
    }
}

/// Counts and drops UDP; lets the rest, such as ARP, be.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let packet = packet(&ctx);
    let is_udp = is_udp(&packet);
    let Some(sunk) = SUNK.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    if !is_udp {
        return XDP_PASS;
    }
    // SAFETY: this CPU's value; nothing else on this CPU touches it while the program runs.
    let sunk = unsafe { &mut *sunk };
    sunk[0] = sunk[0].wrapping_add(1);
    sunk[1] = sunk[1].wrapping_add(packet.len() as u64);
    XDP_DROP
}

/// The least that a program can do.
#[xdp]
pub fn bare_drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// Draws another source, then runs the program under test.
#[xdp]
pub fn varied(ctx: XdpContext) -> u32 {
    if next_frame(&ctx).is_some() {
        // SAFETY: comes back only where there is no program.
        unsafe { NEXT.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

/// A block list as LPM_TRIE, and nothing else.
#[xdp]
pub fn lpm_trie(ctx: XdpContext) -> u32 {
    let Some(network) = network(&packet(&ctx)) else {
        return XDP_PASS;
    };
    let source = (network.source.low as u32).to_be_bytes();
    match PREFIXES.get(Key::new(32, source)) {
        Some(_) => XDP_DROP,
        None => XDP_PASS,
    }
}

/// A packet meter for each source in an LRU_HASH, and nothing else.
#[xdp]
pub fn lru_hash(ctx: XdpContext) -> u32 {
    const METERS: Meters = Meters {
        packets: Meter {
            per_tick: meter::PACKET,
            burst: 1000 * meter::PACKET,
        },
        ..Meters::NONE
    };
    let Some(network) = network(&packet(&ctx)) else {
        return XDP_PASS;
    };
    // SAFETY: takes nothing and reads the kernel's tick.
    let now = unsafe { bpf_jiffies64() as u32 };
    let cost = Cost {
        bytes: 0,
        opens: false,
        tcp: false,
    };
    let source = network.source.low;
    let over = match SOURCES.get_ptr_mut(source) {
        // SAFETY: the kernel keeps the entry while the program runs; another CPU may write the same
        // plain words.
        Some(bucket) => meter::charge(unsafe { &mut *bucket }, &METERS, now, cost),
        None => {
            let mut bucket = Bucket::default();
            let over = meter::charge(&mut bucket, &METERS, now, cost);
            let mut whole = Bucket::default();
            // The compiler may merge stores of neighbouring parts, which then lie askew: the verifier refuses that on
            // the stack.
            // SAFETY: a pointer to a local, valid and aligned.
            unsafe { write_volatile(&raw mut whole, bucket) };
            if SOURCES.insert(source, whole, 0).is_err() {
                return XDP_ABORTED;
            }
            over
        }
    };
    if over.packets() { XDP_DROP } else { XDP_PASS }
}

/// What this costs is in every figure of the generator, so that the usual packet is found out by one read.
#[inline(always)]
fn is_udp(packet: &Packet<'_>) -> bool {
    const AT: usize = 12;
    const IPV4_WITHOUT_OPTIONS: [u8; 3] = [0x08, 0x00, 0x45];
    const UDP: u8 = 17;
    match packet.read::<12>(AT) {
        Some([a, b, c, .., protocol]) if [a, b, c] == IPV4_WITHOUT_OPTIONS => protocol == UDP,
        _ => network(packet).is_some_and(|network| network.udp().is_ok()),
    }
}

#[inline(always)]
fn packet(ctx: &XdpContext) -> Packet<'_> {
    // SAFETY: the kernel keeps data..data_end readable while the program runs.
    unsafe { Packet::new(ctx.data() as *const u8, ctx.data_end() as *const u8, 0) }
}

#[inline(always)]
fn network(packet: &Packet<'_>) -> Option<Network> {
    parse::network(packet).ok()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel wants to know it; no helper used here is reserved to GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
