//! A copy of the bytes of HTTP/1.1 heads, to see what hyper has mended before it hands a request on.
//!
//! A request with both Content-Length and Transfer-Encoding is read by the latter, and the former is
//! gone, as is a second Content-Length. Somebody before us may have gone by it, so such a request is
//! refused (RFC 9112 sections 6.1 and 6.3).

/// Bytes kept: more than the largest head.
const MAX_KEPT: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Heads {
    kept: Vec<u8>,
    /// More came than is kept.
    overflowed: bool,
}

impl Heads {
    /// Bytes from the client. Those before a blank line at the end of what was there are of a request
    /// that hyper has handed on by now: it reads no further while it has a whole head.
    pub fn read(&mut self, data: &[u8]) {
        if self.kept.ends_with(b"\n\r\n") || self.kept.ends_with(b"\n\n") {
            self.kept.clear();
            self.overflowed = false;
        }
        let room = MAX_KEPT.saturating_sub(self.kept.len());
        self.overflowed |= data.len() > room;
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
    }

    /// Some head in what is kept has two lengths, or may have.
    pub fn contradict(&self) -> bool {
        let mut head = Lengths::default();
        for line in self.kept.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match line {
                [] => head = Lengths::default(),
                _ => head.line(line),
            }
            if head.content_lengths + head.transfer_encodings > 1 {
                return true;
            }
        }
        self.overflowed
    }
}

#[derive(Default)]
struct Lengths {
    content_lengths: u32,
    transfer_encodings: u32,
}

impl Lengths {
    fn line(&mut self, line: &[u8]) {
        let is = |name: &[u8]| {
            let begin = line.get(..name.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name))
        };
        self.content_lengths += u32::from(is(b"content-length:"));
        self.transfer_encodings += u32::from(is(b"transfer-encoding:"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contradict(text: &[u8]) -> bool {
        let mut heads = Heads::default();
        for chunk in text.chunks(7) {
            heads.read(chunk);
        }
        heads.contradict()
    }

    #[test]
    fn both_lengths_in_one_head_are_seen() {
        let both = b"POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(contradict(both));
        let twice = b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n";
        assert!(contradict(twice));
        let bare = b"POST / HTTP/1.1\nTransfer-Encoding: chunked\ncontent-length: 5\n\n";
        assert!(contradict(bare));
    }

    #[test]
    fn one_of_them_is_no_contradiction() {
        let first = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        assert!(!contradict(first));
        let second = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        assert!(!contradict(second));
        assert!(!contradict(&[&first[..], b"\r\n", second].concat()));
    }

    #[test]
    fn what_was_handed_on_is_forgotten() {
        let mut heads = Heads::default();
        heads.read(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n");
        heads.read(b"Transfer-Encoding: chunked\r\n\r\n");
        assert!(heads.contradict());
        heads.read(b"0");
        assert!(!heads.contradict());
    }

    #[test]
    fn what_does_not_fit_counts_as_a_contradiction() {
        let mut heads = Heads::default();
        heads.read(&vec![b'a'; MAX_KEPT]);
        assert!(!heads.contradict());
        heads.read(b"b");
        assert!(heads.contradict());
    }
}
