//! HTTP decisions as pure functions: bytes and times in, decisions out.

pub mod cache_control;
pub mod cache_status;
pub mod conditional;
pub mod forward;
pub mod freshness;
pub mod key;
pub mod request;
