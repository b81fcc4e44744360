//! The body of a request as it comes, of either version.

use bytes::Bytes;
use h2::RecvStream;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// A body that is being read.
pub enum Arriving {
    Http1(Incoming),
    Http2 {
        stream: RecvStream,
        declared: Option<u64>,
    },
}

/// The client broke its framing, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Arriving {
    /// `headers`: of the request.
    pub fn http2(stream: RecvStream, headers: &HeaderMap) -> Self {
        Self::Http2 {
            stream,
            declared: headers.get(CONTENT_LENGTH).and_then(length),
        }
    }

    /// Its length, as the client declared it.
    pub fn declared(&self) -> Option<u64> {
        match self {
            Self::Http1(body) => body.size_hint().exact(),
            Self::Http2 { declared, .. } => *declared,
        }
    }

    /// There is none, or all of it was read.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
        }
    }

    /// The next bytes. Trailers of a request are not passed on (RFC 9110 section 6.5.1).
    pub async fn data(&mut self) -> Option<Result<Bytes, Broken>> {
        match self {
            Self::Http1(body) => loop {
                match body.frame().await?.map(hyper::body::Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    Ok(Err(_trailers)) => {}
                    Err(error) => return Some(Err(error.into())),
                }
            },
            Self::Http2 { stream, .. } => {
                let data = stream.data().await?;
                Some(data.map_err(Broken::from).inspect(|data| {
                    // Refused only for more than was received.
                    let _released = stream.flow_control().release_capacity(data.len());
                }))
            }
        }
    }
}

/// The number in a Content-Length.
pub fn length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}
