//! QPACK (RFC 9204) with a dynamic table of capacity 0 in both directions.
//!
//! Without a dynamic table a field section stands alone: a two-byte prefix, then one line per
//! field, each a reference to the static table, a reference with a literal value, or two literals.

pub mod huffman;
pub mod static_table;

mod decode;
mod encode;

pub use decode::{DecodeError, Line, Lines, Name, Text};
pub use encode::{
    write_field, write_name_reference, write_plain_field, write_prefix, write_prefixed_int,
};
