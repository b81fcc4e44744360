//! What a silent connection holds. Alone in its process, since the heap is all threads'.

use popcache_bench::path::heap_of_idle;

/// Bytes of the heap.
const BOUND: u64 = 12 << 10;

#[test]
fn a_silent_connection_holds_little() {
    let held = heap_of_idle(400).expect("answers");
    println!("{held} bytes of heap for a silent connection");
    assert!(held > 1 << 10, "{held}: something was not counted");
    assert!(held <= BOUND, "{held}");
}
