//! The program `popcache`. Everything is in the library.

fn main() -> std::process::ExitCode {
    cache_userspace::cli::main()
}
