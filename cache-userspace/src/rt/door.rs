//! How a core's TCP tasks reach its shard. They run on the same thread between the turns of the
//! loop, so a request is handed over by a plain call, and a hit is answered before it returns.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cache_core::io::{AnswerEvent, ClientRequest, Outbox, RequestEvent, RequestId};

use super::core_loop::Core;
use super::doorbell::Doorbell;

/// The way from this core's tasks to its shard.
#[derive(Clone)]
pub struct Door {
    core: Weak<RefCell<Core>>,
    /// Wakes the loop, which may be asleep.
    bell: Arc<Doorbell>,
}

/// Answers that tasks wait for.
#[derive(Default)]
pub struct Answers {
    last: u64,
    waiting: HashMap<RequestId, Rc<RefCell<Slot>>>,
}

#[derive(Default)]
struct Slot {
    events: VecDeque<AnswerEvent>,
    waker: Option<Waker>,
    /// Counts the answers of a connection that wait for the shard.
    hungry: Rc<Cell<u32>>,
    waits: bool,
    /// Body bytes of the request that may be given to the shard.
    room: i64,
    /// Nothing follows: the answer has ended, or nobody wants it.
    over: bool,
    uploader: Option<Waker>,
}

impl Slot {
    fn wake_uploader(&mut self) {
        if let Some(waker) = self.uploader.take() {
            waker.wake();
        }
    }

    fn set_waits(&mut self, waits: bool) {
        match (self.waits, waits) {
            (false, true) => self.hungry.set(self.hungry.get() + 1),
            (true, false) => self.hungry.set(self.hungry.get() - 1),
            _ => {}
        }
        self.waits = waits;
    }
}

/// The answer to one request. Dropped before its end, the request is taken back.
pub struct Answer {
    door: Door,
    id: RequestId,
    slot: Rc<RefCell<Slot>>,
    /// The last event has arrived.
    over: bool,
}

impl Answers {
    fn next_id(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }

    /// Hands events to those who wait for them.
    pub fn deliver(&mut self, out: &mut Outbox) {
        for (id, event) in out.answers.drain(..) {
            let is_last = is_last(&event);
            if let Some(slot) = self.waiting.get(&id) {
                let mut slot = slot.borrow_mut();
                if let AnswerEvent::Room(bytes) = event {
                    slot.room += i64::from(bytes);
                    slot.wake_uploader();
                    continue;
                }
                slot.events.push_back(event);
                slot.set_waits(false);
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
                if is_last {
                    slot.over = true;
                    slot.wake_uploader();
                }
            }
            if is_last {
                self.waiting.remove(&id);
            }
        }
    }
}

fn is_last(event: &AnswerEvent) -> bool {
    matches!(event, AnswerEvent::End | AnswerEvent::Failed)
}

impl Door {
    pub fn new(core: &Rc<RefCell<Core>>) -> Self {
        Self {
            core: Rc::downgrade(core),
            bell: core.borrow().bell(),
        }
    }

    /// Asks the shard. `None`: the core is ending. `hungry` counts the answers of a connection that wait
    /// for the shard.
    pub fn ask(&self, request: ClientRequest, hungry: Rc<Cell<u32>>) -> Option<Answer> {
        let core = self.core.upgrade()?;
        let mut core = core.borrow_mut();
        let slot = Rc::new(RefCell::new(Slot {
            hungry,
            ..Slot::default()
        }));
        let id = core.answers.next_id();
        core.answers.waiting.insert(id, Rc::clone(&slot));
        if core.request(id, RequestEvent::Begin(Box::new(request))) {
            self.bell.ring();
        }
        Some(Answer {
            door: self.clone(),
            id,
            slot,
            over: false,
        })
    }

    fn tell(&self, id: RequestId, event: RequestEvent) {
        if let Some(core) = self.core.upgrade()
            && core.borrow_mut().request(id, event)
        {
            self.bell.ring();
        }
    }

    /// The node is draining: connections are to end when their requests are answered.
    pub fn is_draining(&self) -> bool {
        let core = self.core.upgrade();
        core.is_none_or(|core| core.borrow().is_draining())
    }

    /// Another node accepts connections from now on.
    pub fn has_left(&self) -> bool {
        let core = self.core.upgrade();
        core.is_none_or(|core| core.borrow().has_left())
    }

    /// Open TCP connections, so that the loop makes room for their tasks.
    pub fn set_connections(&self, open: usize) {
        if let Some(core) = self.core.upgrade() {
            core.borrow_mut().set_tcp_connections(open);
        }
    }
}

/// The way of a request's body to the shard.
pub struct Uploader {
    door: Door,
    id: RequestId,
    slot: Rc<RefCell<Slot>>,
}

impl Uploader {
    /// Waits until more of the body may be given; false: no more of it is wanted.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut slot = self.slot.borrow_mut();
        if slot.over || slot.room > 0 {
            return Poll::Ready(!slot.over);
        }
        slot.uploader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready as soon as no more of it is wanted.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.slot.borrow_mut();
        if slot.over {
            return Poll::Ready(());
        }
        slot.uploader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn give(&self, bytes: Bytes) {
        self.slot.borrow_mut().room -= bytes.len() as i64;
        self.door.tell(self.id, RequestEvent::Body(bytes));
    }

    pub fn end(&self) {
        self.door.tell(self.id, RequestEvent::BodyEnd);
    }

    /// The rest will not come: the answer is cut off.
    pub fn fail(&self) {
        let mut slot = self.slot.borrow_mut();
        if std::mem::replace(&mut slot.over, true) {
            return;
        }
        slot.events.push_back(AnswerEvent::Failed);
        slot.set_waits(false);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        drop(slot);
        if let Some(core) = self.door.core.upgrade() {
            core.borrow_mut().answers.waiting.remove(&self.id);
        }
        self.door.tell(self.id, RequestEvent::Cancel);
    }
}

impl Answer {
    /// For the body of the request, of which `window` bytes may be given at once.
    pub fn uploader(&self, window: u32) -> Uploader {
        self.slot.borrow_mut().room += i64::from(window);
        Uploader {
            door: self.door.clone(),
            id: self.id,
            slot: Rc::clone(&self.slot),
        }
    }

    /// The next piece. Nothing comes after `End` or `Failed`.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<AnswerEvent> {
        let mut slot = self.slot.borrow_mut();
        match slot.events.pop_front() {
            Some(event) => {
                self.over = is_last(&event);
                Poll::Ready(event)
            }
            None => {
                slot.waker = Some(cx.waker().clone());
                slot.set_waits(true);
                Poll::Pending
            }
        }
    }

    /// Bytes of the body that is still to be taken, if all of it is here already.
    pub fn rest(&self) -> Option<u64> {
        let slot = self.slot.borrow();
        match slot.events.back() {
            Some(AnswerEvent::End) => Some(slot.events.iter().map(body_len).sum()),
            _ => None,
        }
    }

    /// This many body bytes were passed on.
    pub fn make_room(&self, bytes: u32) {
        let is_here = self.slot.borrow().events.back().is_some_and(is_last);
        if !self.over && !is_here {
            self.door.tell(self.id, RequestEvent::Room(bytes));
        }
    }
}

fn body_len(event: &AnswerEvent) -> u64 {
    match event {
        AnswerEvent::Body(bytes) => bytes.len() as u64,
        _ => 0,
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut slot = self.slot.borrow_mut();
        slot.set_waits(false);
        slot.over = true;
        slot.wake_uploader();
        let ended = slot.events.back().is_some_and(is_last);
        drop(slot);
        if self.over || ended {
            return;
        }
        if let Some(core) = self.door.core.upgrade() {
            core.borrow_mut().answers.waiting.remove(&self.id);
        }
        self.door.tell(self.id, RequestEvent::Cancel);
    }
}
