//! Counts HTTP/2 frames that do nothing, in the bytes that a client sends (RFC 9113 section 4.1).
//!
//! hyper bounds what such frames can make it remember; this bounds the work that they make.

/// `PRI * HTTP/2.0 ...` (RFC 9113 section 3.4).
const PREFACE: u32 = 24;
const HEADER: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;

/// Follows the frames of one connection over read boundaries.
#[derive(Debug)]
pub struct Frames {
    /// Bytes to be read over before the next header.
    skip: u32,
    header: [u8; HEADER],
    len: usize,
    /// Something was sent since the last WINDOW_UPDATE, which is then of use.
    sent: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            len: 0,
            sent: false,
        }
    }
}

impl Frames {
    /// We sent something to the client.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// Takes the next bytes and returns how many idle frames began in them.
    pub fn read(&mut self, mut data: &[u8]) -> u32 {
        let mut idle = 0;
        while !data.is_empty() {
            let skipped = data.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            data = &data[skipped..];
            let taken = data.len().min(HEADER - self.len);
            self.header[self.len..self.len + taken].copy_from_slice(&data[..taken]);
            self.len += taken;
            data = &data[taken..];
            if self.len == HEADER {
                self.len = 0;
                idle += u32::from(self.is_idle());
            }
        }
        idle
    }

    fn is_idle(&mut self) -> bool {
        let [a, b, c, kind, ..] = self.header;
        self.skip = u32::from_be_bytes([0, a, b, c]);
        match kind {
            DATA => self.skip == 0,
            HEADERS => false,
            WINDOW_UPDATE => !std::mem::take(&mut self.sent),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, len: u32) -> Vec<u8> {
        let mut frame = len.to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.resize(HEADER + len as usize, 0x06);
        frame
    }

    #[test]
    fn idle_frames_are_counted_over_any_boundary() {
        let preface = vec![b'P'; PREFACE as usize];
        let stream = [
            preface,
            frame(0x4, 12),
            frame(HEADERS, 300),
            frame(DATA, 0),
            frame(DATA, 5),
            frame(0x6, 8),
            frame(0x3, 4),
        ]
        .concat();
        for size in [1, 3, 7, 9, 40, stream.len()] {
            let mut frames = Frames::default();
            let idle: u32 = stream.chunks(size).map(|chunk| frames.read(chunk)).sum();
            assert_eq!(idle, 4, "{size}");
        }
    }

    #[test]
    fn window_updates_for_what_was_sent_are_of_use() {
        let mut frames = Frames::default();
        frames.read(&[0; PREFACE as usize]);
        let update = frame(WINDOW_UPDATE, 4);
        assert_eq!(frames.read(&update), 1);
        frames.sent();
        assert_eq!(frames.read(&[&update[..], &update].concat()), 1);
    }
}
