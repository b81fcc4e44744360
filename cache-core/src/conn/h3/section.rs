//! A decoded and validated request head (RFC 9114 sections 4.2 and 4.3), in memory that is used
//! again and again.
//!
//! ```text
//!  buf:    |GET|https|edge.test|/a.png|sec-ch-ua|"Chromium"...|   decoded strings, end to end
//!  fields:  name: static entry or span of buf, value: span of buf
//!  pseudo:  spans of buf, one for each of the four
//! ```

use super::error::H3Error;
use super::error::QPACK_DECOMPRESSION_FAILED;
use super::qpack::huffman::SLACK;
use super::qpack::{DecodeError, Line, Lines, Name, Text, static_table};
use crate::io::ClientRequest;
use http::Method;

/// Scratch of a shard: holds one request's fields until the next request is read into it. The
/// default one takes no memory and has room for nothing: what to leave in the place of another.
#[derive(Debug, Default)]
pub struct FieldSection {
    limit: usize,
    buf: Vec<u8>,
    used: usize,
    /// Size so far as RFC 9114 section 4.2.2 counts.
    size: usize,
    fields: Vec<Field>,
    /// Bit `min(length of name, 63)` of every field, so that most lookups of absent fields end
    /// before they begin.
    name_lengths: u64,
    pseudo: [Option<Span>; 4],
    host: Option<Span>,
    content_length: Option<u64>,
}

/// Iterates over name and value of the regular (not pseudo) fields, in order.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    buf: &'a [u8],
    fields: std::slice::Iter<'a, Field>,
}

/// Why a section was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionError {
    Invalid(H3Error),
    /// Larger than the limit.
    TooLarge,
}

/// What the name of a pseudo-field is counted as when it did not come with one.
const PSEUDO_NAME: usize = 10;

/// RFC 9114 section 4.2.2.
const FIELD_OVERHEAD: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: FieldName,
    value: Span,
}

#[derive(Clone, Copy, Debug)]
enum FieldName {
    Static(u8),
    Literal(Span),
}

/// Pseudo-fields of requests, indexes into [`FieldSection::pseudo`].
#[derive(Clone, Copy, Debug)]
enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
}

impl FieldSection {
    /// Room for sections of up to `limit` bytes, counted as RFC 9114 section 4.2.2 does. All
    /// memory is taken here but for the list of fields, which grows once to at most `limit / 32`.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(u32::MAX as usize - SLACK);
        Self {
            limit,
            buf: vec![0; limit + SLACK],
            fields: Vec::with_capacity(limit.div_ceil(FIELD_OVERHEAD).min(64)),
            ..Self::default()
        }
    }

    /// The limit given to [`Self::new`].
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A token, never empty.
    pub fn method(&self) -> &[u8] {
        self.pseudo(Pseudo::Method)
    }

    /// `https` or `http`; empty for CONNECT.
    pub fn scheme(&self) -> &[u8] {
        self.pseudo(Pseudo::Scheme)
    }

    /// `:authority`, or Host where there is no `:authority`. Never empty; bytes of a host and port
    /// only, but whether they form one is decided by [`crate::http::key::write_key`].
    pub fn authority(&self) -> &[u8] {
        match self.pseudo(Pseudo::Authority) {
            [] => self.host.map_or(&[], |span| self.bytes(span)),
            authority => authority,
        }
    }

    /// Path and query, beginning with `/`; or `*`, for OPTIONS only; empty for CONNECT.
    pub fn path(&self) -> &[u8] {
        self.pseudo(Pseudo::Path)
    }

    /// The declared length of the request's body.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The regular fields (lower-case names), without Host.
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            buf: &self.buf,
            fields: self.fields.iter(),
        }
    }

    /// The first value of a field; `name` in lower case. Host is not among the fields.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        if self.name_lengths & length_bit(name.len()) == 0 {
            return None;
        }
        self.fields().find(|&(n, _)| n == name).map(|(_, v)| v)
    }

    fn pseudo(&self, which: Pseudo) -> &[u8] {
        self.pseudo[which as usize].map_or(&[], |span| self.bytes(span))
    }

    fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.buf)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.fields.next()?;
        Some((field.name.of(self.buf), field.value.of(self.buf)))
    }
}

/// Reading a request into the section.
impl FieldSection {
    /// Replaces the content with a request that HTTP/1.1 or HTTP/2 brought, which is held to the same
    /// rules. `Err(None)`: it is larger than the limit.
    pub fn read_plain(&mut self, request: &ClientRequest) -> Result<(), Option<H3Error>> {
        let read = self.copy_plain(request);
        let read = read.and_then(|()| self.check_request().map_err(SectionError::Invalid));
        read.map_err(|error| match error {
            SectionError::Invalid(error) => Some(error),
            SectionError::TooLarge => None,
        })
    }

    fn copy_plain(&mut self, request: &ClientRequest) -> Result<(), SectionError> {
        self.clear();
        let scheme: &[u8] = if request.secure { b"https" } else { b"http" };
        let all = [
            (Pseudo::Method, request.method.as_str().as_bytes()),
            (Pseudo::Authority, &request.authority),
            (Pseudo::Scheme, scheme),
            (Pseudo::Path, &request.target),
        ];
        // CONNECT has no more than the first two.
        let count = if request.method == Method::CONNECT {
            2
        } else {
            4
        };
        for &(which, value) in &all[..count] {
            // As long as `:authority`, or nearly.
            let value = self.store_value(PSEUDO_NAME, Text::Plain(value))?;
            self.add_pseudo(which, value)?;
        }
        for (name, value) in &request.headers {
            let (name, _) = self.store(Text::Plain(name.as_str().as_bytes()))?;
            let value = self.store_value(name.len as usize, Text::Plain(value.as_bytes()))?;
            self.add_literal(name, value)?;
        }
        Ok(())
    }

    /// Replaces the content with the fields of a request. After an error the content is whatever
    /// was read until then, and must not be used.
    pub(super) fn read_request(&mut self, section: &[u8]) -> Result<(), SectionError> {
        self.clear();
        let mut lines = Lines::new(section)?;
        while let Some(line) = lines.next_line()? {
            self.add(line)?;
        }
        self.check_request().map_err(SectionError::Invalid)
    }

    fn clear(&mut self) {
        self.used = 0;
        self.size = 0;
        self.fields.clear();
        self.name_lengths = 0;
        self.pseudo = [None; 4];
        self.host = None;
        self.content_length = None;
    }

    fn add(&mut self, line: Line<'_>) -> Result<(), SectionError> {
        match line.name {
            Name::Static(index) => {
                let name = static_table::ENTRIES[index as usize].0;
                let value = self.store_value(name.len(), line.value)?;
                self.add_static(index, value)?;
            }
            Name::Literal(text) => {
                let (name, _) = self.store(text)?;
                let value = self.store_value(name.len as usize, line.value)?;
                self.add_literal(name, value)?;
            }
        }
        Ok(())
    }

    /// Names of the static table are well-formed, and none is connection-specific.
    fn add_static(&mut self, index: u8, value: Span) -> Result<(), H3Error> {
        let name = FieldName::Static(index);
        match index {
            0 => self.add_pseudo(Pseudo::Authority, value),
            1 => self.add_pseudo(Pseudo::Path, value),
            15..=21 => self.add_pseudo(Pseudo::Method, value),
            22 | 23 => self.add_pseudo(Pseudo::Scheme, value),
            24..=28 | 63..=71 => Err(H3Error::message("pseudo-field not defined for requests")),
            4 => self.add_content_length(name, value),
            _ => {
                self.push_field(name, value);
                Ok(())
            }
        }
    }

    fn add_literal(&mut self, name: Span, value: Span) -> Result<(), H3Error> {
        let bytes = self.bytes(name);
        if bytes.first() == Some(&b':') {
            return self.add_pseudo(pseudo_of(bytes)?, value);
        }
        check_name(bytes)?;
        match bytes {
            b"host" if self.host.is_some() => Err(H3Error::message("Host appears twice")),
            b"host" => {
                self.host = Some(value);
                Ok(())
            }
            b"content-length" => self.add_content_length(FieldName::Literal(name), value),
            _ => {
                check_connection_specific(bytes, self.bytes(value))?;
                self.push_field(FieldName::Literal(name), value);
                Ok(())
            }
        }
    }

    fn add_content_length(&mut self, name: FieldName, value: Span) -> Result<(), H3Error> {
        if self.content_length.is_some() {
            return Err(H3Error::message("Content-Length appears twice"));
        }
        let length = parse_content_length(self.bytes(value))
            .ok_or(H3Error::message("Content-Length is not a number"))?;
        self.content_length = Some(length);
        self.push_field(name, value);
        Ok(())
    }

    fn push_field(&mut self, name: FieldName, value: Span) {
        self.name_lengths |= length_bit(name.of(&self.buf).len());
        self.fields.push(Field { name, value });
    }

    fn add_pseudo(&mut self, which: Pseudo, value: Span) -> Result<(), H3Error> {
        if !self.fields.is_empty() || self.host.is_some() {
            return Err(H3Error::message("pseudo-field after a regular field"));
        }
        if self.pseudo[which as usize].replace(value).is_some() {
            return Err(H3Error::message("pseudo-field appears twice"));
        }
        Ok(())
    }

    /// Stores a value, checks its bytes, and counts the field whose name is `name_len` long.
    fn store_value(&mut self, name_len: usize, text: Text<'_>) -> Result<Span, SectionError> {
        let (value, may_hold_controls) = self.store(text)?;
        check_value(self.bytes(value), may_hold_controls)?;
        self.size += name_len + value.len as usize + FIELD_OVERHEAD;
        if self.size > self.limit {
            return Err(SectionError::TooLarge);
        }
        Ok(value)
    }

    /// Stores a string; false when it is known to hold no control characters.
    #[inline]
    fn store(&mut self, text: Text<'_>) -> Result<(Span, bool), SectionError> {
        let decoded = text.decode(&mut self.buf[self.used..])?;
        let span = Span {
            start: self.used as u32,
            len: decoded.len as u32,
        };
        self.used += decoded.len;
        Ok((span, decoded.rare))
    }

    /// What only the whole request can show (RFC 9114 section 4.3.1).
    fn check_request(&self) -> Result<(), H3Error> {
        let [method, scheme, authority, path] = self.pseudo.map(|span| span.is_some());
        if !method || !is_token(self.method()) {
            return Err(H3Error::message(":method is missing or no token"));
        }
        self.check_authority()?;
        if self.method() == b"CONNECT" {
            if scheme || path || !authority {
                return Err(H3Error::message("CONNECT takes :authority alone"));
            }
            return Ok(());
        }
        if !matches!(self.scheme(), b"https" | b"http") {
            return Err(H3Error::message(":scheme is missing or not https"));
        }
        self.check_path()
    }

    fn check_authority(&self) -> Result<(), H3Error> {
        let authority = self.authority();
        if authority.is_empty()
            || !authority
                .iter()
                .all(|&b| BYTES[b as usize] & AUTHORITY != 0)
        {
            return Err(H3Error::message("authority is missing or malformed"));
        }
        if self.pseudo[Pseudo::Authority as usize].is_some()
            && self.host.is_some_and(|host| self.bytes(host) != authority)
        {
            return Err(H3Error::message(":authority and Host differ"));
        }
        Ok(())
    }

    fn check_path(&self) -> Result<(), H3Error> {
        match self.path() {
            b"*" if self.method() == b"OPTIONS" => Ok(()),
            path @ [b'/', ..] if path.iter().all(|&b| b > b' ' && b != 0x7f) => Ok(()),
            _ => Err(H3Error::message(":path is missing or malformed")),
        }
    }
}

/// Validates a trailer section (RFC 9114 section 4.1) of at most `limit` bytes, keeping nothing.
pub(super) fn check_trailers(section: &[u8], limit: usize) -> Result<(), SectionError> {
    // Five bits are the shortest code, so nothing decodes to more than this.
    let mut scratch = FieldSection::new(limit.min(section.len() * 8 / 5 + FIELD_OVERHEAD));
    scratch.limit = limit;
    let mut lines = Lines::new(section)?;
    while let Some(line) = lines.next_line()? {
        scratch.used = 0;
        let is_pseudo = match line.name {
            Name::Static(index) => static_table::ENTRIES[index as usize].0[0] == b':',
            Name::Literal(Text::Plain(name)) => name.first() == Some(&b':'),
            // ':' is 1011100 in the Huffman code.
            Name::Literal(Text::Huffman(name)) => name.first().is_some_and(|b| b >> 1 == 0x5c),
        };
        if is_pseudo {
            return Err(H3Error::message("pseudo-field in trailers").into());
        }
        scratch.add(line)?;
    }
    Ok(())
}

fn pseudo_of(name: &[u8]) -> Result<Pseudo, H3Error> {
    match name {
        b":method" => Ok(Pseudo::Method),
        b":scheme" => Ok(Pseudo::Scheme),
        b":authority" => Ok(Pseudo::Authority),
        b":path" => Ok(Pseudo::Path),
        _ => Err(H3Error::message("pseudo-field not defined for requests")),
    }
}

/// RFC 9114 section 4.2: a token in lower case.
fn check_name(name: &[u8]) -> Result<(), H3Error> {
    if !name.is_empty() && name.iter().all(|&b| BYTES[b as usize] & NAME != 0) {
        return Ok(());
    }
    Err(H3Error::message("field name is not a lower-case token"))
}

/// RFC 9110 section 5.5: no control characters but tab, no space at the ends.
#[inline]
fn check_value(value: &[u8], may_hold_controls: bool) -> Result<(), H3Error> {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if may_hold_controls && holds_controls(value) || blank(value.first()) || blank(value.last()) {
        return Err(H3Error::message("field value has forbidden characters"));
    }
    Ok(())
}

fn holds_controls(value: &[u8]) -> bool {
    let control = |b: u8| (b < b' ') & (b != b'\t') | (b == 0x7f);
    value.iter().fold(false, |any, &b| any | control(b))
}

/// RFC 9114 section 4.2: fields of HTTP/1.1 connections make a request malformed.
fn check_connection_specific(name: &[u8], value: &[u8]) -> Result<(), H3Error> {
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Err(H3Error::message("connection-specific field"))
        }
        b"te" if value != b"trailers" => Err(H3Error::message("TE is not trailers")),
        _ => Ok(()),
    }
}

fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| BYTES[b as usize] & TOKEN != 0)
}

/// RFC 9110 section 5.6.2.
const TOKEN: u8 = 1;
/// A token byte that is no capital letter.
const NAME: u8 = 2;
/// A byte of a host and port (RFC 3986 section 3.2); user information is not among them (RFC 9114
/// section 4.3.1).
const AUTHORITY: u8 = 4;

/// What each byte may be part of.
const BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u8;
    while byte < 128 {
        let alphanumeric = byte.is_ascii_alphanumeric();
        let sub_delim = matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'*' | b'+');
        let unreserved = matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%');
        let token = alphanumeric || sub_delim || unreserved;
        if token || matches!(byte, b'#' | b'^' | b'`' | b'|') {
            table[byte as usize] |= TOKEN;
            if !byte.is_ascii_uppercase() {
                table[byte as usize] |= NAME;
            }
        }
        if token || matches!(byte, b'(' | b')' | b',' | b';' | b'=' | b':' | b'[' | b']') {
            table[byte as usize] |= AUTHORITY;
        }
        byte += 1;
    }
    table
};

fn length_bit(len: usize) -> u64 {
    1 << len.min(63)
}

impl Span {
    #[inline]
    fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..][..self.len as usize]
    }
}

impl FieldName {
    #[inline]
    fn of(self, buf: &[u8]) -> &[u8] {
        match self {
            Self::Static(index) => static_table::ENTRIES[index as usize].0,
            Self::Literal(span) => span.of(buf),
        }
    }
}

impl From<H3Error> for SectionError {
    fn from(error: H3Error) -> Self {
        Self::Invalid(error)
    }
}

impl From<DecodeError> for SectionError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLong => Self::TooLarge,
            DecodeError::Failed(reason) => {
                Self::Invalid(H3Error::connection(QPACK_DECOMPRESSION_FAILED, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests;
