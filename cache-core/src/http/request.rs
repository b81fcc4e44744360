//! What a request asks of the cache.

use crate::conn::h3::FieldSection;

/// How a request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Look in the cache; on a miss share a fetch.
    Lookup { head_only: bool },
    /// The same of what may answer requests with credentials; else ask upstream for this request
    /// alone (RFC 9111 section 3.5).
    Authorized { head_only: bool },
    /// Ask upstream for this request alone: it carries credentials, or its route says so.
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
    use crate::conn::h3::samples::request_with;

    fn handling(method: &str, extra: &[(&str, &str)]) -> Handling {
        classify(&request_with(method, extra))
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
}
