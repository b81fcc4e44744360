//! HTTP/2: one task a connection reads requests, begins them and writes. What memory answers at once needs
//! no other; what waits has a task of its own.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cache_core::io::{AnswerEvent, ClientRequest};
use h2::server::{self, Handshake, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{DATE, EXPECT};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Registered;
use super::asking::{self, Begun, Unanswered};
use super::body::Active;
use super::incoming::Arriving;
use super::request;
use crate::rt::cork::Cork;
use crate::rt::door::Answer;
use crate::rt::tcp::spawn;

/// RFC 9113 section 10.5: streams that the client reset before they were looked at, and streams that
/// we had to reset, that HTTP/2 remembers of one connection before it gives it up.
const MAX_RESET_PENDING: usize = 20;
const MAX_RESET_BY_US: usize = 64;

/// Windows for what clients send, which is little.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of answers that are held for one stream ahead of the socket.
const SEND_BUFFER: usize = 64 << 10;

/// A connection to its end; pending while it goes on.
pub struct Connection<S> {
    state: State<S>,
    cork: Cork,
    place: Rc<Registered>,
    draining: bool,
}

enum State<S> {
    Opening(Handshake<S, Bytes>),
    Open(server::Connection<S, Bytes>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// What is written to `stream` lies behind `cork`.
    pub fn new(stream: S, cork: Cork, place: Rc<Registered>) -> Self {
        cork.put_in();
        let shared = &place.core.shared;
        let max_section = u32::try_from(shared.max_field_section).unwrap_or(u32::MAX);
        let handshake = server::Builder::new()
            .max_concurrent_streams(shared.max_streams)
            .max_header_list_size(max_section)
            .max_pending_accept_reset_streams(MAX_RESET_PENDING)
            .max_local_error_reset_streams(Some(MAX_RESET_BY_US))
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(stream);
        Self {
            state: State::Opening(handshake),
            cork,
            place,
            draining: false,
        }
    }

    /// It may finish what it began.
    pub fn drain(&mut self) {
        self.draining = true;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    fn serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match &mut self.state {
                State::Opening(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if self.draining {
                        connection.graceful_shutdown();
                    }
                    self.state = State::Open(connection);
                }
                State::Open(connection) => match ready!(connection.poll_accept(cx)).transpose()? {
                    Some((request, respond)) => begin(&self.place, request, respond, cx),
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }

    /// Sends what was written in this turn.
    fn send(&self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let now = self.place.core.now.get();
        let before = self.cork.sent();
        let sent = self.cork.poll_send(cx);
        if self.cork.sent() > before {
            self.place.watch.wrote(now);
        }
        match sent {
            Poll::Ready(result) => result,
            Poll::Pending => {
                self.place.watch.block(now);
                Ok(())
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = self.serve(cx);
        match self.send(cx) {
            Ok(()) => ended,
            Err(error) => {
                tracing::debug!(%error, "TCP connection");
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Answers a request, as far as that can be done at once.
fn begin(
    place: &Rc<Registered>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    cx: &mut Context<'_>,
) {
    let active = Active::begin(place);
    let (parts, stream) = request.into_parts();
    let body = Arriving::http2(stream, &parts.headers);
    let body = asking::has_body(&parts.method, &body).then_some(body);
    let expects = body.is_some() && expects_continue(&parts.headers);
    let asked = match request::read(parts, true) {
        Ok(asked) => asked,
        Err(refusal) => return reply(&mut respond, asking::refuse(refusal), &active),
    };
    if body.is_some() {
        if expects {
            inform(&mut respond, StatusCode::CONTINUE, HeaderMap::new());
        }
        return spawn(with_body(asked, body, respond, active));
    }
    let Some(answer) = place.core.door.ask(asked, place.watch.hungry()) else {
        return respond.send_reset(Reason::REFUSED_STREAM);
    };
    let mut exchange = Exchange {
        answer,
        to: To::Head(respond),
        piece: None,
        active,
    };
    if exchange.poll(cx).is_pending() {
        spawn(async move { poll_fn(|cx| exchange.poll(cx)).await });
    }
}

/// RFC 9110 section 10.1.1.
fn expects_continue(headers: &HeaderMap) -> bool {
    let expect = headers.get(EXPECT).map(http::HeaderValue::as_bytes);
    expect.is_some_and(|expect| expect.eq_ignore_ascii_case(b"100-continue"))
}

/// A request whose body is passed on.
async fn with_body(
    asked: ClientRequest,
    body: Option<Arriving>,
    respond: SendResponse<Bytes>,
    active: Active,
) {
    let respond = RefCell::new(respond);
    let begun = {
        let interim = |status, headers| inform(&mut respond.borrow_mut(), status, headers);
        let mut asking = pin!(asking::ask(asked, body, &active, interim));
        poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Pending => respond.borrow_mut().poll_reset(cx).map(|_| None),
            Poll::Ready(begun) => Poll::Ready(Some(begun)),
        })
        .await
    };
    let mut respond = respond.into_inner();
    let Begun { head, answer } = match begun {
        Some(Ok(begun)) => begun,
        Some(Err(Unanswered::Refused(refusal))) => {
            return reply(&mut respond, asking::refuse(refusal), &active);
        }
        Some(Err(Unanswered::CutOff)) => return respond.send_reset(Reason::INTERNAL_ERROR),
        // The client takes its request back.
        None => return,
    };
    let over = answer.rest() == Some(0);
    if let Some(stream) = send_head(&mut respond, head, over, &active)
        && !over
    {
        let mut exchange = Exchange {
            answer,
            to: To::Body(stream),
            piece: None,
            active,
        };
        poll_fn(|cx| exchange.poll(cx)).await;
    }
}

/// A whole answer without a body.
fn reply(respond: &mut SendResponse<Bytes>, head: Response<()>, active: &Active) {
    let _nothing_follows = send_head(respond, head, true, active);
}

/// `None`: the client is not interested any more.
fn send_head(
    respond: &mut SendResponse<Bytes>,
    mut head: Response<()>,
    over: bool,
    active: &Active,
) -> Option<SendStream<Bytes>> {
    let place = active.place();
    if let http::header::Entry::Vacant(date) = head.headers_mut().entry(DATE) {
        date.insert(place.core.date.borrow().clone());
    }
    if asking::is_exhausted(active) {
        place.watch.drain();
    }
    respond.send_response(head, over).ok()
}

fn inform(respond: &mut SendResponse<Bytes>, status: StatusCode, headers: HeaderMap) {
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    // The final answer finds out what is wrong.
    let _lost = respond.send_informational(head);
}

/// An answer on its way.
struct Exchange {
    answer: Answer,
    to: To,
    /// Bytes that wait for the client's window, and whether they are the last.
    piece: Option<(Bytes, bool)>,
    active: Active,
}

enum To {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

impl Exchange {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.go_on(cx).is_ready() {
            return Poll::Ready(());
        }
        match &mut self.to {
            To::Head(respond) => respond.poll_reset(cx).map(|_| ()),
            To::Body(stream) => stream.poll_reset(cx).map(|_| ()),
        }
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.piece.is_some() && ready!(self.poll_piece(cx)) {
                return Poll::Ready(());
            }
            let event = ready!(self.answer.poll_event(cx));
            if self.take(event) {
                return Poll::Ready(());
            }
        }
    }

    /// True when nothing follows.
    fn take(&mut self, event: AnswerEvent) -> bool {
        match (event, &mut self.to) {
            (AnswerEvent::Interim { status, headers }, To::Head(respond)) => {
                inform(respond, status, headers);
            }
            (AnswerEvent::Head { status, headers }, To::Head(respond)) => {
                let over = self.answer.rest() == Some(0);
                let head = asking::head(status, headers, &self.active);
                match send_head(respond, head, over, &self.active) {
                    Some(stream) if !over => self.to = To::Body(stream),
                    _ => return true,
                }
            }
            (AnswerEvent::Body(bytes), To::Body(stream)) => {
                self.answer.make_room(bytes.len() as u32);
                // The least that holds nothing of the connection's window from others; what is sent
                // then asks for the rest.
                stream.reserve_capacity(1);
                self.piece = Some((bytes, self.answer.rest() == Some(0)));
            }
            (AnswerEvent::End, To::Body(stream)) => {
                let _ended = stream.send_data(Bytes::new(), true);
                return true;
            }
            (_, To::Body(stream)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return true;
            }
            (_, To::Head(respond)) => {
                respond.send_reset(Reason::INTERNAL_ERROR);
                return true;
            }
        }
        false
    }

    /// Sends what waits, once there is some window. True when nothing follows.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let To::Body(stream) = &mut self.to else {
            return Poll::Ready(true);
        };
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(true),
            }
        }
        let Some((bytes, last)) = self.piece.take() else {
            return Poll::Ready(false);
        };
        Poll::Ready(stream.send_data(bytes, last).is_err() || last)
    }
}
