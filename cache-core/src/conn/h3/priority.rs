//! Extensible priorities (RFC 9218): the `priority` field and PRIORITY_UPDATE carry the same text.

/// The urgency of what nobody has said anything about (RFC 9218 section 4.1).
pub const DEFAULT_URGENCY: u8 = 3;

/// The least urgent one.
pub const MAX_URGENCY: u8 = 7;

/// How a client wants a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority {
    /// 0 (first) to [`MAX_URGENCY`] (last), if it said so.
    pub urgency: Option<u8>,
    /// The response is useful in pieces, so it may share bandwidth with its equals.
    pub incremental: bool,
}

impl Priority {
    /// Reads a priority field value such as `u=1, i`. Unknown parameters and values out of range
    /// are ignored, as RFC 9218 section 4 demands; text that is no dictionary counts as absent.
    pub fn parse(value: &[u8]) -> Self {
        let mut priority = Self::default();
        for member in value.split(|&b| b == b',') {
            match member.trim_ascii() {
                [b'u', b'=', digit @ b'0'..=b'7'] => priority.urgency = Some(digit - b'0'),
                b"i" | b"i=?1" => priority.incremental = true,
                b"i=?0" => priority.incremental = false,
                _ => {}
            }
        }
        priority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_browsers_send() {
        let cases: [(&[u8], Option<u8>, bool); 10] = [
            (b"", None, false),
            (b"u=0", Some(0), false),
            (b"u=1, i", Some(1), true),
            (b"i", None, true),
            (b"i=?0,u=7", Some(7), false),
            (b"u=2, u=5", Some(5), false),
            (b"u=8", None, false),
            (b"u=-1", None, false),
            (b"x=1;y, u=5", Some(5), false),
            (b"\xff\x00,,", None, false),
        ];
        for (text, urgency, incremental) in cases {
            let want = Priority {
                urgency,
                incremental,
            };
            assert_eq!(Priority::parse(text), want, "{text:?}");
        }
    }
}
