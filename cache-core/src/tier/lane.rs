//! What is to be written to one device, in order, one command at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hugepages::blocks::{Block, Pool};

use super::io::IoId;

/// A device that failed is left alone for so long, doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

#[derive(Debug)]
pub(super) enum Job {
    Write {
        segment: u32,
        sequence: u64,
        /// Where in the segment.
        at: u32,
        len: u32,
        block: Block,
    },
    /// Cut in blocks when it is its turn.
    Footer {
        segment: u32,
        sequence: u64,
        at: u32,
        bytes: Vec<u8>,
        sent: u32,
    },
    Flush {
        ticket: Option<u64>,
    },
    Discard {
        segment: u32,
    },
}

/// The command under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnderWay {
    Write {
        segment: u32,
        sequence: u64,
        /// Bytes of the segment that can be read when it is done; `None` for a footer's part.
        readable: Option<u32>,
        len: u32,
        /// Nothing of the job is left to be sent.
        last: bool,
    },
    Flush {
        ticket: Option<u64>,
    },
    Discard,
}

/// A command to be given out.
#[derive(Debug)]
pub(super) enum Step {
    Write {
        segment: u32,
        at: u32,
        len: u32,
        block: Block,
    },
    Flush,
    Discard {
        segment: u32,
    },
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    jobs: VecDeque<Job>,
    pub under_way: Option<UnderWay>,
    /// The command's name.
    pub io: Option<IoId>,
    /// Written since the last flush.
    dirty: bool,
    /// The device does not take discards.
    pub no_discard: bool,
    paused_until: Option<Instant>,
    failures: u32,
}

impl Lane {
    pub fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// Blocks held here or under way.
    pub fn blocks(&self) -> usize {
        let queued = self
            .jobs
            .iter()
            .filter(|job| matches!(job, Job::Write { .. }));
        let writing = matches!(self.under_way, Some(UnderWay::Write { .. }));
        queued.count() + usize::from(writing)
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty || !self.jobs.is_empty() || self.under_way.is_some()
    }

    pub fn is_settled(&self) -> bool {
        self.jobs.is_empty() && self.under_way.is_none()
    }

    /// The next command, if none is under way, the device is not paused, and a footer finds a block.
    pub fn next(&mut self, now: Instant, pool: &Pool) -> Option<Step> {
        if self.under_way.is_some() || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.paused_until = None;
        let step = self.take_step(pool)?;
        self.dirty |= matches!(step, Step::Write { .. });
        Some(step)
    }

    fn take_step(&mut self, pool: &Pool) -> Option<Step> {
        if let Some(Job::Footer { .. }) = self.jobs.front() {
            return self.footer_step(pool);
        }
        match self.jobs.pop_front()? {
            Job::Write {
                segment,
                sequence,
                at,
                len,
                block,
            } => {
                self.under_way = Some(UnderWay::Write {
                    segment,
                    sequence,
                    readable: Some(at + len),
                    len,
                    last: true,
                });
                Some(Step::Write {
                    segment,
                    at,
                    len,
                    block,
                })
            }
            Job::Flush { ticket } => {
                self.under_way = Some(UnderWay::Flush { ticket });
                Some(Step::Flush)
            }
            Job::Discard { .. } if self.no_discard => self.take_step(pool),
            Job::Discard { segment } => {
                self.under_way = Some(UnderWay::Discard);
                Some(Step::Discard { segment })
            }
            Job::Footer { .. } => None,
        }
    }

    /// The next part of the footer at the front.
    fn footer_step(&mut self, pool: &Pool) -> Option<Step> {
        let mut block = pool.take()?;
        let Some(Job::Footer {
            segment,
            sequence,
            at,
            bytes,
            sent,
        }) = self.jobs.front_mut()
        else {
            return None;
        };
        let rest = &bytes[*sent as usize..];
        let len = rest.len().min(block.len());
        block[..len].copy_from_slice(&rest[..len]);
        let last = len == rest.len();
        let step = Step::Write {
            segment: *segment,
            at: *at + *sent,
            len: len as u32,
            block,
        };
        self.under_way = Some(UnderWay::Write {
            segment: *segment,
            sequence: *sequence,
            readable: None,
            len: len as u32,
            last,
        });
        *sent += len as u32;
        if last {
            self.jobs.pop_front();
        }
        Some(step)
    }

    /// The flush that is under way is done: nothing written before it is unflushed.
    pub fn flushed(&mut self) {
        self.dirty = false;
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Leaves the device alone for a while.
    pub fn failed(&mut self, now: Instant) {
        let pause = FIRST_PAUSE * (1 << self.failures.min(6));
        self.paused_until = Some(now + pause.min(LONGEST_PAUSE));
        self.failures += 1;
    }

    pub fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// When the pause is over, if something waits for it.
    pub fn resumes(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Lets a pause end that nothing waits for.
    pub fn expire(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| now < *until);
    }

    pub fn drop_segment(&mut self, given_up: u32) {
        self.jobs.retain(|job| match job {
            Job::Write { segment, .. } | Job::Footer { segment, .. } => *segment != given_up,
            Job::Flush { .. } | Job::Discard { .. } => true,
        });
    }
}
