//! popcache's shells: everything around the shards of cache-core that touches the machine.

pub mod admin;
pub mod certificates;
pub mod cli;
pub mod compress;
pub mod config;
pub mod explain;
pub mod guard;
pub mod journal;
pub mod metrics;
pub mod node;
pub mod privileges;
pub mod probe;
pub mod purging;
pub mod reload;
pub mod rt;
pub mod service;
pub mod sessions;
pub mod start;
pub mod status;
pub mod tcp;
pub mod tier_files;
pub mod tls_files;
pub mod tune;
pub mod upgrade;
pub mod upstream;
pub mod xdp;
