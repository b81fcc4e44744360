//! HTTP decisions as pure functions: bytes and times in, decisions out.

pub mod cache_control;
pub mod cache_status;
mod candidates;
pub mod classes;
pub mod compress;
pub mod conditional;
pub mod explain;
pub mod forward;
pub mod freshen;
pub mod freshness;
pub mod interim;
pub mod invalidate;
pub mod key;
pub mod key_rules;
pub mod loops;
pub mod pattern;
pub mod proxy_status;
pub mod range;
pub mod request;
pub mod routes;
#[cfg(test)]
mod samples;
pub mod slices;
pub mod surrogate_key;
pub mod targeted;
pub mod vary;
pub mod wants;
pub mod withheld;

/// The decimal digits of `value`, written to the end of `digits`.
pub(crate) fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}
