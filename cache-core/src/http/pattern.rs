//! Patterns of configured rules: text in which `*` stands for any bytes. Matching takes time in
//! proportion to the text times the pattern at worst, and no memory.

/// Text with any number of `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Longest pattern.
    pub const MAX: usize = 256;

    /// `None`: longer than [`Self::MAX`], or empty.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= Self::MAX;
        fits.then(|| Self(text.to_owned()))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        matches(self.0.as_bytes(), text)
    }

    /// The same as a beginning: whatever follows is matched too.
    pub fn begins(&self, text: &[u8]) -> bool {
        if self.0.contains('*') {
            return self.matches(text);
        }
        text.starts_with(self.0.as_bytes())
    }
}

/// Goes back to the last `*` only: an earlier one has matched as little as it could, which leaves the
/// most for the rest.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn stars_stand_for_any_bytes() {
        let cases = [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*c", "abcd", false),
            ("a*c", "abcbc", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("**", "", true),
            ("*", "/a/b", true),
            ("utm_*", "utm_source", true),
            ("utm_*", "xutm_source", false),
        ];
        for (text, against, holds) in cases {
            assert_eq!(
                pattern(text).matches(against.as_bytes()),
                holds,
                "{text} {against}"
            );
        }
        assert!(pattern("/a/").begins(b"/a/b"));
        assert!(!pattern("/a/*/c").begins(b"/a/b/cd"));
        assert_eq!(Pattern::new(""), None);
        assert_eq!(Pattern::new(&"a".repeat(257)), None);
    }

    proptest! {
        /// Against the definition, by recursion.
        #[test]
        fn matching_is_what_it_says(text in "[ab*]{1,6}", against in "[ab]{0,8}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.split_first(), text.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) if slow(rest, text) => true,
                    (Some((b'*', _)), Some((_, more))) => slow(pattern, more),
                    (Some((p, rest)), Some((t, more))) => p == t && slow(rest, more),
                    _ => false,
                }
            }
            let wanted = slow(text.as_bytes(), against.as_bytes());
            prop_assert_eq!(pattern(&text).matches(against.as_bytes()), wanted);
        }
    }
}
