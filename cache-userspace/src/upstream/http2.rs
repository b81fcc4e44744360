//! HTTP/2 towards a node, by h2 itself: it shows the responses that come before the final one.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::connect::{Driver, MAX_HEAD_BYTES};
use super::failure::Broken;
use super::interim::Interim;
use super::upload::Sending;

/// Streams used of one connection, fewer where the origin allows fewer.
pub(super) const MAX_STREAMS: usize = 64;
/// Body bytes that may wait unread in one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Room for every stream's window, so that fetches without credit never stall the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
/// A connection with open streams is probed this often, and given up when the answer takes as long
/// again.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The sending half of a connection; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    sender: client::SendRequest<Bytes>,
    open: Arc<AtomicUsize>,
}

/// Speaks the first words of a connection.
pub(super) async fn handshake<S>(stream: S) -> Result<(Http2, Driver), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .handshake(stream)
        .await?;
    let open = Arc::<AtomicUsize>::default();
    let driver = drive(connection, Arc::clone(&open));
    Ok((Http2 { sender, open }, Box::pin(driver)))
}

/// Runs a connection to its end. One that is in use and answers no PING has come to it.
async fn drive<S>(
    mut connection: client::Connection<S>,
    open: Arc<AtomicUsize>,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let mut connection = pin!(connection);
    let Some(mut pings) = pings else {
        return Ok(connection.await?);
    };
    let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut connection => return Ok(ended?),
            _ = ticks.tick() => match asked {
                true => return Err(Broken::Silent(PING_INTERVAL)),
                false if open.load(Ordering::Relaxed) > 0 => {
                    pings.send_ping(Ping::opaque())?;
                    asked = true;
                }
                false => {}
            },
            pong = answered(&mut pings), if asked => {
                pong?;
                asked = false;
            }
        }
    }
}

async fn answered(pings: &mut PingPong) -> Result<(), h2::Error> {
    poll_fn(|cx| pings.poll_pong(cx)).await.map(|_| ())
}

impl Http2 {
    /// How many streams at once the origin allows, as far as it has said so, and as are used.
    pub(super) fn max_streams(&self) -> usize {
        let allowed = self.sender.current_max_send_streams();
        allowed.clamp(1, MAX_STREAMS)
    }

    /// Sends a request and waits for the final head.
    pub(super) async fn send(
        &mut self,
        request: Request<Sending>,
        interim: &Interim,
    ) -> Result<Response<Received>, Broken> {
        let (parts, body) = request.into_parts();
        let ended = body.is_end_stream();
        let mut sender = self.sender.clone().ready().await.map_err(Broken::Unsent)?;
        let (mut response, stream) = sender
            .send_request(Request::from_parts(parts, ()), ended)
            .map_err(Broken::Unsent)?;
        let sent = Sent::new(&self.open, (!ended).then_some((body, stream)));
        let response = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                interim.saw(head.status(), head.headers());
            }
            Future::poll(pin!(&mut response), cx)
        })
        .await?;
        Ok(response.map(|stream| Received {
            stream,
            _sent: sent,
        }))
    }
}

/// A request that is not answered to the end. Dropped before, its stream is reset.
struct Sent {
    open: Arc<AtomicUsize>,
    /// Sends the request's body.
    pump: Option<AbortHandle>,
}

impl Sent {
    fn new(open: &Arc<AtomicUsize>, body: Option<(Sending, SendStream<Bytes>)>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        let pump = body.map(|(body, stream)| tokio::spawn(pump(body, stream)).abort_handle());
        Self {
            open: Arc::clone(open),
            pump,
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(pump) = &self.pump {
            pump.abort();
        }
    }
}

/// Sends a body as the origin takes it.
async fn pump(mut body: Sending, mut stream: SendStream<Bytes>) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return stream.send_reset(Reason::CANCEL);
        };
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return;
            };
            let piece = data.split_to(room.min(data.len()));
            if stream.send_data(piece, false).is_err() {
                return;
            }
        }
    }
    // Where that fails, the answer does.
    let _ended = stream.send_data(Bytes::new(), true);
}

/// The body of a response.
pub(super) struct Received {
    stream: RecvStream,
    _sent: Sent,
}

impl Received {
    /// The next bytes. Trailers are left where they are.
    pub(super) async fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let data = self.stream.data().await?;
        Some(data.inspect(|data| {
            // Refused only for more than was received.
            let _released = self.stream.flow_control().release_capacity(data.len());
        }))
    }
}
