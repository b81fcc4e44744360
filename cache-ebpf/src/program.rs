//! The entry point in the kernel and the maps that it declares.

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_REDIRECT},
    macros::{map, xdp},
    maps::{Array, PerCpuArray, XskMap},
    programs::XdpContext,
};
use cache_ebpf::{
    maps::{CidKeys, Counters, Extra, LAYOUT, MAX_QUEUES, Rules},
    packet::Packet,
    reason::Reason,
    verdict::{Verdict, decide},
};

#[map]
static RULES: Array<Rules> = Array::with_max_entries(1, 0);

#[map]
static CID_KEYS: Array<CidKeys> = Array::with_max_entries(1, 0);

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

#[map]
static XSKMAP: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

/// Verdict on one frame. Whatever goes wrong in here, the frame goes on to the kernel.
#[xdp]
pub fn popcache_xdp(ctx: XdpContext) -> u32 {
    let (Some(rules), Some(keys), Some(counters)) =
        (RULES.get(0), CID_KEYS.get(0), COUNTERS.get_ptr_mut(0))
    else {
        return XDP_PASS;
    };
    // SAFETY: this CPU's value; nothing else on this CPU touches it while the program runs.
    let counters = unsafe { &mut *counters };
    // SAFETY: the kernel keeps data..data_end readable while the program runs.
    let packet = unsafe { Packet::new(ctx.data() as *const u8, ctx.data_end() as *const u8) };

    if rules.layout != LAYOUT {
        return mismatch(&ctx, rules, counters);
    }
    let decision = decide(&packet, ctx.rx_queue_index(), rules, keys);
    decision.count(counters);
    match decision.verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Redirect { queue } => redirect(queue, counters),
    }
}

/// Maps of another layout: says so at the first packet of each CPU and passes all of them.
#[cold]
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
