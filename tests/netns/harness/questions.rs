//! Datagrams that are answered one by one, each with its number: of a QUIC version that nobody speaks, which a server
//! answers with Version Negotiation (RFC 9000 section 6.1) and keeps nothing of. Nothing is sent twice, so that what
//! is lost stays lost.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::{Edge, SERVER, within};

/// How many are sent in a row, and how often.
const TRAIN: usize = 4;
const EVERY: Duration = Duration::from_millis(4);
/// After the last one, for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a server must be sent to answer a version that it does not know.
const SIZE: usize = 1200;
/// Reserved to be unknown (RFC 9000 section 15).
const VERSION: u32 = 0x1a2a_3a4a;
const ID: u8 = 8;
/// Where the ids are in a long header, behind their lengths.
const FIRST_ID: usize = 6;
const SECOND_ID: usize = FIRST_ID + ID as usize + 1;
const ANSWER: usize = SECOND_ID + ID as usize;

/// What became of them.
#[derive(Debug, Default)]
pub struct Questions {
    pub sent: u64,
    /// Numbers that were answered.
    pub answered: u64,
    /// Answers to what was answered already.
    pub twice: u64,
    /// Answers to nothing that was asked, refusals by the kernel among them.
    pub strange: Vec<String>,
    /// The first numbers that nobody answered.
    pub lost: Vec<u64>,
}

impl Edge {
    /// Who asks; it lives as long as the clients' network.
    pub fn asker(&self) -> Asker {
        Asker {
            namespace: self.network().client().to_owned(),
        }
    }
}

/// A client of the clients' network.
pub struct Asker {
    namespace: String,
}

impl Asker {
    /// Asks, about a thousand times a second, until `over`.
    pub fn ask_until(&self, over: &AtomicBool) -> Questions {
        within(&self.namespace, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(SERVER).expect("a route");
            setsockopt(&socket, RcvBufForce, &(8 << 20)).expect("a large buffer");
            socket.set_nonblocking(true).expect("non-blocking");
            let mut asking = Asking {
                socket,
                is_answered: Vec::new(),
                questions: Questions::default(),
            };
            asking.run(over);
            asking.questions
        })
    }
}

struct Asking {
    socket: UdpSocket,
    /// By number.
    is_answered: Vec<bool>,
    questions: Questions,
}

impl Asking {
    fn run(&mut self, over: &AtomicBool) {
        let mut due = Instant::now();
        while !over.load(Relaxed) {
            for _ in 0..TRAIN {
                self.ask();
            }
            self.hear();
            due = (due + EVERY).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let end = Instant::now() + LAST_ANSWERS;
        while self.questions.answered < self.questions.sent && Instant::now() < end {
            self.hear();
            thread::sleep(EVERY);
        }
        let numbers = self.is_answered.iter().enumerate();
        let lost = numbers.filter(|(_, is_answered)| !**is_answered);
        self.questions.lost = lost.map(|(number, _)| number as u64).take(20).collect();
    }

    fn ask(&mut self) {
        let number = self.questions.sent;
        match self.socket.send(&question(number)) {
            Ok(length) => assert_eq!(length, SIZE),
            // A refusal of one before, told now; this one did not leave.
            Err(error) => return self.questions.strange.push(error.to_string()),
        }
        self.is_answered.push(false);
        self.questions.sent += 1;
    }

    fn hear(&mut self) {
        let mut answer = [0; 1500];
        loop {
            match self.socket.recv(&mut answer) {
                Ok(length) => self.take(&answer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => self.questions.strange.push(error.to_string()),
            }
        }
    }

    fn take(&mut self, answer: &[u8]) {
        let place = number_of(answer).and_then(|number| {
            let number = usize::try_from(number).ok()?;
            self.is_answered.get_mut(number)
        });
        match place {
            None => self.questions.strange.push(format!("{answer:02x?}")),
            Some(is_answered) if *is_answered => self.questions.twice += 1,
            Some(is_answered) => {
                *is_answered = true;
                self.questions.answered += 1;
            }
        }
    }
}

/// The second byte of the first id says which shard is asked.
fn question(number: u64) -> [u8; SIZE] {
    let mut packet = [0; SIZE];
    packet[0] = 0xc0;
    packet[1..5].copy_from_slice(&VERSION.to_be_bytes());
    packet[FIRST_ID - 1] = ID;
    packet[FIRST_ID..FIRST_ID + usize::from(ID)].fill(number as u8);
    packet[SECOND_ID - 1] = ID;
    packet[SECOND_ID..ANSWER].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The number of the question that this answers.
fn number_of(answer: &[u8]) -> Option<u64> {
    let (head, ids) = answer.get(..ANSWER)?.split_at(FIRST_ID - 1);
    let is_negotiation = head[0] & 0x80 != 0 && head[1..5] == [0; 4];
    let are_ours = ids[0] == ID && ids[usize::from(ID) + 1] == ID;
    let number = ids[1..=usize::from(ID)].first_chunk()?;
    (is_negotiation && are_ours).then(|| u64::from_be_bytes(*number))
}
