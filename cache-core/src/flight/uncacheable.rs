//! What need not be waited for, because the last answer was for one request only.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::store::KeyHash;

/// Keys whose last answer was for one request only, so that their requests do not queue behind
/// each other. Bounded: the oldest mark is forgotten first, at the cost of one more collapsed fetch.
pub struct Uncacheable {
    until: HashMap<KeyHash, u64, RandomState>,
    order: VecDeque<(KeyHash, u64)>,
    max: usize,
    ttl_ms: u64,
}

impl Uncacheable {
    pub fn new(max: usize, ttl: std::time::Duration) -> Self {
        Self {
            until: HashMap::default(),
            order: VecDeque::new(),
            max,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub fn len(&self) -> usize {
        self.until.len()
    }

    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    pub fn mark(&mut self, hash: KeyHash, now_ms: u64) {
        let until = now_ms.saturating_add(self.ttl_ms);
        self.until.insert(hash, until);
        self.order.push_back((hash, until));
        while self.order.len() > self.max {
            self.forget_oldest();
        }
    }

    pub fn contains(&mut self, hash: KeyHash, now_ms: u64) -> bool {
        while self
            .order
            .front()
            .is_some_and(|&(_, until)| until <= now_ms)
        {
            self.forget_oldest();
        }
        self.until.contains_key(&hash)
    }

    pub fn clear(&mut self) {
        self.until.clear();
        self.order.clear();
    }

    fn forget_oldest(&mut self) {
        let Some((hash, until)) = self.order.pop_front() else {
            return;
        };
        // A later mark of the same key keeps it.
        if self.until.get(&hash) == Some(&until) {
            self.until.remove(&hash);
        }
    }
}
