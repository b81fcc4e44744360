//! Cache-Control (RFC 9111 section 5.2, RFC 5861, RFC 8246).
//!
//! Where a field is unclear the stricter reading wins: of two ages the smaller counts, an age that
//! is no number is 0, `private=x` and `no-cache=x` without quotes count as if they stood alone, and in
//! a response text that is no list of directives counts as `no-store`.

use http::HeaderName;

use super::withheld;

/// Ages and windows are at most this many seconds (RFC 9111 section 1.2.2).
pub const MAX_SECONDS: u32 = i32::MAX as u32;

/// Directives of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    pub immutable: bool,
    /// Seconds, as are all below.
    pub max_age: Option<u32>,
    pub s_maxage: Option<u32>,
    pub stale_while_revalidate: Option<u32>,
    pub stale_if_error: Option<u32>,
    /// private or no-cache name fields, and stand for these alone: see [`withheld`].
    pub names_fields: bool,
    /// The field was no list of directives; `no_store` is set too.
    pub malformed: bool,
}

/// Directives of a request. RFC 9111 section 5.2.1: a cache may follow them or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub no_transform: bool,
    pub only_if_cached: bool,
    /// Seconds, as are all below.
    pub max_age: Option<u32>,
    pub min_fresh: Option<u32>,
    /// Without a value: any staleness, [`MAX_SECONDS`].
    pub max_stale: Option<u32>,
    pub stale_if_error: Option<u32>,
}

impl ResponseDirectives {
    /// Reads all Cache-Control lines of a response.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::read_naming(lines, &mut Vec::new())
    }

    /// The same, with the fields that private and no-cache name.
    pub(super) fn read_naming<'a>(
        lines: impl IntoIterator<Item = &'a [u8]>,
        named: &mut Vec<HeaderName>,
    ) -> Self {
        let mut all = Self::default();
        for line in lines {
            let mut rest = line;
            while let Some(directive) = next_directive(&mut rest) {
                match directive {
                    Ok((name, value)) => all.add(name, value, named),
                    Err(Malformed) => {
                        all.malformed = true;
                        all.no_store = true;
                    }
                }
            }
        }
        all
    }

    fn add(&mut self, name: &[u8], value: Option<Value<'_>>, named: &mut Vec<HeaderName>) {
        let mut lower = [0; LONGEST_NAME];
        let lower = lower_case(name, &mut lower);
        if matches!(lower, b"no-cache" | b"private")
            && let Some(names) = value.and_then(|value| value.quoted().and_then(withheld::names))
        {
            self.names_fields = true;
            return named.extend(names);
        }
        match lower {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"no-transform" => self.no_transform = true,
            b"immutable" => self.immutable = true,
            b"max-age" => keep_smaller(&mut self.max_age, value),
            b"s-maxage" => keep_smaller(&mut self.s_maxage, value),
            b"stale-while-revalidate" => keep_smaller(&mut self.stale_while_revalidate, value),
            b"stale-if-error" => keep_smaller(&mut self.stale_if_error, value),
            _ => {}
        }
    }
}

impl RequestDirectives {
    /// Reads all Cache-Control lines of a request. What is malformed is left out.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut all = Self::default();
        for line in lines {
            all.read_line(line);
        }
        all
    }

    /// Reads one more line.
    pub fn read_line(&mut self, line: &[u8]) {
        let mut rest = line;
        while let Some(directive) = next_directive(&mut rest) {
            if let Ok((name, value)) = directive {
                self.add(name, value);
            }
        }
    }

    fn add(&mut self, name: &[u8], value: Option<Value<'_>>) {
        let mut lower = [0; LONGEST_NAME];
        match lower_case(name, &mut lower) {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"no-transform" => self.no_transform = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => keep_smaller(&mut self.max_age, value),
            // The larger the stricter, but nobody asks twice.
            b"min-fresh" => keep_smaller(&mut self.min_fresh, value),
            b"max-stale" if value.is_none() => {
                self.max_stale.get_or_insert(MAX_SECONDS);
            }
            b"max-stale" => keep_smaller(&mut self.max_stale, value),
            b"stale-if-error" => keep_smaller(&mut self.stale_if_error, value),
            _ => {}
        }
    }
}

/// Text that is no directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// The argument of a directive, without its quotes; escapes left as they are, for no argument
/// that we read has any.
#[derive(Clone, Copy, Debug)]
struct Value<'a> {
    text: &'a [u8],
    is_quoted: bool,
}

impl<'a> Value<'a> {
    fn quoted(self) -> Option<&'a [u8]> {
        self.is_quoted.then_some(self.text)
    }
}

type Directive<'a> = (&'a [u8], Option<Value<'a>>);

/// `stale-while-revalidate`.
const LONGEST_NAME: usize = 22;

/// Takes the next directive off the front: `token [ "=" ( token / quoted-string ) ]`, then a comma
/// or the end. After an error the text up to the next comma is gone.
fn next_directive<'a>(rest: &mut &'a [u8]) -> Option<Result<Directive<'a>, Malformed>> {
    while let [b' ' | b'\t' | b',', tail @ ..] = rest {
        *rest = tail;
    }
    if rest.is_empty() {
        return None;
    }
    let name = take_token(rest);
    let value = match rest {
        [b'=', b'"', tail @ ..] => {
            *rest = tail;
            take_quoted(rest).map(|text| {
                Some(Value {
                    text,
                    is_quoted: true,
                })
            })
        }
        [b'=', tail @ ..] => {
            *rest = tail;
            Ok(Some(Value {
                text: take_token(rest),
                is_quoted: false,
            }))
        }
        _ => Ok(None),
    };
    let clean = skip_to_comma(rest);
    Some(match value {
        Ok(value) if clean && !name.is_empty() => Ok((name, value)),
        _ => Err(Malformed),
    })
}

fn take_token<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest
        .iter()
        .position(|b| matches!(b, 0..=b' ' | b'"' | b',' | b';' | b'=' | 0x7f..));
    let (token, tail) = rest.split_at(end.unwrap_or(rest.len()));
    *rest = tail;
    token
}

/// Takes the rest of a quoted string and its closing quote.
fn take_quoted<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let text = *rest;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                *rest = &text[at + 1..];
                return Ok(&text[..at]);
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    *rest = &[];
    Err(Malformed)
}

/// Takes everything up to the next comma; true when that was blank.
fn skip_to_comma(rest: &mut &[u8]) -> bool {
    let end = rest.iter().position(|&b| b == b',').unwrap_or(rest.len());
    let (blank, tail) = rest.split_at(end);
    *rest = tail;
    blank.iter().all(|b| matches!(b, b' ' | b'\t'))
}

/// `name` in lower case, or nothing when no directive has so long a name.
fn lower_case<'a>(name: &[u8], lower: &'a mut [u8; LONGEST_NAME]) -> &'a [u8] {
    let Some(room) = lower.get_mut(..name.len()) else {
        return b"";
    };
    room.copy_from_slice(name);
    room.make_ascii_lowercase();
    room
}

fn keep_smaller(kept: &mut Option<u32>, value: Option<Value<'_>>) {
    let seconds = value
        .and_then(|value| delta_seconds(value.text))
        .unwrap_or(0);
    *kept = Some(kept.map_or(seconds, |kept| kept.min(seconds)));
}

/// RFC 9111 section 1.2.2: digits; what does not fit is [`MAX_SECONDS`].
pub fn delta_seconds(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = text.iter().fold(0u32, |seconds, digit| {
        seconds
            .saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    });
    Some(seconds.min(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(line: &str) -> ResponseDirectives {
        ResponseDirectives::read([line.as_bytes()])
    }

    fn request(line: &str) -> RequestDirectives {
        RequestDirectives::read([line.as_bytes()])
    }

    /// RFC 9111 section 5.2.2, RFC 5861, RFC 8246.
    #[test]
    fn every_response_directive() {
        let all = response(
            "no-store, no-cache, private, public, must-revalidate, proxy-revalidate, must-understand, \
             no-transform, immutable, max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4",
        );
        let want = ResponseDirectives {
            no_store: true,
            no_cache: true,
            private: true,
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            no_transform: true,
            immutable: true,
            max_age: Some(1),
            s_maxage: Some(2),
            stale_while_revalidate: Some(3),
            stale_if_error: Some(4),
            names_fields: false,
            malformed: false,
        };
        assert_eq!(all, want);
    }

    #[test]
    fn ages() {
        let cases = [
            ("max-age=60", Some(60)),
            ("Max-Age=60", Some(60)),
            ("max-age=\"60\"", Some(60)),
            ("max-age=060", Some(60)),
            ("max-age=60, max-age=10", Some(10)),
            ("max-age=10,max-age=60", Some(10)),
            ("max-age=60, max-age=x", Some(0)),
            ("max-age", Some(0)),
            ("max-age=", Some(0)),
            ("max-age=-1", Some(0)),
            ("max-age=1.5", Some(0)),
            ("max-age=99999999999999999999", Some(MAX_SECONDS)),
            ("max-age=4294967295", Some(MAX_SECONDS)),
            ("x-max-age=60", None),
            ("max-agee=60", None),
            ("", None),
            (" , ,", None),
            ("unknown=\"max-age=60, x\"", None),
            ("unknown=\"a\\\"b, max-age=1\", max-age=7", Some(7)),
        ];
        for (line, max_age) in cases {
            let got = response(line);
            assert_eq!((got.max_age, got.malformed), (max_age, false), "{line}");
        }
    }

    #[test]
    fn the_qualified_forms_stand_for_what_they_name() {
        let named = response("private=\"set-cookie\", no-cache=\"a, b\", max-age=1");
        assert!(named.names_fields && !named.private && !named.no_cache);
        for whole in [
            "no-cache=a",
            "no-cache=\"\"",
            "no-cache=\"a b\"",
            "no-cache=\"etag\"",
        ] {
            let read = response(whole);
            assert!(read.no_cache && !read.names_fields, "{whole}");
        }
    }

    #[test]
    fn malformed_text_forbids_storing() {
        for line in [
            "max-age=\"60, private",
            "max-age=60; public",
            "max-age=60 private",
            "max-age = 60",
            "=60",
            "max-age=60 =",
            "\"private\"",
            "max-age=60\u{e9}",
            "max-age==60",
        ] {
            let got = response(line);
            assert!(got.malformed && got.no_store, "{line}: {got:?}");
        }
        let got = response("public; max-age=60, private");
        assert!(got.private, "directives after the malformed one count");
    }

    #[test]
    fn lines_add_up() {
        let lines = [&b"max-age=60"[..], b"private", b"max-age=30"];
        let got = ResponseDirectives::read(lines);
        assert!(got.private);
        assert_eq!(got.max_age, Some(30));
    }

    /// RFC 9111 section 5.2.1.
    #[test]
    fn every_request_directive() {
        let all = request(
            "no-store, no-cache, no-transform, only-if-cached, max-age=0, min-fresh=2, max-stale=3, \
             stale-if-error=4",
        );
        let want = RequestDirectives {
            no_store: true,
            no_cache: true,
            no_transform: true,
            only_if_cached: true,
            max_age: Some(0),
            min_fresh: Some(2),
            max_stale: Some(3),
            stale_if_error: Some(4),
        };
        assert_eq!(all, want);
        assert_eq!(request("max-stale").max_stale, Some(MAX_SECONDS));
        assert_eq!(request("max-stale, max-stale=5").max_stale, Some(5));
        assert_eq!(request("max-stale=x").max_stale, Some(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn any_bytes_are_read(line in prop::collection::vec(any::<u8>(), 0..100)) {
            ResponseDirectives::read([&line[..]]);
            RequestDirectives::read([&line[..]]);
        }

        /// What forbids is found wherever it stands among well-formed directives.
        #[test]
        fn private_is_never_lost(
            before in "([a-z]{1,8}(=[a-z0-9]{1,4}|=\"[a-z, ]{0,6}\")?[ ]?,[ ]?){0,4}",
            after in "(,[ ]?[a-z]{1,8}(=\"[a-z,= ]{0,6}\")?){0,4}",
        ) {
            let line = format!("{before}private{after}");
            prop_assert!(response(&line).private, "{}", line);
        }
    }
}
