//! Frames of a classic pcap file (not pcapng), of Ethernet.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Frames taken of one file.
pub const MAX_FRAMES: usize = 65_536;
/// Bytes of a frame: what one page of an XDP frame or an AF_XDP frame has room for.
pub const MAX_FRAME: usize = 2000;

const HEADER: usize = 24;
const RECORD: usize = 16;
const ETHERNET: u32 = 1;

/// The frames of a file.
///
/// # Errors
/// Not a pcap of Ethernet, a frame that was cut short or is too long, or none or too many.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    frames(&bytes).with_context(|| format!("{}", path.display()))
}

fn frames(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (header, mut rest) = bytes
        .split_first_chunk::<HEADER>()
        .context("it is too short for a pcap file")?;
    let word = |bytes: &[u8], at: usize| -> [u8; 4] { [0, 1, 2, 3].map(|n| bytes[at + n]) };
    // With times in microseconds or nanoseconds, of which neither matters here.
    let number: fn([u8; 4]) -> u32 = match u32::from_le_bytes(word(header, 0)) {
        0xa1b2_c3d4 | 0xa1b2_3c4d => u32::from_le_bytes,
        0xd4c3_b2a1 | 0x4d3c_b2a1 => u32::from_be_bytes,
        _ => anyhow::bail!("it is not a classic pcap file: convert it with `editcap -F pcap`"),
    };
    let link = number(word(header, 20)) & 0x0fff_ffff;
    ensure!(
        link == ETHERNET,
        "its link type is {link}: only Ethernet (1) can be sent"
    );
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let n = frames.len() + 1;
        let (record, after) = rest
            .split_first_chunk::<RECORD>()
            .with_context(|| format!("it ends within the header of frame {n}"))?;
        let kept = number(word(record, 8)) as usize;
        let long = number(word(record, 12)) as usize;
        ensure!(kept == long, "frame {n} was cut to {kept} of {long} bytes");
        ensure!(
            kept <= MAX_FRAME,
            "frame {n} has {kept} bytes: at most {MAX_FRAME} can be sent"
        );
        ensure!(n <= MAX_FRAMES, "it has more than {MAX_FRAMES} frames");
        let (frame, after) = after
            .split_at_checked(kept)
            .with_context(|| format!("it ends within frame {n}"))?;
        frames.push(frame.to_vec());
        rest = after;
    }
    ensure!(!frames.is_empty(), "it has no frames");
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(bytes: fn(u32) -> [u8; 4], link: u32, lengths: &[(u32, u32)]) -> Vec<u8> {
        let mut file = bytes(0xa1b2_c3d4).to_vec();
        file.extend([0; 16]);
        file.extend(bytes(link));
        for (kept, long) in lengths {
            file.extend([0; 8]);
            file.extend(bytes(*kept));
            file.extend(bytes(*long));
            file.resize(file.len() + *kept as usize, 7);
        }
        file
    }

    #[test]
    fn both_byte_orders_are_read() {
        for bytes in [u32::to_le_bytes, u32::to_be_bytes] {
            let frames = frames(&capture(bytes, 1, &[(60, 60), (100, 100)])).expect("valid");
            assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [60, 100]);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_its_reason() {
        let le = u32::to_le_bytes;
        let cases: [(Vec<u8>, &str); 8] = [
            (vec![1; 10], "too short"),
            (vec![1; 24], "not a classic pcap"),
            (capture(le, 113, &[(60, 60)]), "link type is 113"),
            (capture(le, 1, &[]), "no frames"),
            (capture(le, 1, &[(60, 90)]), "cut to 60 of 90"),
            (capture(le, 1, &[(2001, 2001)]), "2001 bytes"),
            (
                capture(le, 1, &[(60, 60)])[..70].to_vec(),
                "ends within frame 1",
            ),
            (
                [capture(le, 1, &[(60, 60)]), vec![0; 3]].concat(),
                "header of frame 2",
            ),
        ];
        for (file, reason) in cases {
            let error = frames(&file).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_captures_of_real_clients_are_read() {
        let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache-ebpf/tests/captures");
        let frames = read(&captures.join("curl.pcap")).expect("valid");
        assert!(frames.len() > 5 && frames[0].len() >= 1200);
    }
}
