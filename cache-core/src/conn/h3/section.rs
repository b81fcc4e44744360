//! A decoded and validated request head, in memory that is used again and again.

/// Scratch of a shard: holds one request's fields until the next request is read into it.
#[derive(Debug)]
pub struct FieldSection {
    limit: usize,
}

/// Iterates over name and value of the regular (not pseudo) fields, in order.
pub struct Fields<'a> {
    section: &'a FieldSection,
}

impl FieldSection {
    /// Room for sections of up to `limit` bytes, counted as RFC 9114 section 4.2.2 does.
    pub fn new(limit: usize) -> Self {
        Self { limit }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn method(&self) -> &[u8] {
        b"GET"
    }

    /// Empty for CONNECT.
    pub fn scheme(&self) -> &[u8] {
        b"https"
    }

    /// `:authority`, or Host where there is no `:authority`.
    pub fn authority(&self) -> &[u8] {
        b""
    }

    /// Path and query; `*` for OPTIONS at most; empty for CONNECT.
    pub fn path(&self) -> &[u8] {
        b"/"
    }

    /// The regular fields (lower-case names), without Host.
    pub fn fields(&self) -> Fields<'_> {
        Fields { section: self }
    }

    /// The first value of a field; `name` in lower case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let _ = name;
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.section;
        None
    }
}
