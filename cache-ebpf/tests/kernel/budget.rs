//! The program as the kernel sees it: accepted by the verifier, and small.

use crate::support::Kernel;

/// Instructions that the verifier may have to walk; its own limit is a million.
const MAX_VERIFIED: u32 = 50_000;

/// Bytes of machine code: half of a first-level instruction cache.
const MAX_JITED: u32 = 16 << 10;

#[test]
fn the_verifier_and_the_jit_stay_within_budget() {
    let kernel = Kernel::load();
    let info = kernel
        .program()
        .info()
        .expect("the program has information");
    let verified = info
        .verified_instruction_count()
        .expect("reported since Linux 5.16");
    let jited = info.size_jitted();
    let translated = info.size_translated().unwrap_or(0);
    println!(
        "verified {verified} instructions; {translated} bytes of BPF, {jited} of machine code"
    );
    assert!(verified < MAX_VERIFIED, "{verified}");
    assert!(
        jited > 0,
        "the JIT is off: set /proc/sys/net/core/bpf_jit_enable to 1"
    );
    assert!(jited < MAX_JITED, "{jited}");
}
