//! Extensible priorities (RFC 9218): the `priority` field and PRIORITY_UPDATE carry the same text.

/// How urgently a client wants a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// 0 (first) to 7 (last).
    pub urgency: u8,
    /// The response is useful in pieces, so it may share bandwidth with its equals.
    pub incremental: bool,
}

impl Default for Priority {
    /// RFC 9218 sections 4.1 and 4.2.
    fn default() -> Self {
        Self {
            urgency: 3,
            incremental: false,
        }
    }
}

impl Priority {
    /// Reads a priority field value such as `u=1, i`. Unknown parameters and values out of range
    /// are ignored, as RFC 9218 section 4 demands; text that is no dictionary counts as absent.
    pub fn parse(value: &[u8]) -> Self {
        let mut priority = Self::default();
        for member in value.split(|&b| b == b',') {
            match member.trim_ascii() {
                [b'u', b'=', digit @ b'0'..=b'7'] => priority.urgency = digit - b'0',
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
        let cases: [(&[u8], u8, bool); 9] = [
            (b"", 3, false),
            (b"u=0", 0, false),
            (b"u=1, i", 1, true),
            (b"i", 3, true),
            (b"i=?0,u=7", 7, false),
            (b"u=8", 3, false),
            (b"u=-1", 3, false),
            (b"x=1;y, u=5", 5, false),
            (b"\xff\x00,,", 3, false),
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
