//! A clean stop: what memory holds goes to the tier, so that the next start begins warm.
//!
//! ```text
//!  stop --> listed by worth --best first, as the tier has buffers--> all | time | half of the tier --> tier.stop
//! ```
//! What is written here does not count against the budget of what may be written for what is missed:
//! it is written once a start, it is what memory found worth most, and each of its bytes that is asked for again
//! would be missed otherwise. Nor does the limit of bytes a second hold: it is there for the answers
//! that wait behind writes, and there are none any more. That of drive writes a day does.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Shard;
use super::tiers::count_fill;
use crate::http::vary;
use crate::io::Now;
use crate::store::Resident;
use crate::tier::{Bypass, Offered, Refusal, Tier};

/// Objects looked at in one turn.
const PER_TURN: usize = 512;
/// The part of the tier that may be written over: one in.
const SHARE: u64 = 2;

/// How far the writing at a stop has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Written, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// On the tier before.
    pub known: u64,
    /// Not looked at, or not yet.
    pub left: u64,
    /// Nothing more is written.
    pub is_over: bool,
}

pub(super) struct Saving {
    /// The next is the last.
    residents: Vec<Resident>,
    /// A resource of which a variant was written: the tier has to have its rule, too.
    varying: Option<Bytes>,
    until: Instant,
    /// Bytes that may still be written.
    room: u64,
    saved: Saved,
}

impl Saving {
    fn take(&mut self, offered: Option<Offered>, bytes: u64) {
        match offered {
            Some(Offered::Written) => {
                self.saved.objects += 1;
                self.saved.bytes += bytes;
                self.room = self.room.saturating_sub(bytes);
            }
            Some(Offered::Known) => self.saved.known += 1,
            Some(Offered::Declined(_)) | None => {}
        }
    }

    /// Does without what was to be offered next.
    fn skip(&mut self) {
        if self.varying.take().is_none() {
            self.residents.pop();
        }
    }
}

impl Shard {
    /// The node ends: connections are closed; what memory holds and the tier does not is written, for as
    /// long as [`crate::tier::TierConfig::save_limit`] says, and then what the tier has taken. Turns go
    /// on until [`Self::is_settled`].
    pub fn stop(&mut self, now: Now) {
        self.close_all(now);
        self.begin_saving(now);
    }

    /// The same for the tier alone, unless it was begun before.
    pub(super) fn begin_saving(&mut self, now: Now) {
        let Some(tier) = &self.tier else { return };
        if self.saving.is_some() {
            return;
        }
        let limit = tier.save_limit();
        let room = tier.stats().capacity_bytes / SHARE;
        let residents = match limit.is_zero() {
            true => Vec::new(),
            false => self.store.residents(),
        };
        self.saving = Some(Saving {
            residents,
            varying: None,
            until: now.mono + limit,
            room,
            saved: Saved::default(),
        });
        self.tier_due = true;
    }

    /// How long [`Self::stop`] may take before what it wrote has settled.
    pub fn save_limit(&self) -> Duration {
        self.tier.as_ref().map_or(Duration::ZERO, Tier::save_limit)
    }

    /// How far [`Self::stop`] has come; `None` before, and without a tier.
    pub fn saved(&self) -> Option<Saved> {
        let saving = self.saving.as_ref()?;
        Some(Saved {
            left: saving.residents.len() as u64,
            ..saving.saved
        })
    }

    /// Nothing is on its way to or from the tier's drives, nor is to be, and connections were told what
    /// they had to be told.
    pub fn is_settled(&self) -> bool {
        let is_saved = self.saved().is_none_or(|saved| saved.is_over);
        self.quic.dirty() == 0 && is_saved && self.tier.as_ref().is_none_or(Tier::is_settled)
    }

    /// When saving ends at the latest.
    pub(super) fn saving_ends(&self) -> Option<Instant> {
        let saving = self.saving.as_ref()?;
        (!saving.saved.is_over).then_some(saving.until)
    }

    /// Offers what the tier has buffers for. True: there is more to be done in the next turn.
    pub(super) fn save(&mut self, now: Now) -> bool {
        let is_over = self.saved().is_none_or(|saved| saved.is_over);
        let Some(mut saving) = self.saving.take_if(|_| !is_over) else {
            return false;
        };
        let next = self.save_some(now, &mut saving);
        if next == Next::End
            && let Some(tier) = &mut self.tier
        {
            saving.saved.is_over = true;
            tier.stop(now);
        }
        self.tier_due = true;
        self.saving = Some(saving);
        next == Next::Turn
    }

    fn save_some(&mut self, now: Now, saving: &mut Saving) -> Next {
        for _ in 0..PER_TURN {
            if now.mono >= saving.until || saving.room == 0 {
                return Next::End;
            }
            let refused = match saving.varying.take() {
                Some(base) => {
                    let offered = self.offer_rule(now, &base, Bypass::Stop);
                    offered
                        .and_then(refusal)
                        .inspect(|_| saving.varying = Some(base))
                }
                None => {
                    let Some(next) = saving.residents.pop() else {
                        return Next::End;
                    };
                    let (offered, bytes) = self.offer_resident(now, next, saving);
                    saving.take(offered, bytes);
                    offered
                        .and_then(refusal)
                        .inspect(|_| saving.residents.push(next))
                }
            };
            match refused {
                None => {}
                Some(Wait::ForBuffers) if self.tier.as_ref().is_some_and(Tier::is_writing) => {
                    return Next::Buffer;
                }
                // Nothing is under way that could make room for this one.
                Some(Wait::ForBuffers) => saving.skip(),
                Some(Wait::ForEver) => return Next::End,
            }
        }
        Next::Turn
    }

    /// What came of it, and the bytes of its body.
    fn offer_resident(
        &mut self,
        now: Now,
        resident: Resident,
        saving: &mut Saving,
    ) -> (Option<Offered>, u64) {
        let (mut offered, mut bytes) = (None, 0);
        let Some(tier) = &mut self.tier else {
            return (None, 0);
        };
        self.store.show_resident(resident, |object| {
            let came = tier.offer(now, &object, Bypass::Stop);
            count_fill(came, object.key, &self.config, &self.stats);
            offered = Some(came);
            bytes = object.body.iter().map(|part| part.len() as u64).sum();
            if came == Offered::Written && vary::is_variant(object.key) {
                saving.varying = Some(Bytes::copy_from_slice(vary::base(object.key)));
            }
        });
        (offered, bytes)
    }
}

/// When to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Turn,
    /// Once something was written.
    Buffer,
    /// Not at all.
    End,
}

/// What an offer that was refused waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    ForBuffers,
    ForEver,
}

/// `None`: it was taken, or is one that will not be.
fn refusal(offered: Offered) -> Option<Wait> {
    match offered {
        Offered::Declined(Refusal::NoBuffer | Refusal::NoSegment) => Some(Wait::ForBuffers),
        Offered::Declined(
            Refusal::RateLimit | Refusal::DeviceFailed | Refusal::IndexFull | Refusal::Stopping,
        ) => Some(Wait::ForEver),
        Offered::Written | Offered::Known | Offered::Declined(_) => None,
    }
}

#[cfg(test)]
mod tests;
