//! One request to the origin, one answer.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    LOCATION, RANGE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;

use super::body::{body, emote_number, parameter, split};
use super::{Fault, State, fault_by_name};

/// Longest wait a request may ask for.
const MAX_DELAY: Duration = Duration::from_secs(600);
/// Parts of a body that drips.
const DRIP_PARTS: u32 = 20;
/// How long a stalled answer keeps its connection.
const STALL: Duration = Duration::from_secs(3600);

/// Among the counts, once there are any: body bytes of films that connections have taken.
pub const FILM_BYTES: &str = "__film_bytes";

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// An answer before its faults.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    pace: Pace,
    wait: Duration,
}

/// How the body's bytes leave.
#[derive(Clone, Copy)]
enum Pace {
    AtOnce,
    /// At once, without a declared length.
    Chunked,
    Over(Duration),
    /// Half, then silence.
    Stall,
    /// Half, then the connection closes.
    Truncate,
}

/// Answers, or fails where the connection is to be closed without an answer.
pub(super) async fn respond(
    state: &State,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_owned();
    let (path, query) = split(&target);
    match path {
        "/__counts" => return Ok(counts(state)),
        "/__reset" => return Ok(reset(state, request.method())),
        "/__edition" if request.method() == Method::POST => {
            state.films.next_edition();
            return Ok(plain(StatusCode::OK, "another edition\n".into()));
        }
        _ if path.starts_with("/film/") => {}
        _ => state.count(&target),
    }
    let asked = match Asked::read(state, query) {
        Ok(asked) => asked,
        Err(reason) => return Ok(plain(StatusCode::BAD_REQUEST, reason)),
    };
    if path.starts_with("/film/") {
        tokio::time::sleep(asked.delay).await;
        return Ok(film(state, &request, &target));
    }
    match path {
        "/echo" => {
            return Ok(Response::new(
                request.into_body().map_err(io::Error::other).boxed(),
            ));
        }
        "/take" => {
            let body = request.into_body().collect().await;
            let length = body.map_err(io::Error::other)?.to_bytes().len();
            return Ok(plain(StatusCode::OK, format!("{length}\n")));
        }
        "/early" => return Ok(plain(StatusCode::FORBIDDEN, "not wanted\n".into())),
        _ => {}
    }
    let mut answer = answer(state, &request, &target);
    tokio::time::sleep(asked.delay + answer.wait).await;
    if let Some(value) = asked.cache_control {
        answer.headers.insert(CACHE_CONTROL, value);
    }
    answer.headers.extend(asked.fields);
    match asked.fault {
        Some(Fault::Close) => return Err(io::Error::other("closed on purpose")),
        Some(Fault::Error) => {
            return Ok(plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "broken on purpose\n".into(),
            ));
        }
        Some(Fault::Truncate) => answer.pace = Pace::Truncate,
        Some(Fault::Stall) => answer.pace = Pace::Stall,
        None => {}
    }
    Ok(send(answer, &request))
}

/// Parts are counted by what was asked for.
fn film(state: &State, request: &Request<Incoming>, target: &str) -> Response<Body> {
    let range = request.headers().get(RANGE);
    match range.and_then(|range| range.to_str().ok()) {
        Some(range) => state.count(&format!("{target} {range}")),
        None => state.count(target),
    }
    let answer = state
        .films
        .answer(target, request.method(), request.headers());
    answer.unwrap_or_else(|| plain(StatusCode::BAD_REQUEST, "a film of too many bytes\n".into()))
}

/// What the options and the query ask beside the content.
struct Asked {
    delay: Duration,
    fault: Option<Fault>,
    cache_control: Option<HeaderValue>,
    /// Set in the answer.
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Asked {
    fn read(state: &State, query: &str) -> Result<Self, String> {
        let delay = match parameter(query, "delay") {
            Some(text) => {
                milliseconds(text).ok_or_else(|| format!("delay={text} is not a number of ms\n"))?
            }
            None => Duration::ZERO,
        };
        let fault = match parameter(query, "fault") {
            Some(kind) => Some(fault_by_name(kind).map_err(|e| format!("{e}\n"))?),
            None => drawn_fault(state),
        };
        let cache_control = match parameter(query, "cc") {
            Some(text) => {
                Some(decoded(text).ok_or_else(|| format!("cc={text} is not a field value\n"))?)
            }
            None => None,
        };
        let pairs = query.split('&').filter_map(|pair| pair.strip_prefix("h="));
        let fields = pairs
            .map(|text| field(text).ok_or_else(|| format!("h={text} is no field\n")))
            .collect::<Result<_, _>>()?;
        let delay = (delay + state.options.delay).min(MAX_DELAY);
        Ok(Self {
            delay,
            fault,
            cache_control,
            fields,
        })
    }
}

/// The fault of the options, spread evenly: request `n` has it when `n * percent` passes a hundred.
fn drawn_fault(state: &State) -> Option<Fault> {
    let (fault, percent) = state.options.fault?;
    let n = state.requests.load(Ordering::Relaxed);
    let percent = u64::from(percent);
    (n * percent / 100 > n.saturating_sub(1) * percent / 100).then_some(fault)
}

fn milliseconds(text: &str) -> Option<Duration> {
    let wait = Duration::from_millis(text.parse().ok()?);
    Some(wait.min(MAX_DELAY))
}

/// `NAME:VALUE`, encoded.
fn field(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.parse().ok()?, decoded(value)?))
}

fn decoded(text: &str) -> Option<HeaderValue> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    HeaderValue::from_bytes(&out).ok()
}

fn answer(state: &State, request: &Request<Incoming>, target: &str) -> Answer {
    let (path, _) = split(target);
    let mut parts = path.trim_start_matches('/').split('/');
    let (first, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    match first {
        "emotes" => return emote(state, path),
        "live" if path == "/live/status.json" => return live(),
        "headers" => return request_fields(request.headers()),
        "status" => return status(second.unwrap_or("")),
        _ => {}
    }
    let Some(content) = body(target) else {
        return missing();
    };
    let mut answer = Answer::new(content, "application/octet-stream", "max-age=3600");
    match first {
        "" | "index" => answer = Answer::new(answer.body, "text/html; charset=utf-8", "max-age=60"),
        "private" => answer.set_cache_control("private, max-age=3600"),
        "no-store" => answer.set_cache_control("no-store"),
        "slow" => match second.and_then(milliseconds) {
            Some(wait) => answer.wait = wait,
            None => return missing(),
        },
        "drip" => match third.and_then(milliseconds) {
            Some(over) => answer.pace = Pace::Over(over),
            None => return missing(),
        },
        "chunked" => answer.pace = Pace::Chunked,
        "stall" => answer.pace = Pace::Stall,
        "truncate" => answer.pace = Pace::Truncate,
        _ => {}
    }
    answer
}

impl Answer {
    fn new(body: Bytes, content_type: &'static str, cache_control: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
        headers.insert(ETAG, entity_tag(&body));
        Self {
            status: StatusCode::OK,
            headers,
            body,
            pace: Pace::AtOnce,
            wait: Duration::ZERO,
        }
    }

    fn set_cache_control(&mut self, value: &'static str) {
        self.headers
            .insert(CACHE_CONTROL, HeaderValue::from_static(value));
    }
}

/// A tag from the length and the ends of the body: enough for content that never changes under its path.
fn entity_tag(body: &Bytes) -> HeaderValue {
    let ends = body.iter().take(64).chain(body.iter().rev().take(64));
    let sum = ends.fold(0u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let text = format!("\"{:x}-{sum:x}\"", body.len());
    HeaderValue::try_from(text).expect("hexadecimal digits in quotes")
}

fn emote(state: &State, path: &str) -> Answer {
    let number = emote_number(path);
    let picture = number.and_then(|n| state.emotes.get(n as usize));
    let (Some(number), Some(file)) = (number, picture) else {
        return missing();
    };
    let mut answer = Answer::new(
        file.clone(),
        "image/png",
        "public, max-age=86400, immutable",
    );
    let keys = format!("emotes emote-{number} set-{}", number % EMOTE_SETS);
    let keys = HeaderValue::try_from(keys).expect("letters and digits");
    answer.headers.insert("surrogate-key", keys);
    answer
}

/// Emotes are spread over so many sets, for their surrogate keys.
const EMOTE_SETS: u32 = 8;

fn live() -> Answer {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let text = format!(
        "{{\"counter\":{now},\"live\":true,\"viewers\":{}}}\n",
        10_000 + super::body::mix(now) % 5_000
    );
    Answer::new(Bytes::from(text), "application/json", "max-age=1")
}

fn request_fields(headers: &HeaderMap) -> Answer {
    let fields: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let text = serde_json::to_vec(&fields).expect("strings are JSON");
    Answer::new(Bytes::from(text), "application/json", "no-store")
}

fn status(code: &str) -> Answer {
    let code = code.parse().ok().filter(|c| (200..=599).contains(c));
    let Some(status) = code.and_then(|c| StatusCode::from_u16(c).ok()) else {
        let mut answer = missing();
        answer.status = StatusCode::BAD_REQUEST;
        return answer;
    };
    let content = body(&format!("/status/{}", status.as_u16())).unwrap_or_default();
    let bodiless = matches!(status.as_u16(), 204 | 205 | 304);
    let mut answer = Answer::new(
        if bodiless { Bytes::new() } else { content },
        "application/octet-stream",
        "no-cache",
    );
    answer.headers.remove(CACHE_CONTROL);
    answer.headers.remove(ETAG);
    if status.is_redirection() && !bodiless {
        answer
            .headers
            .insert(LOCATION, HeaderValue::from_static("/index"));
    }
    answer.status = status;
    answer
}

fn missing() -> Answer {
    let mut answer = Answer::new(Bytes::from_static(b"not found\n"), "text/plain", "no-cache");
    answer.headers.remove(CACHE_CONTROL);
    answer.headers.remove(ETAG);
    answer.status = StatusCode::NOT_FOUND;
    answer
}

/// Puts an answer on the wire; a validator that matches makes it a 304.
fn send(answer: Answer, request: &Request<Incoming>) -> Response<Body> {
    let Answer {
        status,
        headers,
        body,
        pace,
        ..
    } = answer;
    let validator = request.headers().get(IF_NONE_MATCH);
    let mut response = Response::new(empty());
    *response.headers_mut() = headers;
    *response.status_mut() = status;
    if validator.is_some() && validator == response.headers().get(ETAG) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let bodiless = matches!(status.as_u16(), 204 | 304);
    if !bodiless && !matches!(pace, Pace::Chunked) {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if request.method() != Method::HEAD && !bodiless {
        *response.body_mut() = paced(body, pace);
    }
    response
}

fn paced(content: Bytes, pace: Pace) -> Body {
    if let Pace::AtOnce = pace {
        return full(content);
    }
    let (mut sender, channel) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        let half = content.len() / 2;
        // A failed send means that the client left, which ends the task.
        match pace {
            Pace::AtOnce | Pace::Chunked => {
                let _ = sender.send_data(content).await;
            }
            Pace::Over(time) => drip(sender, content, time).await,
            Pace::Stall => {
                let _ = sender.send_data(content.slice(..half)).await;
                tokio::time::sleep(STALL).await;
            }
            Pace::Truncate => {
                let _ = sender.send_data(content.slice(..half)).await;
                // Lets the half reach the wire before the connection closes.
                tokio::time::sleep(Duration::from_millis(20)).await;
                sender.abort(io::Error::other("truncated on purpose"));
            }
        }
    });
    BodyExt::boxed(channel)
}

async fn drip(
    mut sender: http_body_util::channel::Sender<Bytes, io::Error>,
    content: Bytes,
    time: Duration,
) {
    let part = content.len().div_ceil(DRIP_PARTS as usize).max(1);
    let mut rest = content;
    while !rest.is_empty() {
        let next = rest.split_to(part.min(rest.len()));
        if sender.send_data(next).await.is_err() {
            return;
        }
        tokio::time::sleep(time / DRIP_PARTS).await;
    }
}

fn counts(state: &State) -> Response<Body> {
    let mut counts = state
        .counts
        .lock()
        .expect("no panic while counting")
        .clone();
    if state.films.sent() > 0 {
        counts.insert(FILM_BYTES.to_owned(), state.films.sent());
    }
    let text = serde_json::to_vec(&counts).expect("counts are JSON");
    let mut response = Response::new(full(Bytes::from(text)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn reset(state: &State, method: &Method) -> Response<Body> {
    if method != Method::POST {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "POST forgets the counts\n".into(),
        );
    }
    state.films.reset();
    state
        .counts
        .lock()
        .expect("no panic while counting")
        .clear();
    plain(StatusCode::OK, "forgotten\n".into())
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn full(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed()
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}
