//! Purges as a running node carries them out: checked, made, and seen by every shard before anybody
//! is told that they hold.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cache_core::http::key::{self, KeyError};
use cache_core::http::surrogate_key;
use cache_core::io::{Command, Reply};
use cache_core::purge::Purge;
use cache_core::store::{hash_of, owner_of};
use serde::{Deserialize, Serialize};

use super::{NodeError, NodeHandle};
use crate::explain::{Question, Report};
use crate::purging::PurgingError;

/// What an operator wants purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeOrder {
    /// The objects under these URLs, as clients ask for them.
    Urls(Vec<String>),
    /// Objects with any of these surrogate keys.
    Tags(Vec<String>),
    /// Objects whose URL begins with one of these.
    Prefixes(Vec<String>),
    Everything,
}

/// What a purge did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    /// Objects that it covers, in memory, over all shards. `None`: not known, as they are found out
    /// one by one when they are asked for.
    pub objects: Option<u64>,
    /// How many URLs, tags or prefixes were named; 1 for everything.
    pub purges: usize,
    /// They are stale from now on, and not gone.
    pub soft: bool,
    /// Shards that go by it: all of them.
    pub shards: usize,
}

/// A purge order after all checks.
struct Checked {
    purges: Vec<Purge>,
    /// Cache keys, of an order that names URLs.
    keys: Vec<Bytes>,
}

impl NodeHandle {
    /// Makes purges. When this returns, no shard answers with what they cover (softly: not as if it
    /// were fresh), except to requests that had come before; and if the node has a tier, they hold
    /// after a crash.
    ///
    /// # Errors
    /// Something named cannot be purged: then nothing was. Or a shard did not answer, or the journal
    /// cannot be written: then it may hold in part, and asking again is harmless.
    pub async fn purge(&self, order: PurgeOrder, soft: bool) -> Result<PurgeReport, NodeError> {
        let checked = self.check(&order)?;
        // A task of its own: one that asks and goes away leaves no purge half made.
        let node = self.clone();
        let task = tokio::spawn(async move { node.carry_out(order, checked, soft).await });
        task.await.map_err(|_| NodeError::Interrupted)?
    }

    fn check(&self, order: &PurgeOrder) -> Result<Checked, NodeError> {
        let purges = &self.inner.sources.purges;
        let mut checked = Checked {
            purges: Vec::new(),
            keys: Vec::new(),
        };
        match order {
            PurgeOrder::Urls(urls) => {
                for url in urls {
                    let key = Bytes::from(self.key_of(url)?);
                    let hash = hash_of(self.inner.sources.hash_seed, &key);
                    checked.purges.push(Purge::Url(hash));
                    checked.keys.push(key);
                }
            }
            PurgeOrder::Tags(tags) => {
                for tag in tags {
                    surrogate_key::check(tag.as_bytes()).map_err(|error| NodeError::Tag {
                        tag: tag.clone(),
                        reason: error.to_string(),
                    })?;
                    let slot = purges.slot(tag.as_bytes());
                    checked.purges.push(Purge::Tag(slot));
                }
            }
            PurgeOrder::Prefixes(prefixes) => {
                for prefix in prefixes {
                    let key = Bytes::from(no_url(prefix, key::key_of_url(prefix))?);
                    checked.purges.push(Purge::Prefix(key));
                }
            }
            PurgeOrder::Everything => checked.purges.push(Purge::All),
        }
        Ok(checked)
    }

    /// The cache key of a URL, by the rules of its route.
    pub(super) fn key_of(&self, url: &str) -> Result<Vec<u8>, NodeError> {
        no_url(
            url,
            self.inner
                .sources
                .rulebook
                .load()
                .caching
                .routes
                .key_of_url(url),
        )
    }

    /// What the node would do with a request, and why.
    ///
    /// # Errors
    /// The request is refused, or a shard did not answer.
    pub async fn explain(&self, question: &Question) -> Result<Report, NodeError> {
        let sources = &self.inner.sources;
        let rulebook = sources.rulebook.load_full();
        let explained = rulebook.plan(question.request()?)?;
        let owner = owner_of(
            hash_of(sources.hash_seed, &explained.key),
            sources.shards.len() as u8,
        );
        let request = Box::new(explained.request.clone());
        let seen = match self.ask(owner, Command::Explain(request)).await? {
            Reply::Explained(seen) => seen,
            _ => None,
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_s = since.ok().map(|since| since.as_secs());
        Ok(rulebook.report(&explained, seen.as_deref(), now_s))
    }

    async fn carry_out(
        &self,
        order: PurgeOrder,
        checked: Checked,
        soft: bool,
    ) -> Result<PurgeReport, NodeError> {
        let made = {
            let mut purging = self.inner.sources.purging.lock().await;
            purging.purge(&checked.purges, soft).await
        };
        if let Err(error @ (PurgingError::Refused(_) | PurgingError::HasEnded)) = made {
            return Err(error.into());
        }
        let everything = order == PurgeOrder::Everything && !soft;
        let keys: Arc<[Bytes]> = checked.keys.into();
        let replies = self
            .ask_all(|| match order {
                PurgeOrder::Urls(_) => Command::PurgeKeys {
                    keys: Arc::clone(&keys),
                    soft,
                },
                _ => Command::SeePurges { everything },
            })
            .await?;
        // What did not get into the journal holds in memory all the same; say so only now.
        made?;
        let counted = everything || matches!(order, PurgeOrder::Urls(_));
        let objects = replies.iter().map(|reply| match reply {
            Reply::Purged { objects } => *objects,
            _ => 0,
        });
        Ok(PurgeReport {
            objects: counted.then(|| objects.sum()),
            purges: checked.purges.len(),
            soft,
            shards: replies.len(),
        })
    }
}

fn no_url(url: &str, key: Result<Vec<u8>, KeyError>) -> Result<Vec<u8>, NodeError> {
    key.map_err(|error| NodeError::Url {
        url: url.to_owned(),
        reason: error.to_string(),
    })
}
