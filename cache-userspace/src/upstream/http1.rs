//! HTTP/1.1 towards a node, by hyper.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::{Driver, MAX_HEAD_BYTES, MAX_HEAD_FIELDS};
use super::interim::Interim;
use super::last_word::LastWord;
use super::upload::Sending;

/// The sending half of a connection.
pub(super) type Http1 = http1::SendRequest<Sending>;

pub(super) async fn handshake<S>(stream: S) -> hyper::Result<(Http1, Driver)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEAD_FIELDS)
        .handshake(TokioIo::new(LastWord::new(stream)))
        .await?;
    let driver = async move { Ok(connection.await?) };
    Ok((sender, Box::pin(driver)))
}

/// Sends a request and waits for the final head.
pub(super) async fn send(
    sender: &mut Http1,
    mut request: Request<Sending>,
    interim: &Arc<Interim>,
) -> hyper::Result<Response<Incoming>> {
    let interim = Arc::clone(interim);
    hyper::ext::on_informational(&mut request, move |head| {
        interim.saw(head.status(), head.headers());
    });
    sender.send_request(request).await
}
