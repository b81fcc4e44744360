//! HTTP decisions as pure functions.
pub mod key;
