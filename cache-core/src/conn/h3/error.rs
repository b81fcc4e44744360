//! Error codes of RFC 9114 section 8.1 and RFC 9204 section 6.

use std::fmt;

pub const H3_NO_ERROR: u64 = 0x100;
pub const H3_GENERAL_PROTOCOL_ERROR: u64 = 0x101;
pub const H3_INTERNAL_ERROR: u64 = 0x102;
pub const H3_STREAM_CREATION_ERROR: u64 = 0x103;
pub const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
pub const H3_FRAME_UNEXPECTED: u64 = 0x105;
pub const H3_FRAME_ERROR: u64 = 0x106;
pub const H3_EXCESSIVE_LOAD: u64 = 0x107;
pub const H3_ID_ERROR: u64 = 0x108;
pub const H3_SETTINGS_ERROR: u64 = 0x109;
pub const H3_MISSING_SETTINGS: u64 = 0x10a;
pub const H3_REQUEST_REJECTED: u64 = 0x10b;
pub const H3_REQUEST_CANCELLED: u64 = 0x10c;
pub const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
pub const H3_MESSAGE_ERROR: u64 = 0x10e;
pub const H3_CONNECT_ERROR: u64 = 0x10f;
pub const H3_VERSION_FALLBACK: u64 = 0x110;
pub const QPACK_DECOMPRESSION_FAILED: u64 = 0x200;
pub const QPACK_ENCODER_STREAM_ERROR: u64 = 0x201;
pub const QPACK_DECODER_STREAM_ERROR: u64 = 0x202;

/// What an error ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Close the connection with the code.
    Connection,
    /// Reset and stop the stream with the code; the connection goes on.
    Stream,
}

/// A violation by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H3Error {
    /// One of the constants of this module.
    pub code: u64,
    pub scope: Scope,
    /// For the log and for CONNECTION_CLOSE.
    pub reason: &'static str,
}

impl H3Error {
    /// An error that closes the connection.
    pub const fn connection(code: u64, reason: &'static str) -> Self {
        Self {
            code,
            scope: Scope::Connection,
            reason,
        }
    }

    /// An error that ends one stream.
    pub const fn stream(code: u64, reason: &'static str) -> Self {
        Self {
            code,
            scope: Scope::Stream,
            reason,
        }
    }

    /// A malformed request (RFC 9114 section 4.1.2).
    pub(crate) const fn message(reason: &'static str) -> Self {
        Self::stream(H3_MESSAGE_ERROR, reason)
    }
}

impl fmt::Display for H3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: {}", self.code, self.reason)
    }
}

impl std::error::Error for H3Error {}
