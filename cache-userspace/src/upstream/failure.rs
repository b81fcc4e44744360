//! Errors of sockets, TLS and HTTP in the terms of RFC 9209, with what, where and what to do.

use std::error::Error;
use std::io;
use std::time::Duration;

use cache_core::io::{FetchError, FetchErrorKind};

use super::connect::{MAX_HEAD_BYTES, MAX_HEAD_FIELDS};

/// How a connection failed, or a stream of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The connection took no more requests.
    #[error(transparent)]
    Unsent(h2::Error),
    #[error("no answer to a PING within {0:?}")]
    Silent(Duration),
}

/// Which origin or node an error is about, for its detail.
#[derive(Clone, Debug)]
pub(super) struct Place {
    what: String,
}

impl Place {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }

    /// A failure there.
    pub(super) fn error(&self, kind: FetchErrorKind, what: impl std::fmt::Display) -> FetchError {
        FetchError {
            kind,
            detail: format!("{}: {what}", self.what),
        }
    }

    /// No node is left to be asked.
    pub(super) fn unavailable(&self) -> FetchError {
        self.error(
            FetchErrorKind::Unavailable,
            "every address has failed too often and is left alone for a while; see its nodes in `popcache status`",
        )
    }

    /// The name lookup of `host` failed.
    pub(super) fn dns(&self, host: &str, error: &io::Error) -> FetchError {
        self.error(
            FetchErrorKind::DnsError,
            format_args!("cannot look up {host}: {error}; check the url and this node's resolver"),
        )
    }

    /// No TCP connection to `address`.
    pub(super) fn tcp(&self, address: impl std::fmt::Display, error: &io::Error) -> FetchError {
        let kind = if out_of_descriptors(error) {
            FetchErrorKind::LimitReached
        } else if error.kind() == io::ErrorKind::TimedOut {
            FetchErrorKind::ConnectionTimeout
        } else {
            FetchErrorKind::ConnectionRefused
        };
        let advice = if kind == FetchErrorKind::LimitReached {
            "raise the limit of open files (LimitNOFILE)"
        } else {
            "check that the origin runs there and that the url is right"
        };
        self.error(
            kind,
            format_args!("cannot connect to {address}: {error}; {advice}"),
        )
    }

    /// Connecting took longer than allowed.
    pub(super) fn connect_timeout(&self, limit: Duration) -> FetchError {
        self.error(
            FetchErrorKind::ConnectionTimeout,
            format_args!("no connection within {limit:?}; check routes and firewalls, or raise connect_timeout"),
        )
    }

    /// The client stopped sending its request.
    pub(super) fn request_stalled(&self, limit: Duration) -> FetchError {
        self.error(
            FetchErrorKind::RequestStalled,
            format_args!("was not asked: the client's body paused for {limit:?}"),
        )
    }

    /// Every connection stayed busy.
    pub(super) fn connections_busy(&self, max: usize, waited: Duration) -> FetchError {
        self.error(
            FetchErrorKind::LimitReached,
            format_args!("all {max} connections stayed busy for {waited:?}; raise max_connections or look why the origin is slow"),
        )
    }

    /// The TLS handshake with `server_name` failed.
    pub(super) fn tls(&self, server_name: &str, error: &io::Error) -> FetchError {
        let cause = error.get_ref().and_then(|e| e.downcast_ref());
        let (kind, advice) = match cause {
            Some(rustls::Error::InvalidCertificate(problem)) => {
                (FetchErrorKind::TlsCertificate, certificate_advice(problem))
            }
            Some(rustls::Error::AlertReceived(_)) => (
                FetchErrorKind::TlsError,
                "see why the origin refused: a client certificate it wants, its TLS versions, its name",
            ),
            Some(_) => (
                FetchErrorKind::TlsError,
                "check the origin's TLS versions and ciphers",
            ),
            None => (FetchErrorKind::TlsError, "check that this port speaks TLS"),
        };
        self.error(
            kind,
            format_args!("TLS with {server_name} failed: {error}; {advice}"),
        )
    }

    /// No final head within the first-byte timeout.
    pub(super) fn head_timeout(&self, limit: Duration) -> FetchError {
        self.error(
            FetchErrorKind::ResponseTimeout,
            format_args!("no response head within {limit:?}; look why the origin is slow, or raise first_byte_timeout"),
        )
    }

    /// The body paused for too long after `received` bytes.
    pub(super) fn body_timeout(&self, limit: Duration, received: u64) -> FetchError {
        self.error(
            FetchErrorKind::BodyTimeout,
            format_args!("nothing for {limit:?} after {received} body bytes; look why the origin stalls, or raise idle_timeout"),
        )
    }

    /// The whole fetch took too long; `kind` says in which half.
    pub(super) fn total_timeout(&self, kind: FetchErrorKind, limit: Duration) -> FetchError {
        self.error(
            kind,
            format_args!("the fetch took longer than {limit:?}; look whether origin or client is slow, or raise total_timeout"),
        )
    }

    /// The body's length was not the declared one.
    pub(super) fn wrong_length(
        &self,
        declared: u64,
        received: impl std::fmt::Display,
    ) -> FetchError {
        self.error(
            FetchErrorKind::ResponseIncomplete,
            format_args!("declared {declared} body bytes and sent {received}; the origin's Content-Length is wrong or the transfer broke"),
        )
    }

    /// More came before the response than may.
    pub(super) fn too_many_interim(&self, max: u32) -> FetchError {
        self.error(
            FetchErrorKind::ProtocolError,
            format_args!("sent more than {max} interim responses (1xx) before the final one; look why, or raise max_interim"),
        )
    }

    /// The connection failed before the final response head.
    pub(super) fn before_head(&self, error: &Broken) -> FetchError {
        let parsing = |which: fn(&hyper::Error) -> bool| matches!(error, Broken::Http1(error) if which(error));
        if parsing(hyper::Error::is_parse_too_large) {
            return self.head_too_large();
        }
        if h2_local(error) {
            // h2 does not tell the two apart.
            return self.error(
                FetchErrorKind::ProtocolError,
                format_args!(
                    "the response is not valid HTTP/2 or its head is larger than {MAX_HEAD_BYTES} bytes: {}; check what the origin sends",
                    chain(error)
                ),
            );
        }
        if parsing(hyper::Error::is_parse) {
            return self.error(
                FetchErrorKind::ProtocolError,
                format_args!(
                    "the response is not valid HTTP: {}; check that this port speaks HTTP as configured",
                    chain(error)
                ),
            );
        }
        self.error(
            FetchErrorKind::ConnectionTerminated,
            format_args!(
                "the connection ended before the response head: {}; look into the origin's log",
                chain(error)
            ),
        )
    }

    /// The response head went past [`MAX_HEAD_BYTES`] or [`MAX_HEAD_FIELDS`].
    pub(super) fn head_too_large(&self) -> FetchError {
        self.error(
            FetchErrorKind::ProtocolError,
            format_args!(
                "the response head is larger than {} bytes or has more than {} fields; make the origin send less",
                MAX_HEAD_BYTES,
                MAX_HEAD_FIELDS
            ),
        )
    }

    /// The connection failed after the head, `received` bytes into a body of `declared` bytes.
    pub(super) fn in_body(
        &self,
        error: &Broken,
        declared: Option<u64>,
        received: u64,
    ) -> FetchError {
        match declared {
            Some(declared) if h2_local(error) => {
                self.wrong_length(declared, format_args!("another number ({})", chain(error)))
            }
            Some(declared) if ended_early(error) => self.wrong_length(declared, received),
            _ if ended_early(error) => self.error(
                FetchErrorKind::ResponseIncomplete,
                format_args!("the body broke off after {received} bytes: {}; look into the origin's log", chain(error)),
            ),
            _ => self.error(
                FetchErrorKind::ProtocolError,
                format_args!("the body's framing is not valid after {received} bytes: {}; the origin is at fault", chain(error)),
            ),
        }
    }
}

/// Whether a request that failed so on a pooled connection may go out again: the connection ended
/// before the response, or the origin said that it did not look at the request (RFC 9110 section
/// 9.2.2, RFC 9113 section 8.7).
pub(super) fn may_retry(error: &Broken) -> bool {
    match error {
        Broken::Http1(error) => !(error.is_parse() || error.is_user() || error.is_timeout()),
        Broken::Http2(error) => error.is_go_away() || error.is_io() || refused_stream(error),
        Broken::Unsent(_) => true,
        Broken::Silent(_) => false,
    }
}

/// Whether only one stream failed and its HTTP/2 connection goes on.
pub(super) fn stream_only(error: &Broken) -> bool {
    matches!(error, Broken::Http2(error) if error.is_reset())
}

fn refused_stream(error: &h2::Error) -> bool {
    error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// Our own HTTP/2 side found the origin's frames at fault.
fn h2_local(error: &Broken) -> bool {
    matches!(error, Broken::Http2(error) | Broken::Unsent(error) if error.is_library())
}

/// The origin or the network ended the body, rather than framing it wrongly.
fn ended_early(error: &Broken) -> bool {
    let error = match error {
        Broken::Http1(error) => error,
        Broken::Http2(error) | Broken::Unsent(error) => {
            return error.is_io() || error.is_remote() || error.is_go_away();
        }
        Broken::Silent(_) => return true,
    };
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return true;
    }
    let below = error.source().and_then(<dyn Error>::downcast_ref);
    below.is_some_and(|error: &io::Error| {
        !matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
        )
    })
}

/// An error and what lies beneath it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        next = error.source();
    }
    line
}

fn certificate_advice(problem: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as E;
    match problem {
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "set server_name to a name in the origin's certificate"
        }
        // A bad signature is an authority's name with another key, as after a re-key.
        E::UnknownIssuer | E::BadSignature => {
            "set ca to the PEM file of the authority that signed it"
        }
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            "renew the origin's certificate or correct this node's clock"
        }
        _ => "replace the origin's certificate",
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
