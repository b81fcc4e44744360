//! What is worth writing: what is asked for most, as long as writing stays cheap beside missing.
//!
//! ```text
//!  leaves memory --> History: how often lately --> score
//!                                                    |        price  <-- Census: bytes by score
//!                                                    v          |
//!                            on the tier? declined   score > price?  budget left?  --> written
//!                                                                      ^
//!                                        share of the bytes missed ----'
//! ```
//! *Score.* How often the object left memory, which is how often memory lost it and it had to be had
//! again, halved with every [`HALF_LIFE`] tiers of bytes that left; a little for what memory knows of
//! its requests; and of two alike, the smaller, which answers as many requests for fewer bytes.
//!
//! *Price.* The score above which lately as many bytes were offered as may be written: a share of
//! the bytes that were missed. What is above the price is taken. So writing follows what it is for:
//! where little is missed, little is written, and the better of what is offered is what gets in.
//! Missed is what was offered and did not come from the tier.
//!
//! *Budget.* Whatever the price, what was written stays below the share of what was missed, and
//! [`HEAD_START`] of the tier: an empty tier takes everything until it is that full, for the popular
//! come first, and pays back by [`REPAID`] of what it may write.
//!
//! *Not at all*: what cannot be served when it will be asked for: it is stale by then, judged by
//! the time it took to come back the last time.
//!
//! Objects on the tier are not written again when they leave memory, however popular.

use super::Refusal;
use super::history::{History, Sight};
use crate::store::KeyHash;

/// In bytes that leave memory, as a multiple of the tier.
const HALF_LIFE: u64 = 6;
/// The part of the tier that is filled with whatever is offered.
const HEAD_START: f64 = 0.5;
/// The part of the budget that goes to what the head start took.
const REPAID: f64 = 0.4;
/// The most of the budget that is put by, as a part of the tier.
const SAVINGS: f64 = 0.25;
/// What a request in memory counts beside a return to memory, and the most that are counted.
const REQUEST: f32 = 0.1;
const MOST_REQUESTS: u8 = 16;
/// The size of which the score is as it is, and the power of size that divides it.
const TYPICAL_BYTES: f32 = 4096.0;
const SIZE_POWER: f32 = 0.05;

/// An object that leaves memory, and whether it may be of use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub hash: KeyHash,
    /// Of the body.
    pub bytes: u64,
    pub requests: u8,
    /// How long it can be served.
    pub usable_s: u64,
    pub now_s: u32,
}

/// Decides for one shard.
#[derive(Debug)]
pub(super) struct Admission {
    history: History,
    census: Census,
    /// `None`: whatever left memory twice is taken.
    budget: Option<Budget>,
    /// Body bytes that left memory, and those of them that were missed before.
    left: u64,
    missed: u64,
}

impl Admission {
    /// For a tier of `capacity` bytes, of which `held` are written already, that may write `share` of
    /// what is missed.
    pub fn new(capacity: u64, held: u64, share: Option<f64>, ghosts: usize) -> Self {
        Self {
            history: History::new(ghosts, capacity.saturating_mul(HALF_LIFE)),
            census: Census::new(capacity),
            budget: share.map(|share| Budget::new(share, capacity as f64, held as f64)),
            left: 0,
            missed: 0,
        }
    }

    /// Counts an object that leaves memory. `served`: body bytes that the tier has given so far.
    pub fn see(&mut self, object: &Leaving, served: u64) -> Sight {
        self.left += object.bytes;
        let missed = self.left.saturating_sub(served).saturating_sub(self.missed);
        self.missed += missed;
        if let Some(budget) = &mut self.budget {
            budget.earn(missed);
        }
        self.census.pass(object.bytes, missed, self.budget.as_ref());
        self.history.see(object.hash, object.bytes, object.now_s)
    }

    /// Whether an object that is not on the tier is to be written.
    pub fn judge(&mut self, object: &Leaving, sight: Sight) -> Result<(), Refusal> {
        if object.usable_s <= u64::from(sight.gap_s.unwrap_or(0)) {
            return Err(Refusal::Expires);
        }
        let Some(budget) = &self.budget else {
            return worth(object.requests >= 2 || sight.gap_s.is_some());
        };
        let score = score(object, sight);
        self.census.add(score, object.bytes);
        if budget.has_head_start() {
            return Ok(());
        }
        worth(self.census.takes(score))?;
        match budget.is_left() {
            true => Ok(()),
            false => Err(Refusal::Budget),
        }
    }

    /// Takes what was written by judgement; not what bypasses it.
    pub fn wrote(&mut self, bytes: u64) {
        if let Some(budget) = &mut self.budget {
            budget.spend(bytes);
        }
    }

    /// Body bytes that left memory and had not come from the tier.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The score above which objects are taken; 0: all are, or there is no price.
    pub fn price(&self) -> f32 {
        match &self.budget {
            Some(budget) if !budget.has_head_start() => self.census.price(),
            _ => 0.0,
        }
    }
}

fn worth(is: bool) -> Result<(), Refusal> {
    match is {
        true => Ok(()),
        false => Err(Refusal::Unpopular),
    }
}

fn score(object: &Leaving, sight: Sight) -> f32 {
    let again = f32::from(object.requests.clamp(1, MOST_REQUESTS) - 1);
    let size = object.bytes.max(1) as f32 / TYPICAL_BYTES;
    (sight.count + REQUEST * again) * size.powf(-SIZE_POWER)
}

/// What may be written, in bytes.
#[derive(Debug)]
struct Budget {
    share: f64,
    balance: f64,
    /// Part of the balance that was there from the start, and is to be restored.
    head_start: f64,
    most: f64,
    spent: f64,
}

impl Budget {
    fn new(share: f64, capacity: f64, held: f64) -> Self {
        let head_start = (capacity * HEAD_START - held).max(0.0);
        Self {
            share,
            balance: head_start,
            head_start,
            most: head_start + capacity * SAVINGS,
            spent: 0.0,
        }
    }

    fn earn(&mut self, missed: u64) {
        self.balance = (self.balance + missed as f64 * self.share).min(self.most);
    }

    /// It can go into debt by one object.
    fn spend(&mut self, bytes: u64) {
        self.balance -= bytes as f64;
        self.spent += bytes as f64;
    }

    fn has_head_start(&self) -> bool {
        self.spent < self.head_start
    }

    fn is_left(&self) -> bool {
        self.balance > 0.0
    }

    /// What of the bytes missed lately is to be written.
    fn wanted(&self, missed: f64) -> f64 {
        let is_repaying = self.balance < self.head_start;
        missed * self.share * if is_repaying { 1.0 - REPAID } else { 1.0 }
    }
}

/// Scores are told apart in so many steps, eight an octave, the middle one being 1.
const STEPS: usize = 256;
const STEPS_PER_OCTAVE: f32 = 8.0;
/// Prices are made anew so often while the whole tier's bytes leave memory.
const PRICES: u64 = 32;
/// What earlier offers count for beside those since the last price: the window is about three tiers.
const REMEMBERED: f64 = 0.99;

/// Bytes offered lately, by score.
#[derive(Debug)]
struct Census {
    bytes: [f64; STEPS],
    missed: f64,
    /// The step of the price.
    price: usize,
    /// Bytes until the price is made anew, and between such times.
    due: u64,
    interval: u64,
}

impl Census {
    fn new(capacity: u64) -> Self {
        let interval = (capacity / PRICES).max(1);
        Self {
            bytes: [0.0; STEPS],
            missed: 0.0,
            price: STEPS - 1,
            due: interval,
            interval,
        }
    }

    fn add(&mut self, score: f32, bytes: u64) {
        self.bytes[step(score)] += bytes as f64;
    }

    fn takes(&self, score: f32) -> bool {
        step(score) > self.price
    }

    /// Bytes left memory, and some of them were missed.
    fn pass(&mut self, bytes: u64, missed: u64, budget: Option<&Budget>) {
        self.missed += missed as f64;
        self.due = self.due.saturating_sub(bytes);
        if self.due == 0 {
            self.due = self.interval;
            self.make_price(budget.map_or(0.0, |budget| budget.wanted(self.missed)));
        }
    }

    /// As low as it can be without more being taken than is wanted.
    fn make_price(&mut self, wanted: f64) {
        let mut left = wanted;
        let dear = (1..STEPS).rev();
        let price = dear.into_iter().find(|step| {
            left -= self.bytes[*step];
            left < 0.0
        });
        self.price = price.unwrap_or(0);
        self.missed *= REMEMBERED;
        self.bytes.iter_mut().for_each(|b| *b *= REMEMBERED);
    }

    fn price(&self) -> f32 {
        ((self.price as f32 + 1.0 - STEPS as f32 / 2.0) / STEPS_PER_OCTAVE).exp2()
    }
}

fn step(score: f32) -> usize {
    let step = score.log2() * STEPS_PER_OCTAVE + STEPS as f32 / 2.0;
    (step.max(0.0) as usize).min(STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 1 << 20;
    const BYTES: u64 = 1_000;

    fn leaving(number: u64) -> Leaving {
        Leaving {
            hash: KeyHash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            bytes: BYTES,
            requests: 1,
            usable_s: 1_000,
            now_s: 0,
        }
    }

    /// Everything leaves memory and nothing was on the tier.
    fn offer(admission: &mut Admission, object: Leaving) -> Result<(), Refusal> {
        let sight = admission.see(&object, 0);
        let judged = admission.judge(&object, sight);
        if judged.is_ok() {
            admission.wrote(object.bytes);
        }
        judged
    }

    fn full(share: Option<f64>) -> Admission {
        Admission::new(CAPACITY, CAPACITY, share, 10_000)
    }

    fn taken(admission: &mut Admission, numbers: impl Iterator<Item = u64>) -> u64 {
        let taken = numbers.filter(|number| offer(admission, leaving(*number)).is_ok());
        taken.count() as u64 * BYTES
    }

    #[test]
    fn an_empty_tier_takes_everything_until_half_and_a_full_one_nothing_unknown() {
        let mut admission = Admission::new(CAPACITY, 0, Some(0.1), 10_000);
        let bytes = taken(&mut admission, 0..2_000);
        assert_eq!(bytes, (CAPACITY / 2).next_multiple_of(BYTES));
        let mut restarted = Admission::new(CAPACITY, CAPACITY, Some(0.1), 10_000);
        assert_eq!(taken(&mut restarted, 0..2_000), 0);
    }

    /// One in ten objects comes again and again, the others once.
    #[test]
    fn the_popular_get_in_and_the_share_holds() {
        let mut admission = full(Some(0.1));
        let mut once = 1_000_000..;
        let (mut popular, mut others) = (0, 0);
        for round in 0..300 {
            popular += taken(&mut admission, (0..100).map(|n| n + round / 100 * 100));
            others += taken(&mut admission, once.by_ref().take(900));
        }
        let missed = 300 * 1_000 * BYTES;
        assert!(others == 0 && popular > missed / 25, "{popular} {others}");
        assert!(popular <= missed / 10 + BYTES, "{popular}");
        assert!(admission.price() > 1.0);
    }

    #[test]
    fn what_comes_from_the_tier_was_not_missed() {
        let mut admission = full(Some(0.1));
        let mut served = 0;
        for number in 0..1_000 {
            admission.see(&leaving(number), served);
            served += BYTES;
        }
        assert_eq!(admission.missed(), BYTES);
        // What is served before it leaves memory again is not taken for less than nothing.
        admission.see(&leaving(1), served + 5 * BYTES);
        admission.see(&leaving(2), served + 5 * BYTES);
        assert_eq!(admission.missed(), BYTES);
    }

    #[test]
    fn when_popularity_moves_the_new_get_in() {
        let mut admission = full(Some(0.1));
        let mut once = 1_000_000..;
        let mut late = 0;
        for round in 0..400 {
            let from = if round < 200 { 0 } else { 100 };
            let bytes = taken(&mut admission, from..from + 50);
            late += if round >= 200 { bytes } else { 0 };
            taken(&mut admission, once.by_ref().take(950));
        }
        assert!(late > 200 * 1_000 * BYTES / 40, "{late}");
    }

    #[test]
    fn the_smaller_of_two_alike_goes_first() {
        let sight = Sight {
            count: 2.0,
            gap_s: None,
        };
        let (small, large) = (leaving(1), leaving(2));
        let large = Leaving {
            bytes: 64 * BYTES,
            ..large
        };
        assert!(score(&small, sight) > score(&large, sight));
        let more = Sight {
            count: 3.0,
            ..sight
        };
        assert!(score(&large, more) > score(&small, sight));
    }

    #[test]
    fn what_is_stale_before_it_comes_back_is_not_written() {
        for share in [None, Some(10.0)] {
            let mut admission = Admission::new(CAPACITY, 0, share, 10_000);
            let at = |now_s, usable_s| Leaving {
                now_s,
                usable_s,
                requests: 2,
                ..leaving(1)
            };
            assert_eq!(offer(&mut admission, at(0, 0)), Err(Refusal::Expires));
            assert_eq!(offer(&mut admission, at(100, 60)), Err(Refusal::Expires));
            assert_eq!(offer(&mut admission, at(150, 60)), Ok(()));
        }
    }

    #[test]
    fn without_a_share_two_requests_are_enough_wherever_they_came() {
        let mut admission = full(None);
        assert_eq!(offer(&mut admission, leaving(1)), Err(Refusal::Unpopular));
        assert_eq!(offer(&mut admission, leaving(1)), Ok(()));
        let twice = Leaving {
            requests: 2,
            ..leaving(2)
        };
        assert_eq!(offer(&mut admission, twice), Ok(()));
    }

    #[test]
    fn unspent_budget_is_not_put_by_for_ever() {
        let mut budget = Budget::new(0.1, 1e6, 1e6);
        budget.earn(1 << 40);
        budget.spend(250_000);
        assert!(!budget.is_left());
        budget.earn(1);
        assert!(budget.is_left());
    }
}
