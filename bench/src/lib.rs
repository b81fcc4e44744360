//! Load generators, baselines and benchmarks of popcache.
//!
//! ```text
//! origin      demo origin whose every byte is known beforehand
//! load        HTTP/3 load generator: closed loop, open loop, herd
//! baseline    quinn + h3 + tokio server, the ecosystem's default
//! bridge      HTTP/1.1 in, HTTP/3 out, for test suites
//! gen         packet generator: XDP live frames, AF_XDP, UDP
//! nginx       Debian 13's nginx in a private root
//!
//! hit herd range handshake idle scale  the benchmarks of the whole
//! path        the benchmark of a shard with its clients, without kernel and network
//! engine      the benchmark of index, memory and eviction
//! tier        the benchmark of the tier on drives
//! xdp         the benchmark of the XDP guard
//! site        what they run on: network, origin, servers that take turns
//! net         namespace and veth pairs
//! process     servers as child processes
//! figures     rows, table, JSON
//!
//! bpf         XDP programs in the kernel
//! progress    a line a second
//! cpu         processor time and memory of processes, pinning
//! heap        memory of this process
//! identity    self-signed certificates
//! place       where generated things are kept
//! ```

pub mod baseline;
pub mod bpf;
pub mod bridge;
pub mod cpu;
pub mod engine;
pub mod figures;
pub mod floor;
pub mod r#gen;
pub mod handshake;
pub mod heap;
pub mod herd;
pub mod hit;
pub mod identity;
pub mod idle;
pub mod load;
pub mod net;
pub mod nginx;
pub mod origin;
pub mod path;
pub mod place;
pub mod process;
pub mod progress;
pub mod range;
pub mod rounds;
pub mod scale;
pub mod site;
pub mod tier;
pub mod xdp;
