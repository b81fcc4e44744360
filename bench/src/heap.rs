//! Bytes that this process has from the C library's allocator, which in the benchmarks is Rust's too.

/// Bytes in use, of all threads.
pub fn in_use() -> u64 {
    // SAFETY: `mallinfo2` takes nothing, reads the allocator's own counters under its locks, and returns them by value.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks as u64 + info.hblkhd as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted() {
        const SIZE: usize = 64 << 20;
        let before = in_use();
        let taken = std::hint::black_box(vec![1_u8; SIZE]);
        // Other tests take and give back less than this meanwhile.
        assert!(in_use() > before + SIZE as u64 / 2);
        drop(taken);
    }
}
