//! End-to-end tests: the real binary, its XDP program on a real (virtual) NIC, and real clients.
//!
//! ```text
//!  namespace NAME-s                                          namespace NAME-c
//!  origin 127.0.0.1:8080 <- popcache 10.77.0.1:443 on pc0 ==== pc1  curl, aioquic, Chromium, load
//! ```
//!
//! Each test has its own pair of namespaces, so that nothing is shared with the machine or with
//! another test; a lock keeps two from running at once on the same two cores. They need root, the
//! clients that `cargo xtask setup` installs, and the binaries `popcache` and `popcache-bench`
//! (`cargo xtask test` builds them and says where they are in POPCACHE_BIN_DIR).

mod debian;
mod harness;
mod wire;
