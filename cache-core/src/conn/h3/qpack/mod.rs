//! QPACK (RFC 9204) with a dynamic table of capacity 0 in both directions.

pub mod huffman;
pub mod static_table;
