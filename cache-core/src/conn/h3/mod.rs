//! HTTP/3 without I/O (RFC 9114), with QPACK that never uses a dynamic table (RFC 9204).
//!
//! ```text
//!  peer's unidirectional streams --> Connection    --> Event, our control stream's bytes
//!  one request stream ------------> RequestReader --> FieldSection (scratch of the shard)
//!  stored head + Age, Cache-Status -> head          --> bytes of the response stream
//!                                      '-- frame, qpack, huffman: the formats
//! ```
//!
//! Nothing here knows QUIC: a stream is a `u64` id or not named at all, and every bound is an
//! argument. A request whose HEADERS frame arrives in one chunk is read without an allocation.

pub mod error;
pub mod frame;
pub mod head;
pub mod priority;
pub mod qpack;

mod connection;
mod control;
mod request;
mod section;

#[cfg(test)]
pub(crate) mod samples;

pub use connection::{Connection, Event, Limits, goaway_frame};
pub use error::{H3Error, Scope};
pub use priority::Priority;
pub use request::{Progress, RequestReader};
pub use section::{FieldSection, Fields};
