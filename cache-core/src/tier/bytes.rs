//! Little-endian fields, one after the other.

/// Reads fields. The caller has checked the length: past the end, fields read as 0.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        match self.bytes.split_first_chunk() {
            Some((field, rest)) => {
                self.bytes = rest;
                *field
            }
            None => {
                self.bytes = &[];
                [0; N]
            }
        }
    }

    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// Writes fields into bytes that are there.
#[derive(Debug)]
pub(super) struct Patch<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Patch<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn bytes(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    pub fn u16(&mut self, field: u16) {
        self.bytes(&field.to_le_bytes());
    }

    pub fn u32(&mut self, field: u32) {
        self.bytes(&field.to_le_bytes());
    }

    pub fn u64(&mut self, field: u64) {
        self.bytes(&field.to_le_bytes());
    }
}
