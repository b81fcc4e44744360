//! What a request asks of the cache.

use crate::conn::h3::FieldSection;

/// How a request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Look in the cache; on a miss share a fetch.
    Lookup { head_only: bool },
    /// Ask upstream for this request alone: it carries credentials (RFC 9111 section 3.5).
    Bypass { head_only: bool },
    /// Pass it on with its body: the method is not answered from the cache.
    PassOn,
    /// Answered with 405: a tunnel (CONNECT), or what shows a client its credentials (TRACE).
    MethodNotAllowed,
}

/// Decides by method and Authorization. Methods are case-sensitive (RFC 9110 section 9.1).
pub fn classify(section: &FieldSection) -> Handling {
    let head_only = match section.method() {
        b"GET" => false,
        b"HEAD" => true,
        b"CONNECT" | b"TRACE" => return Handling::MethodNotAllowed,
        _ => return Handling::PassOn,
    };
    match section.get(b"authorization") {
        Some(_) => Handling::Bypass { head_only },
        None => Handling::Lookup { head_only },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::h3::samples::{CHROMIUM, headers};
    use crate::conn::h3::{Progress, RequestReader};

    fn handling(method: &str, extra: &[(&str, &str)]) -> Handling {
        let fields = [&[(":method", method)], &CHROMIUM[1..], extra].concat();
        let mut section = FieldSection::new(16 << 10);
        let read = RequestReader::new().push(&headers(&fields), true, &mut section);
        assert_eq!(read, Ok(Progress::Request));
        classify(&section)
    }

    /// RFC 9110 section 9.1.
    #[test]
    fn methods() {
        let lookup = |head_only| Handling::Lookup { head_only };
        assert_eq!(handling("GET", &[]), lookup(false));
        assert_eq!(handling("HEAD", &[]), lookup(true));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PURGE", "get", "Head"] {
            assert_eq!(handling(method, &[]), Handling::PassOn, "{method}");
        }
        assert_eq!(handling("TRACE", &[]), Handling::MethodNotAllowed);
    }

    /// RFC 9111 section 3.5.
    #[test]
    fn credentials() {
        let credentials = [("authorization", "Bearer x")];
        let bypass = |head_only| Handling::Bypass { head_only };
        assert_eq!(handling("GET", &credentials), bypass(false));
        assert_eq!(handling("HEAD", &credentials), bypass(true));
        assert_eq!(handling("POST", &credentials), Handling::PassOn);
    }

    /// RFC 9111 section 5.2.1: a client cannot make the cache forget.
    #[test]
    fn cache_control_of_clients_is_not_followed() {
        for value in ["no-cache", "no-store", "max-age=0"] {
            let lookup = Handling::Lookup { head_only: false };
            assert_eq!(handling("GET", &[("cache-control", value)]), lookup);
        }
    }
}
