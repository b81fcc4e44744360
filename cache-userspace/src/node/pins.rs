//! Pins as a running node carries them out: journalled if there is a tier, made by the key's owner.
//!
//! ```text
//!  pin   --> journal --> owner: kept | awaited --> answer
//!                          '-- refused --> journal: not pinned --> error
//!  start --> journal's pins --> owner, one by one: those that are not there are fetched
//! ```

use std::time::Duration;

use bytes::Bytes;
use cache_core::io::{Command, PinError, PinStats, Pinned, PinnedKey, Reply, ShardId};
use cache_core::store::{hash_of, owner_of};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{NodeError, NodeHandle};
use crate::purging::PurgingError;

/// Fetches of the whole node past which pinned objects wait to be fetched at start.
const FETCHES_AT_START: u64 = 32;

/// How often it is looked whether there are fewer.
const FETCHES_POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinState {
    /// The object is there and is not evicted.
    Kept,
    /// It is kept as soon as it is stored.
    Awaited,
}

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    pub url: String,
    pub state: PinState,
    /// What a kept object takes of the budget.
    pub bytes: Option<u64>,
    /// It was written to the tier and flushed: it is there after a crash. Only said in answer to a pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_drives: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpinReport {
    pub url: String,
    pub was_pinned: bool,
}

/// All pins of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinsReport {
    /// In the order of their URLs.
    pub pins: Vec<PinReport>,
    /// How many of them are there.
    pub kept: u64,
    /// Bytes that they take, and may take: each shard has an equal part of the budget.
    pub bytes: u64,
    pub budget: u64,
    /// Pins refused, and awaited objects that were stored unpinned, for want of budget.
    pub refused: u64,
}

impl NodeHandle {
    /// Keeps the object of a URL from being evicted, and fetches it if it is not there. If the node
    /// has a tier, that holds after a restart.
    ///
    /// # Errors
    /// It cannot be pinned: then all is as before. Or its shard did not answer, or the journal cannot
    /// be written: then asking again is harmless.
    pub async fn pin(&self, url: &str) -> Result<PinReport, NodeError> {
        let key = Bytes::from(self.key_of(url)?);
        let node = self.clone();
        // A task of its own: one that asks and goes away leaves no pin half made.
        let task = tokio::spawn(async move { node.make_pin(key).await });
        task.await.map_err(|_| NodeError::Interrupted)?
    }

    /// Takes a pin back.
    ///
    /// # Errors
    /// As [`Self::pin`].
    pub async fn unpin(&self, url: &str) -> Result<UnpinReport, NodeError> {
        let key = Bytes::from(self.key_of(url)?);
        let node = self.clone();
        let task = tokio::spawn(async move { node.take_pin_back(key).await });
        task.await.map_err(|_| NodeError::Interrupted)?
    }

    /// What is pinned.
    ///
    /// # Errors
    /// A shard did not answer.
    pub async fn pins(&self) -> Result<PinsReport, NodeError> {
        let mut report = PinsReport::default();
        for reply in self.ask_all(|| Command::Pins).await? {
            if let Reply::Pins { pins, stats } = reply {
                report.add(pins, stats);
            }
        }
        report.pins.sort_by(|a, b| a.url.cmp(&b.url));
        Ok(report)
    }

    /// Has every pinned object that the journal knows fetched, a few at a time. For a node that has
    /// just begun.
    pub async fn fetch_pins(&self) {
        let keys = self.inner.sources.purging.lock().await.pins();
        for key in keys {
            while self.fetches() >= FETCHES_AT_START {
                sleep(FETCHES_POLL).await;
            }
            let _alone = self.inner.pinning.lock().await;
            let still = self.inner.sources.purging.lock().await.is_pinned(&key);
            if still && let Err(error) = self.pin_in_shard(&key).await {
                tracing::warn!(%error, "a pin of the journal does not hold");
            }
        }
    }

    async fn make_pin(&self, key: Bytes) -> Result<PinReport, NodeError> {
        let _alone = self.inner.pinning.lock().await;
        let journalled = self.journal_pin(&key, true).await;
        if let Err(error @ (PurgingError::PinRefused(_) | PurgingError::HasEnded)) = journalled {
            return Err(error.into());
        }
        let (pinned, on_drives) = match self.pin_in_shard(&key).await {
            Err(error @ NodeError::Pin { .. }) => {
                // One that was pinned before stays so.
                if let Ok(true) = journalled {
                    self.journal_pin(&key, false).await?;
                }
                return Err(error);
            }
            pinned => pinned?,
        };
        // What did not get into the journal holds in memory all the same; say so only now.
        journalled?;
        let bytes = match pinned {
            Pinned::Kept { bytes } => Some(bytes),
            Pinned::Awaited => None,
        };
        Ok(PinReport {
            on_drives: Some(on_drives),
            ..PinReport::new(PinnedKey { key, bytes })
        })
    }

    async fn take_pin_back(&self, key: Bytes) -> Result<UnpinReport, NodeError> {
        let _alone = self.inner.pinning.lock().await;
        let knew = self.inner.sources.purging.lock().await.is_pinned(&key);
        let journalled = self.journal_pin(&key, false).await;
        if let Err(error @ PurgingError::HasEnded) = journalled {
            return Err(error.into());
        }
        let reply = self
            .ask(self.owner(&key), Command::Unpin(key.clone()))
            .await?;
        journalled?;
        Ok(UnpinReport {
            url: url_of(&key),
            was_pinned: knew || reply == (Reply::Unpinned { was_pinned: true }),
        })
    }

    /// Purges and pins are made by another process from here on; what was begun is in the journal.
    pub async fn end_purging(&self) {
        self.inner.sources.purging.lock().await.end();
    }

    async fn journal_pin(&self, key: &Bytes, pinned: bool) -> Result<bool, PurgingError> {
        let mut purging = self.inner.sources.purging.lock().await;
        purging.pin(key.clone(), pinned).await
    }

    /// Also says whether the object is on the drives for good.
    async fn pin_in_shard(&self, key: &Bytes) -> Result<(Pinned, bool), NodeError> {
        let refused = |error: PinError| NodeError::Pin {
            url: url_of(key),
            error,
        };
        match self.ask(self.owner(key), Command::Pin(key.clone())).await? {
            Reply::Pinned { pinned, on_drives } => {
                let pinned = pinned.map_err(refused)?;
                Ok((pinned, on_drives))
            }
            reply => unreachable!("a shard answers a pin with {reply:?}"),
        }
    }

    fn owner(&self, key: &[u8]) -> ShardId {
        let sources = &self.inner.sources;
        owner_of(hash_of(sources.hash_seed, key), sources.shards.len() as u8)
    }

    fn fetches(&self) -> u64 {
        let shards = self.inner.sources.shards.iter();
        shards.map(|stats| stats.flights.get()).sum()
    }
}

impl PinReport {
    fn new(pin: PinnedKey) -> Self {
        Self {
            url: url_of(&pin.key),
            state: match pin.bytes {
                Some(_) => PinState::Kept,
                None => PinState::Awaited,
            },
            bytes: pin.bytes,
            on_drives: None,
        }
    }
}

impl PinsReport {
    fn add(&mut self, pins: Vec<PinnedKey>, stats: PinStats) {
        self.pins.extend(pins.into_iter().map(PinReport::new));
        self.kept += u64::from(stats.kept);
        self.bytes += stats.bytes;
        self.budget += stats.budget;
        self.refused += stats.refused;
    }
}

fn url_of(key: &[u8]) -> String {
    format!("https://{}", String::from_utf8_lossy(key))
}

#[cfg(test)]
mod tests {
    use cache_core::store::StoreError;
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::super::ShardCommand;
    use super::super::tests::node;
    use super::*;

    const FULL: StoreError = StoreError::PinBudget {
        budget: 10,
        used: 8,
        needed: 5,
    };

    fn pinned(pinned: Result<Pinned, PinError>, on_drives: bool) -> Reply {
        Reply::Pinned { pinned, on_drives }
    }

    /// Plays the shards: `/kept` is there, `/large` is too large, the rest is awaited.
    fn play(mut receiver: mpsc::Receiver<ShardCommand>) -> JoinHandle<Vec<(ShardId, String)>> {
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while let Some(ShardCommand {
                shard,
                command,
                reply,
            }) = receiver.recv().await
            {
                asked.push((shard, format!("{command:?}")));
                let answer = match command {
                    Command::Pin(key) if key.ends_with(b"/large") => {
                        pinned(Err(FULL.into()), false)
                    }
                    Command::Pin(key) if key.ends_with(b"/kept") => {
                        pinned(Ok(Pinned::Kept { bytes: 7 }), true)
                    }
                    Command::Pin(_) => pinned(Ok(Pinned::Awaited), false),
                    Command::Unpin(key) => Reply::Unpinned {
                        was_pinned: key.ends_with(b"/kept"),
                    },
                    _ => Reply::Pins {
                        pins: vec![PinnedKey {
                            key: Bytes::from(format!("edge.test/{}", 9 - shard)),
                            bytes: (shard == 0).then_some(7),
                        }],
                        stats: PinStats {
                            pins: 1,
                            kept: 1 - u32::from(shard),
                            bytes: 7,
                            budget: 10,
                            refused: 1,
                        },
                    },
                };
                reply.send(answer).expect("someone waits");
            }
            asked
        })
    }

    #[tokio::test]
    async fn a_pin_asks_the_owner_alone() {
        let (node, receiver) = node();
        let shards = play(receiver);
        let kept = node.pin("https://Edge.test/kept").await.expect("pinned");
        let expected = PinReport {
            url: "https://edge.test/kept".to_owned(),
            state: PinState::Kept,
            bytes: Some(7),
            on_drives: Some(true),
        };
        assert_eq!(kept, expected);
        let awaited = node.pin("https://edge.test/a").await.expect("pinned");
        assert_eq!((awaited.state, awaited.bytes), (PinState::Awaited, None));
        for (url, was_pinned) in [
            ("https://edge.test/kept", true),
            ("https://edge.test/a", false),
        ] {
            let report = node.unpin(url).await.expect("answered");
            assert_eq!(report.was_pinned, was_pinned);
        }
        let owner = |key: &[u8]| owner_of(hash_of(1, key), 2);
        drop(node);
        let expected = [
            (owner(b"edge.test/kept"), "Pin(b\"edge.test/kept\")"),
            (owner(b"edge.test/a"), "Pin(b\"edge.test/a\")"),
            (owner(b"edge.test/kept"), "Unpin(b\"edge.test/kept\")"),
            (owner(b"edge.test/a"), "Unpin(b\"edge.test/a\")"),
        ];
        let expected = expected.map(|(shard, command)| (shard, command.to_owned()));
        assert_eq!(shards.await.expect("shards"), expected);
    }

    #[tokio::test]
    async fn what_is_refused_is_said_with_the_figures() {
        let (node, receiver) = node();
        let shards = play(receiver);
        let refused = node.pin("https://edge.test/large").await;
        let refused = refused.expect_err("too large").to_string();
        assert!(
            refused.contains(
                "https://edge.test/large is not pinned: pinning takes 5 bytes and 8 of the 10"
            ),
            "{refused}"
        );
        let no_url = node.pin("edge.test/kept").await;
        assert!(matches!(no_url, Err(NodeError::Url { .. })));
        let long = format!("https://edge.test/{}", "a".repeat(2_000));
        let too_long = node.pin(&long).await;
        assert!(matches!(
            too_long,
            Err(NodeError::Purging(PurgingError::PinRefused(_)))
        ));
        drop(node);
        assert_eq!(shards.await.expect("shards").len(), 1);
    }

    #[tokio::test]
    async fn the_pins_of_all_shards_are_listed_and_added_up() {
        let (node, receiver) = node();
        let shards = play(receiver);
        let report = node.pins().await.expect("answered");
        let urls: Vec<_> = report.pins.iter().map(|pin| pin.url.as_str()).collect();
        assert_eq!(urls, ["https://edge.test/8", "https://edge.test/9"]);
        let figures = (report.kept, report.bytes, report.budget, report.refused);
        assert_eq!(figures, (1, 14, 20, 2));
        drop(node);
        shards.await.expect("shards");
    }
}
