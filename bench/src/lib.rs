//! Load generators, baselines and benchmarks of popcache.
//!
//! ```text
//! origin      demo origin whose every byte is known beforehand
//! load        HTTP/3 load generator: closed loop, open loop, herd
//! baseline    quinn + h3 + tokio server, the ecosystem's default
//! cpu         processor time and memory of processes, pinning
//! identity    self-signed certificates
//! place       where generated things are kept
//! ```

pub mod baseline;
pub mod cpu;
pub mod identity;
pub mod load;
pub mod origin;
pub mod place;
