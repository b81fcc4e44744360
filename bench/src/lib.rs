//! Load generators, baselines and benchmarks of popcache.
//!
//! ```text
//! origin      demo origin whose every byte is known beforehand
//! ```

pub mod origin;
pub mod place;
