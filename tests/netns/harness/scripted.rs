//! An origin that says word for word what a test wants, and notes what it was asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Edge;
use super::network::within;

/// Where it listens, in the appliance's namespace.
const ADDRESS: &str = "127.0.0.1:8082";
/// The host that it serves.
pub const HOST: &str = "scripted.test";
/// For clients that connect to the appliance under its own name.
pub const HEADER: [&str; 2] = ["--header", "Host: scripted.test"];

/// How a final response begins that others come before.
const FINAL: &[u8] = b"HTTP/1.1 200 ";
/// Between those and this.
const PAUSE: Duration = Duration::from_millis(300);

const TIMEOUT: Duration = Duration::from_secs(30);

/// What the appliance's configuration says of it.
pub fn section() -> String {
    let (address, _) = ADDRESS.split_once(':').unwrap_or_default();
    section_at(address)
}

/// The same, found under a name that resolves to where it is.
pub fn section_at(name: &str) -> String {
    let (_, port) = ADDRESS.split_once(':').unwrap_or_default();
    format!(
        "[[origin]]\nname = \"scripted\"\nhosts = [\"{HOST}\"]\nurl = \"http://{name}:{port}\"\n"
    )
}

pub struct Scripted {
    namespace: String,
    asked: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Edge {
    /// Starts one that answers each request's head (lower-case names, as sent) so. Every answer ends
    /// its connection.
    pub fn script(&self, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Scripted {
        let namespace = self.network().server().to_owned();
        let listener = within(&namespace, || TcpListener::bind(ADDRESS)).expect("listen");
        let (asked, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (notes, end) = (Arc::clone(&asked), Arc::clone(&over));
        let listening = thread::spawn(move || serve(&listener, &notes, &end, answer));
        Scripted {
            namespace,
            asked,
            over,
            listening: Some(listening),
        }
    }
}

impl Scripted {
    /// The heads of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while noting").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Whatever comes of it: it was woken, or it has ended.
        let _woken = within(&self.namespace, || TcpStream::connect(ADDRESS));
        if let Some(listening) = self.listening.take()
            && listening.join().is_err()
        {
            eprintln!("the scripted origin ended in a panic");
        }
    }
}

fn serve(
    listener: &TcpListener,
    asked: &Mutex<Vec<String>>,
    over: &AtomicBool,
    answer: impl Fn(&str) -> Vec<u8>,
) {
    for stream in listener.incoming() {
        if over.load(Ordering::Acquire) {
            return;
        }
        let mut stream = stream.expect("accept");
        let Some(head) = read_head(&mut stream) else {
            continue;
        };
        let response = answer(&head);
        asked.lock().expect("no panic while noting").push(head);
        let last = response.windows(FINAL.len()).position(|part| part == FINAL);
        let (interim, last) = response.split_at(last.unwrap_or(0));
        // The other end may have heard enough.
        let _sent = stream.write_all(interim);
        if !interim.is_empty() {
            thread::sleep(PAUSE);
        }
        let _sent = stream.write_all(last);
    }
}

/// The head of a request whose body, if any, is declared. `None`: none came.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    stream
        .set_read_timeout(Some(TIMEOUT))
        .expect("bound the wait");
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let end = read.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&read[..end + 2]).into_owned();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |text| text.parse().expect("a length"));
            if read.len() >= end + 4 + length {
                return Some(head);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(more) => read.extend_from_slice(&buffer[..more]),
        }
    }
}
