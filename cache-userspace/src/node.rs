//! A running node as the control thread sees it: facts, counters, and a way to ask the shards.
//!
//! [`NodeHandle`] is what the admin API holds. It reads counters where they lie and sends commands
//! over one bounded channel; whoever runs the shards drains it and answers each command once.

mod orders;
mod pins;
mod reload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use cache_core::io::{Command, PinError, Reply, ShardId};
use cache_core::purge::Purges;
use cache_core::stats::ShardStats;
use hugepages::BackingReport;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use crate::explain::{ExplainError, Rulebook};
use crate::guard::{Answer, Guard, GuardError, Order};
use crate::privileges;
use crate::purging::{Purging, PurgingError};
use crate::status::{
    BackendStatus, MemoryStatus, NodeStatus, OriginStatus, ShardStatus, StatusDocument, XdpStatus,
};
use crate::upgrade::Generation;

pub use orders::{PurgeOrder, PurgeReport};
pub use pins::{PinReport, PinState, PinsReport, UnpinReport};
pub use reload::{ConfigReport, Reloading};

/// How long a shard may take to answer a command before it is said to be stuck.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands that may wait for the shards; more senders wait for room, up to [`COMMAND_TIMEOUT`].
pub const COMMAND_QUEUE: usize = 64;

/// A question to one shard.
#[derive(Debug)]
pub struct ShardCommand {
    pub shard: ShardId,
    pub command: Command,
    /// Dropped without an answer, it counts as a shard that is stopping.
    pub reply: oneshot::Sender<Reply>,
}

/// What does not change while the node runs.
#[derive(Debug)]
pub struct NodeFacts {
    pub name: String,
    /// What moves packets, as it was decided at start.
    pub backend: BackendStatus,
    pub listen: Vec<SocketAddr>,
    pub interface: Option<String>,
    /// How the XDP program is attached, or why it is not.
    pub xdp: XdpFacts,
    pub memory: BackingReport,
    /// Shard i runs on `cpus[i]`.
    pub cpus: Vec<usize>,
    pub warnings: Vec<String>,
    pub generation: Arc<Generation>,
    /// What `GET /v1/config` answers: [`crate::config::explain::json`].
    pub config: serde_json::Value,
}

#[derive(Debug)]
pub struct XdpFacts {
    pub attached: bool,
    /// `native on eth0, link pinned`, or the reason why there is none.
    pub detail: String,
}

/// Reads something that changes. Called on the control thread; must not block.
pub type Reading<T> = Box<dyn Fn() -> T + Send + Sync>;

/// Where a node's counters are read and its shards are asked.
pub struct Sources {
    /// In the order of the shards.
    pub shards: Vec<Arc<ShardStats>>,
    /// Counters of what runs each shard (packet I/O, loop), shown beside the shard's own.
    pub runtime: Vec<Reading<Vec<(&'static str, u64)>>>,
    pub upstream: Reading<Vec<OriginStatus>>,
    /// Shields and addresses of origins.
    pub nodes: Reading<Vec<NodeStatus>>,
    /// Counters of what is compressed here.
    pub compression: Reading<Vec<(&'static str, u64)>>,
    /// Counters of the sessions that clients may resume.
    pub tls: Reading<Vec<(&'static str, u64)>>,
    /// Counters of the XDP program, summed over the CPUs.
    pub xdp: Reading<Vec<(String, u64)>>,
    /// Where there is an XDP program.
    pub guard: Option<Guard>,
    pub commands: mpsc::Sender<ShardCommand>,
    /// Reads the certificates' files again: how many there are, or what is broken.
    pub reload_tls: Reading<Result<usize, String>>,
    /// Who makes purges, one at a time.
    pub purging: Mutex<Purging>,
    /// What they are made in.
    pub purges: Arc<Purges>,
    /// Whose rules make keys of URLs.
    pub rulebook: ArcSwap<Rulebook>,
    /// What changes the configuration; `None` where it cannot be.
    pub reloading: Option<Mutex<Reloading>>,
    /// [`cache_core::store::StoreConfig::hash_seed`].
    pub hash_seed: u64,
}

/// Why a node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{url:?}: {reason}")]
    Url { url: String, reason: String },
    #[error(transparent)]
    Explain(#[from] ExplainError),
    #[error("shard {shard} did not answer within {} s", COMMAND_TIMEOUT.as_secs())]
    NoAnswer { shard: ShardId },
    #[error("shard {shard} is stopping")]
    Stopping { shard: ShardId },
    #[error("{tag:?}: {reason}")]
    Tag { tag: String, reason: String },
    #[error(transparent)]
    Purging(#[from] PurgingError),
    #[error("{url} is not pinned: {error}")]
    Pin { url: String, error: PinError },
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Config(String),
    #[error("the node is stopping")]
    Interrupted,
}

/// What reading the certificates again came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// How many are shown from now on.
    pub certificates: usize,
}

/// A cheap handle on the running node.
#[derive(Clone)]
pub struct NodeHandle {
    inner: Arc<Inner>,
}

struct Inner {
    facts: NodeFacts,
    sources: Sources,
    /// What `GET /v1/config` answers.
    config: ArcSwap<serde_json::Value>,
    /// Settings that wait for a restart.
    waiting: ArcSwap<Vec<String>>,
    /// Held while a pin is made or taken back, so that the journal and the shards agree.
    pinning: Mutex<()>,
    started: Instant,
    started_unix: u64,
}

impl NodeHandle {
    pub fn new(mut facts: NodeFacts, sources: Sources) -> Self {
        let started_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            inner: Arc::new(Inner {
                config: ArcSwap::from_pointee(facts.config.take()),
                waiting: ArcSwap::default(),
                facts,
                sources,
                pinning: Mutex::new(()),
                started: Instant::now(),
                started_unix,
            }),
        }
    }

    /// The node as it is now.
    pub fn status(&self) -> StatusDocument {
        let Inner {
            facts,
            sources,
            started,
            started_unix,
            waiting,
            config: _,
            pinning: _,
        } = &*self.inner;
        let shards = sources.shards.iter().zip(&facts.cpus).enumerate();
        StatusDocument {
            name: facts.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_unix: *started_unix,
            uptime_seconds: started.elapsed().as_secs(),
            listen: facts.listen.iter().map(SocketAddr::to_string).collect(),
            backend: facts.backend.clone(),
            xdp: XdpStatus {
                attached: facts.xdp.attached,
                interface: facts.interface.clone(),
                detail: facts.xdp.detail.clone(),
                counters: (sources.xdp)().into_iter().collect(),
            },
            guard: sources
                .guard
                .as_ref()
                .map(Guard::counters)
                .unwrap_or_default(),
            memory: MemoryStatus {
                bytes: facts.memory.bytes,
                pages: facts.memory.kind.to_string(),
                note: facts.memory.note.clone(),
            },
            compression: named((sources.compression)()),
            tls: named((sources.tls)()),
            shards: shards
                .map(|(shard, (stats, cpu))| {
                    let mut counters = stats.snapshot();
                    if let Some(runtime) = sources.runtime.get(shard) {
                        counters.extend(runtime());
                    }
                    ShardStatus::new(shard, *cpu, &counters)
                })
                .collect(),
            classes: classes_of(
                &sources.shards,
                sources.rulebook.load().caching.routes.classes(),
            ),
            origins: (sources.upstream)(),
            nodes: (sources.nodes)(),
            purges: purges_of(&sources.purges),
            warnings: facts.warnings.clone(),
            waiting: waiting.load().to_vec(),
            generation: facts.generation.number,
            predecessor: facts.generation.predecessor(),
            privileges: privileges::status(),
        }
    }

    /// Reads the certificates' files again. On an error those that were there stay.
    pub fn reload_tls(&self) -> Result<ReloadReport, NodeError> {
        let reloaded = (self.inner.sources.reload_tls)();
        match &reloaded {
            Ok(certificates) => tracing::info!(certificates, "certificates read again"),
            Err(error) => tracing::error!(error, "certificates stay as they are"),
        }
        let certificates = reloaded.map_err(NodeError::Tls)?;
        Ok(ReloadReport { certificates })
    }

    /// Has the guard carry out an order.
    pub async fn guard(&self, order: Order) -> Result<Answer, NodeError> {
        let guard = self.inner.sources.guard.as_ref();
        let guard = guard.ok_or(GuardError::Absent("no packet.interface is set"))?;
        Ok(guard.ask(order).await?)
    }

    /// The effective configuration with the origin of each value.
    pub fn config(&self) -> Arc<serde_json::Value> {
        self.inner.config.load_full()
    }

    /// Asks every shard, all at the same time, and waits for every answer.
    async fn ask_all(&self, command: impl Fn() -> Command) -> Result<Vec<Reply>, NodeError> {
        let mut pending = Vec::new();
        for shard in 0..self.inner.sources.shards.len() {
            let shard = shard as ShardId;
            pending.push((shard, self.send(shard, command()).await?));
        }
        let mut replies = Vec::new();
        for (shard, answer) in pending {
            replies.push(answered(shard, answer).await?);
        }
        Ok(replies)
    }

    async fn ask(&self, shard: ShardId, command: Command) -> Result<Reply, NodeError> {
        let answer = self.send(shard, command).await?;
        answered(shard, answer).await
    }

    async fn send(
        &self,
        shard: ShardId,
        command: Command,
    ) -> Result<oneshot::Receiver<Reply>, NodeError> {
        let (reply, answer) = oneshot::channel();
        let command = ShardCommand {
            shard,
            command,
            reply,
        };
        match timeout(COMMAND_TIMEOUT, self.inner.sources.commands.send(command)).await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(_)) => Err(NodeError::Stopping { shard }),
            Err(_) => Err(NodeError::NoAnswer { shard }),
        }
    }
}

/// Counters by class, added up over the shards.
fn classes_of(
    shards: &[Arc<ShardStats>],
    names: &[String],
) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut classes = BTreeMap::new();
    for (number, name) in (0u8..).zip(names) {
        let counters: &mut BTreeMap<String, u64> = classes.entry(name.clone()).or_default();
        let values = shards
            .iter()
            .flat_map(|shard| shard.by_class.of(number).snapshot());
        for (counter, value) in values {
            *counters.entry(counter.to_owned()).or_default() += value;
        }
    }
    classes
}

/// What [`StatusDocument::purges`] says.
fn purges_of(purges: &Purges) -> BTreeMap<String, u64> {
    let mut counters = purges.stats().snapshot();
    counters.push(("tag_slots", u64::from(purges.slots())));
    named(counters)
}

fn named(counters: Vec<(&'static str, u64)>) -> BTreeMap<String, u64> {
    let counters = counters.into_iter();
    counters
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

async fn answered(shard: ShardId, answer: oneshot::Receiver<Reply>) -> Result<Reply, NodeError> {
    match timeout(COMMAND_TIMEOUT, answer).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) => Err(NodeError::Stopping { shard }),
        Err(_) => Err(NodeError::NoAnswer { shard }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use hugepages::PageKind;

    use super::*;

    /// A node of two shards without any shard behind it: the receiver plays them.
    pub(crate) fn node() -> (NodeHandle, mpsc::Receiver<ShardCommand>) {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let shards: Vec<Arc<ShardStats>> = (0..2).map(|_| Arc::default()).collect();
        shards[0].requests.add(10);
        shards[0].hits.add(9);
        shards[0].misses.add(1);
        shards[1].waiters_refused.add(7);
        let facts = NodeFacts {
            name: "popcache".to_owned(),
            backend: BackendStatus {
                kind: "udp".to_owned(),
                reason: "no packet.interface".to_owned(),
            },
            listen: vec!["127.0.0.1:443".parse().expect("address")],
            interface: None,
            xdp: XdpFacts {
                attached: false,
                detail: "no packet.interface".to_owned(),
            },
            memory: BackingReport {
                kind: PageKind::Huge2M,
                bytes: 256 << 20,
                note: String::new(),
            },
            cpus: vec![0, 1],
            warnings: vec!["self-signed".to_owned()],
            generation: Arc::default(),
            config: serde_json::json!({"settings": []}),
        };
        let purges = Arc::new(cache_core::purge::Purges::new(1, 16));
        let sources = Sources {
            shards,
            runtime: vec![Box::new(|| vec![("turns", 5)])],
            upstream: Box::new(|| {
                vec![OriginStatus {
                    name: "demo".to_owned(),
                    ..OriginStatus::default()
                }]
            }),
            nodes: Box::new(Vec::new),
            compression: Box::new(|| vec![("compressed", 3)]),
            tls: Box::new(|| vec![("sessions", 2), ("sessions_given", 3)]),
            xdp: Box::new(Vec::new),
            guard: None,
            commands,
            reload_tls: Box::new(|| Err("cert.pem is broken".to_owned())),
            purging: Mutex::new(Purging::new(purges.writer().expect("the only one"), None)),
            purges,
            reloading: None,
            rulebook: ArcSwap::from_pointee(Rulebook {
                caching: Default::default(),
                origins: Vec::new(),
                max_target: 1024,
                max_field_section: 4096,
            }),
            hash_seed: 1,
        };
        (NodeHandle::new(facts, sources), receiver)
    }

    /// Plays the shards of a node: each answers with its number and one more objects.
    fn play(mut receiver: mpsc::Receiver<ShardCommand>) -> tokio::task::JoinHandle<Vec<String>> {
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while let Some(command) = receiver.recv().await {
                asked.push(format!("{}: {:?}", command.shard, command.command));
                let objects = u64::from(command.shard) + 1;
                let reply = Reply::Purged { objects };
                command.reply.send(reply).expect("someone waits");
            }
            asked
        })
    }

    #[tokio::test]
    async fn a_purge_asks_every_shard_and_adds_up_what_is_known() {
        let (node, receiver) = node();
        let shards = play(receiver);
        let strings = |text: &str| vec![text.to_owned()];
        let orders = [
            (PurgeOrder::Everything, false, Some(3)),
            (PurgeOrder::Everything, true, None),
            (
                PurgeOrder::Urls(strings("https://edge.test/a")),
                true,
                Some(3),
            ),
            (PurgeOrder::Tags(strings("emotes")), false, None),
            (
                PurgeOrder::Prefixes(strings("https://edge.test/a/")),
                false,
                None,
            ),
        ];
        for (order, soft, objects) in orders {
            let stamp = node.inner.sources.purges.stamp();
            let report = node.purge(order, soft).await.expect("purged");
            let expected = PurgeReport {
                objects,
                purges: 1,
                soft,
                shards: 2,
            };
            assert_eq!(report, expected);
            assert_eq!(node.inner.sources.purges.stamp(), stamp + 1);
        }
        drop(node);
        let asked = shards.await.expect("shards");
        let first: Vec<_> = asked.iter().step_by(2).map(String::as_str).collect();
        assert_eq!(
            first,
            [
                "0: SeePurges { everything: true }",
                "0: SeePurges { everything: false }",
                "0: PurgeKeys { keys: [b\"edge.test/a\"], soft: true }",
                "0: SeePurges { everything: false }",
                "0: SeePurges { everything: false }",
            ]
        );
        assert_eq!(asked.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_shard_is_named() {
        let (node, mut receiver) = node();
        let stuck = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(command) = receiver.recv().await {
                match command.shard {
                    0 => command
                        .reply
                        .send(Reply::Purged { objects: 0 })
                        .expect("someone waits"),
                    _ => kept.push(command),
                }
            }
        });
        let stuck_shard = node.purge(PurgeOrder::Everything, false).await;
        assert!(matches!(stuck_shard, Err(NodeError::NoAnswer { shard: 1 })));
        drop(node);
        stuck.await.expect("shards");
    }

    #[tokio::test]
    async fn what_cannot_be_purged_is_an_error_and_nothing_is() {
        let (node, receiver) = node();
        let strings = |all: [&str; 2]| all.map(str::to_owned).to_vec();
        let urls = PurgeOrder::Urls(strings(["https://edge.test/", "not a url"]));
        let refused = node.purge(urls, false).await;
        assert!(matches!(refused, Err(NodeError::Url { url, .. }) if url == "not a url"));
        let refused = node
            .purge(PurgeOrder::Tags(strings(["a", " b"])), false)
            .await;
        assert!(matches!(refused, Err(NodeError::Tag { tag, .. }) if tag == " b"));
        let long = format!("https://edge.test/{}", "a".repeat(2_000));
        let refused = node.purge(PurgeOrder::Prefixes(vec![long]), false).await;
        assert!(matches!(refused, Err(NodeError::Purging(_))));
        assert_eq!(node.inner.sources.purges.stamp(), 0);
        drop(receiver);
        let stopped = node.purge(PurgeOrder::Everything, false).await;
        assert!(matches!(stopped, Err(NodeError::Stopping { shard: 0 })));
    }

    #[test]
    fn the_status_shows_facts_and_counters() {
        let (node, _receiver) = node();
        let status = node.status();
        assert_eq!(status.shards.len(), 2);
        assert_eq!(status.shards[0].get("hits"), 9);
        assert_eq!(status.shards[0].get("turns"), 5);
        assert_eq!(status.memory.pages, "2 MiB hugepages");
        assert_eq!(status.backend.reason, "no packet.interface");
    }
}
