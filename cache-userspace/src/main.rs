//! The program `popcache`. Everything is in the library.

/// QUIC allocates for every stream and packet; this allocator keeps those on their thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cache_userspace::cli::main()
}
