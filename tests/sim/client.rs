//! A client: a real QUIC endpoint and just enough HTTP/3 to ask and to read the answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cache_core::conn::h3::frame::{FrameHeader, write_varint};
use cache_core::conn::h3::qpack;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint,
    EndpointConfig, Event, RandomConnectionIdGenerator, ReadError, StreamEvent, StreamId,
    TransportConfig, VarInt, crypto::rustls::QuicClientConfig,
};

use crate::plan::RequestPlan;
use crate::tls;

const FRAME_DATA: u64 = 0;
const FRAME_HEADERS: u64 = 1;
const H3_REQUEST_CANCELLED: u32 = 0x10c;

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub plan: RequestPlan,
    pub sent_at: Duration,
    stream: Option<StreamId>,
    received: Vec<u8>,
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    /// Reset by the server with this code.
    Reset(u64),
    /// Taken back by the client.
    Cancelled,
    ConnectionLost(String),
    /// Ended in the middle of a frame, though not reset.
    Torn(String),
    /// Never sent: the client was gone before.
    Unsent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub version: Option<usize>,
    pub cache_status: String,
    pub retry_after: bool,
    pub content_range: Option<String>,
    /// Of a multipart/byteranges body.
    pub boundary: Option<String>,
    pub body: Vec<u8>,
}

impl Exchange {
    pub fn new(plan: RequestPlan) -> Self {
        Self {
            plan,
            sent_at: Duration::ZERO,
            stream: None,
            received: Vec::new(),
            outcome: None,
        }
    }
}

impl Answer {
    fn empty() -> Self {
        Self {
            status: 0,
            version: None,
            cache_status: String::new(),
            retry_after: false,
            content_range: None,
            boundary: None,
            body: Vec::new(),
        }
    }

    /// One without a body yet.
    pub fn of(status: u16, headers: &http::HeaderMap) -> Self {
        let mut answer = Self::empty();
        answer.status = status;
        for (name, value) in headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            answer.field(name.as_str().as_bytes(), value);
        }
        answer
    }

    fn field(&mut self, name: &[u8], value: String) {
        match name {
            b":status" => self.status = value.parse().unwrap_or(0),
            b"x-version" => self.version = value.parse().ok(),
            b"cache-status" => self.cache_status = value,
            b"retry-after" => self.retry_after = true,
            b"content-range" => self.content_range = Some(value),
            b"content-type" => {
                let multipart = value.strip_prefix("multipart/byteranges; boundary=");
                self.boundary = multipart.map(str::to_owned);
            }
            _ => {}
        }
    }
}

pub struct Client {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    pub address: SocketAddr,
    server: SocketAddr,
    pub exchanges: Vec<Exchange>,
    by_stream: BTreeMap<StreamId, usize>,
    waiting: Vec<usize>,
    connected: bool,
    lost: Option<String>,
    pub vanished: bool,
}

/// Datagrams for the server.
pub type Sent = Vec<(SocketAddr, Vec<u8>)>;

impl Client {
    pub fn new(
        address: SocketAddr,
        server: SocketAddr,
        seed: [u8; 32],
        requests: &[RequestPlan],
    ) -> Self {
        let mut config = EndpointConfig::default();
        config
            .rng_seed(Some(seed))
            .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(8)));
        Self {
            endpoint: Endpoint::new(Arc::new(config), None, true, Some(seed)),
            connection: None,
            address,
            server,
            exchanges: requests.iter().map(|&plan| Exchange::new(plan)).collect(),
            by_stream: BTreeMap::new(),
            waiting: Vec::new(),
            connected: false,
            lost: None,
            vanished: false,
        }
    }

    /// Every request has an outcome.
    pub fn is_done(&self) -> bool {
        self.exchanges
            .iter()
            .all(|exchange| exchange.outcome.is_some())
    }

    pub fn connect(&mut self, now: Instant, tls: Arc<rustls::ClientConfig>) -> Result<(), String> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(VarInt::from_u32(10_000).into()))
            .max_concurrent_uni_streams(VarInt::from_u32(8))
            .keep_alive_interval(Some(Duration::from_secs(4)));
        config.transport_config(Arc::new(transport));
        let connection = self
            .endpoint
            .connect(now, config, self.server, tls::SERVER_NAME)
            .map_err(|error| error.to_string())?;
        self.connection = Some(connection);
        Ok(())
    }

    pub fn send_request(&mut self, at: Duration, index: usize) {
        self.exchanges[index].sent_at = at;
        if self.vanished {
            self.exchanges[index].outcome = Some(Outcome::Unsent);
            return;
        }
        if let Some(reason) = &self.lost {
            self.exchanges[index].outcome = Some(Outcome::ConnectionLost(reason.clone()));
            return;
        }
        self.waiting.push(index);
        self.open_streams();
    }

    pub fn cancel(&mut self, index: usize) {
        let exchange = &mut self.exchanges[index];
        if exchange.outcome.is_some() {
            return;
        }
        exchange.outcome = Some(Outcome::Cancelled);
        let Some(stream) = exchange.stream else {
            return;
        };
        if let Some((_, connection)) = &mut self.connection {
            let code = VarInt::from_u32(H3_REQUEST_CANCELLED);
            let _closed_already = connection.recv_stream(stream).stop(code);
            let _closed_already = connection.send_stream(stream).reset(code);
        }
    }

    /// Falls silent: nothing is sent or read any more.
    pub fn vanish(&mut self) {
        self.vanished = true;
        for exchange in &mut self.exchanges {
            exchange.outcome.get_or_insert(Outcome::Unsent);
        }
    }

    pub fn close(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection {
            connection.close(now, VarInt::from_u32(0x100), bytes::Bytes::new());
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connected && self.lost.is_none()
    }

    /// Why the connection is gone, if it is.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    pub fn datagram(&mut self, now: Instant, data: &[u8]) {
        self.marked_datagram(now, None, data);
    }

    /// One that came with a mark of the network (ECN).
    pub fn marked_datagram(&mut self, now: Instant, ecn: Option<EcnCodepoint>, data: &[u8]) {
        if self.vanished {
            return;
        }
        let mut buffer = Vec::new();
        let data = BytesMut::from(data);
        let event = self
            .endpoint
            .handle(now, self.server, None, ecn, data, &mut buffer);
        if let (Some(DatagramEvent::ConnectionEvent(_, event)), Some((_, connection))) =
            (event, &mut self.connection)
        {
            connection.handle_event(event);
        }
    }

    /// Fires timers, reads events and writes datagrams.
    pub fn drive(&mut self, now: Instant) -> Sent {
        let mut sent = Vec::new();
        if self.vanished {
            return sent;
        }
        if let Some((_, connection)) = &mut self.connection
            && connection.poll_timeout().is_some_and(|due| due <= now)
        {
            connection.handle_timeout(now);
        }
        self.events();
        self.open_streams();
        let Some((handle, connection)) = &mut self.connection else {
            return sent;
        };
        loop {
            let mut buffer = Vec::new();
            let Some(transmit) = connection.poll_transmit(now, 1, &mut buffer) else {
                break;
            };
            sent.push((transmit.destination, buffer));
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        sent
    }

    pub fn next_timeout(&mut self) -> Option<Instant> {
        match &mut self.connection {
            Some((_, connection)) if !self.vanished => connection.poll_timeout(),
            _ => None,
        }
    }

    fn events(&mut self) {
        loop {
            let Some((_, connection)) = &mut self.connection else {
                return;
            };
            let Some(event) = connection.poll() else {
                return;
            };
            match event {
                Event::Connected => {
                    self.connected = true;
                    open_control(connection);
                }
                Event::ConnectionLost { reason } => self.connection_lost(&reason.to_string()),
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = connection.streams().accept(Dir::Uni) {
                        read_over(connection, id);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) if id.dir() == Dir::Uni => {
                    read_over(connection, id);
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    let _closed_already = connection.send_stream(id).reset(error_code);
                }
                _ => {}
            }
        }
    }

    fn connection_lost(&mut self, reason: &str) {
        self.lost = Some(reason.to_owned());
        self.waiting.clear();
        for exchange in &mut self.exchanges {
            if exchange.sent_at > Duration::ZERO {
                exchange
                    .outcome
                    .get_or_insert_with(|| Outcome::ConnectionLost(reason.to_owned()));
            }
        }
    }

    fn open_streams(&mut self) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        while self.connected
            && let Some(&index) = self.waiting.first()
        {
            if self.exchanges[index].outcome.is_some() {
                self.waiting.remove(0);
                continue;
            }
            let Some(id) = connection.streams().open(Dir::Bi) else {
                return;
            };
            self.waiting.remove(0);
            self.exchanges[index].stream = Some(id);
            self.by_stream.insert(id, index);
            let request = encode(&self.exchanges[index].plan);
            let mut stream = connection.send_stream(id);
            let _small_enough_for_any_window = stream.write(&request);
            let _reset_already = stream.finish();
        }
    }

    fn read(&mut self, id: StreamId) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        let Some(&index) = self.by_stream.get(&id) else {
            return;
        };
        let exchange = &mut self.exchanges[index];
        let mut recv = connection.recv_stream(id);
        let Ok(mut chunks) = recv.read(true) else {
            return;
        };
        let outcome = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => exchange.received.extend_from_slice(&chunk.bytes),
                Ok(None) => break Some(decode(&exchange.received)),
                Err(ReadError::Blocked) => break None,
                Err(ReadError::Reset(code)) => break Some(Outcome::Reset(code.into_inner())),
            }
        };
        let _sent_by_the_next_transmit = chunks.finalize();
        if let Some(outcome) = outcome {
            exchange.received = Vec::new();
            exchange.outcome.get_or_insert(outcome);
        }
    }
}

fn open_control(connection: &mut Connection) {
    if let Some(id) = connection.streams().open(Dir::Uni) {
        // Stream type 0 (control), SETTINGS of length 0.
        let _fits_any_window = connection.send_stream(id).write(&[0x00, 0x04, 0x00]);
    }
}

fn read_over(connection: &mut Connection, id: StreamId) {
    let mut recv = connection.recv_stream(id);
    if let Ok(mut chunks) = recv.read(true) {
        while let Ok(Some(_)) = chunks.next(usize::MAX) {}
        let _sent_by_the_next_transmit = chunks.finalize();
    }
}

fn encode(plan: &RequestPlan) -> Vec<u8> {
    let mut section = Vec::new();
    qpack::write_prefix(&mut section);
    let method: &[u8] = if plan.head { b"HEAD" } else { b"GET" };
    qpack::write_field(&mut section, b":method", method);
    qpack::write_field(&mut section, b":scheme", b"https");
    qpack::write_field(&mut section, b":authority", tls::SERVER_NAME.as_bytes());
    let path = crate::origin::target(plan.resource);
    qpack::write_field(&mut section, b":path", path.as_bytes());
    if plan.authorization {
        qpack::write_field(&mut section, b"authorization", b"Bearer of-one-client");
    }
    if let Some(range) = plan.range {
        qpack::write_field(&mut section, b"range", range.field().as_bytes());
    }
    let mut request = Vec::new();
    write_varint(&mut request, FRAME_HEADERS);
    write_varint(&mut request, section.len() as u64);
    request.extend_from_slice(&section);
    request
}

/// Reads a whole response.
fn decode(mut data: &[u8]) -> Outcome {
    let mut answer = Answer::empty();
    while let Some((header, used)) = FrameHeader::parse(data) {
        let end = used + header.length as usize;
        let Some(payload) = data.get(used..end) else {
            let got = data.len() - used;
            return Outcome::Torn(format!("{got} bytes of a frame of {}", header.length));
        };
        match header.kind {
            FRAME_HEADERS => read_fields(payload, &mut answer),
            FRAME_DATA => answer.body.extend_from_slice(payload),
            _ => {}
        }
        data = &data[end..];
    }
    Outcome::Answered(answer)
}

fn read_fields(section: &[u8], answer: &mut Answer) {
    let Ok(mut lines) = qpack::Lines::new(section) else {
        return;
    };
    while let Ok(Some(line)) = lines.next_line() {
        let name = match line.name {
            qpack::Name::Static(index) => {
                qpack::static_table::ENTRIES[usize::from(index)].0.to_vec()
            }
            qpack::Name::Literal(text) => text_of(text),
        };
        let value = String::from_utf8_lossy(&text_of(line.value)).into_owned();
        answer.field(&name, value);
    }
}

fn text_of(text: qpack::Text<'_>) -> Vec<u8> {
    let mut out = vec![0; 4 << 10];
    let len = text.decode(&mut out).map_or(0, |decoded| decoded.len);
    out.truncate(len);
    out
}
