//! Pins: objects that an operator wants kept in memory, and on the tier's drives if there is one.
//!
//! ```text
//!  Pin --> is it in memory? --yes---------------------> kept, offered to the tier
//!                '--no--> awaited: read or fetched at once --stored--^
//!  Unpin --> may be evicted from memory and from the tier, as others
//! ```
//! A pin is of the key without a variant: variants of a resource are not kept by it.

use bytes::Bytes;

use super::Shard;
use super::requests::target;
use crate::http::key;
use crate::io::{Now, Outbox, Reply};
use crate::store::{KeyHash, Pinned, StoreError};
use crate::tier::{Bypass, Offered};

/// Why a key was not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("no origin serves this host")]
    UnknownHost,
    #[error(transparent)]
    Refused(#[from] StoreError),
}

/// A pinned key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    pub key: Bytes,
    /// What its object takes of the budget; `None`: it is awaited.
    pub bytes: Option<u64>,
}

impl Shard {
    /// Pins a key of our partition. Its object is fetched if it is not there.
    pub(super) fn pin(
        &mut self,
        now: Now,
        key: &[u8],
        out: &mut Outbox,
    ) -> Result<Pinned, PinError> {
        let origin = self.routes.find(key::host(key));
        let origin = origin.ok_or(PinError::UnknownHost)?;
        let hash = self.store.hash(key);
        let pinned = self.store.pin(hash, key)?;
        match pinned {
            Pinned::Kept { .. } => self.offer_pinned(now, hash, key),
            // Nobody follows this flight, as none follows one that refreshes a stale object.
            Pinned::Awaited => {
                let mut target = target(key, hash, origin);
                target.route = self.config.caching.routes.find(key, b"GET");
                self.revalidate(target, now, out);
            }
        }
        Ok(pinned)
    }

    /// Whether the key was pinned, in memory or on the drives.
    pub(super) fn unpin(&mut self, key: &[u8]) -> bool {
        let hash = self.store.hash(key);
        let in_memory = self.store.unpin(hash, key);
        let in_tier = self.tier.as_mut().is_some_and(|tier| tier.unpin(hash));
        in_memory || in_tier
    }

    pub(super) fn pins(&self) -> Reply {
        let pins = self.store.pins().map(|(key, bytes)| PinnedKey {
            key: Bytes::copy_from_slice(key),
            bytes,
        });
        Reply::Pins {
            pins: pins.collect(),
            stats: self.store.pinned(),
        }
    }

    /// Gives the tier an object that is pinned and there, to be found again after a restart. What it
    /// declines is fetched then.
    pub(super) fn offer_pinned(&mut self, now: Now, hash: KeyHash, key: &[u8]) {
        let Some(tier) = &mut self.tier else { return };
        self.store.show_pinned(hash, key, |object| {
            let offered = tier.offer(now, &object, Bypass::Pinned);
            self.tier_due |= offered == Offered::Written;
        });
    }

    pub(super) fn publish_pins(&self) {
        let pinned = self.store.pinned();
        self.stats.pins.set(u64::from(pinned.pins));
        self.stats.pins_kept.set(u64::from(pinned.kept));
        self.stats.pinned_bytes.set(pinned.bytes);
        self.stats.pinned_budget.set(pinned.budget);
        self.stats.pins_refused.set(pinned.refused);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use cache_ebpf::cid::{CidKey, CidKeys};
    use http::{HeaderMap, HeaderValue, StatusCode, header};
    use hugepages::blocks::Pool;
    use hugepages::{Backing, PagePolicy};

    use super::*;
    use crate::config::{Caching, ClientFields, Limits, OriginRoute, Role, ShardConfig};
    use crate::conn::quic::QuicSetup;
    use crate::io::{Command, FetchCommand, FetchEvent, FetchId, Input, PinStats};
    use crate::purge::Purges;
    use crate::stats::ShardStats;
    use crate::store::{self, StoreConfig};
    use crate::tier::format::{Geometry, SetId, SetPlan, Superblock};
    use crate::tier::{DEFAULT_BLOCK_BYTES, Recovery, Tier, TierConfig};

    const KEY: &[u8] = b"edge.test/emote";

    struct World {
        shard: Shard,
        now: Now,
        out: Outbox,
    }

    impl World {
        fn new(pinned_bytes: u64, with_tier: bool) -> Self {
            let config = StoreConfig {
                ram_bytes: 16 << 20,
                pages: PagePolicy::Plain,
                pinned_bytes,
                ..StoreConfig::default()
            };
            let purges = Arc::new(Purges::new(1, 1 << 10));
            let built = store::build(&config, Arc::clone(&purges));
            let store = built.expect("memory").0.remove(0);
            let config = ShardConfig {
                shard: 0,
                shards: 1,
                node_name: "popcache".to_owned(),
                node_id: "0".to_owned(),
                role: Role::Edge,
                origins: vec![OriginRoute {
                    name: "demo".to_owned(),
                    hosts: vec!["edge.test".to_owned()],
                    client_fields: ClientFields::default(),
                }],
                caching: Caching::default(),
                limits: Limits::default(),
            };
            let stats = Arc::<ShardStats>::default();
            let mut shard = Shard::new(config, store, &quic(), stats, [7; 32], true);
            if with_tier {
                shard = shard.with_tier(tier(purges));
            }
            Self {
                shard,
                now: Now {
                    mono: Instant::now(),
                    unix_ms: 1_700_000_000_000,
                },
                out: Outbox::default(),
            }
        }

        fn ask(&mut self, command: Command) -> Reply {
            let input = Input::Command { id: 1, command };
            self.shard.handle(self.now, input, &mut self.out);
            self.out.replies.pop().expect("a reply").1
        }

        fn pin(&mut self) -> Result<Pinned, PinError> {
            match self.ask(Command::Pin(Bytes::from_static(KEY))) {
                Reply::Pinned(pinned) => pinned,
                reply => panic!("{reply:?}"),
            }
        }

        fn unpin(&mut self) -> bool {
            let reply = self.ask(Command::Unpin(Bytes::from_static(KEY)));
            reply == (Reply::Unpinned { was_pinned: true })
        }

        fn listed(&mut self) -> (Vec<PinnedKey>, PinStats) {
            match self.ask(Command::Pins) {
                Reply::Pins { pins, stats } => (pins, stats),
                reply => panic!("{reply:?}"),
            }
        }

        /// The fetch that was begun since the last time, if there is one.
        fn fetch(&mut self) -> Option<FetchId> {
            let mut commands = self.out.fetches.drain(..);
            commands.find_map(|command| match command {
                FetchCommand::Start { id, request } => {
                    let asked = (&request.authority[..], &request.target[..]);
                    assert_eq!(asked, (&b"edge.test"[..], &b"/emote"[..]));
                    Some(id)
                }
                _ => None,
            })
        }

        /// Plays the origin.
        fn answer(&mut self, id: FetchId, len: usize) {
            let kept = HeaderValue::from_static("max-age=60");
            let head = FetchEvent::Head {
                status: StatusCode::OK,
                headers: HeaderMap::from_iter([(header::CACHE_CONTROL, kept)]),
                length: Some(len as u64),
            };
            for event in [head, FetchEvent::Body(vec![7; len].into()), FetchEvent::End] {
                let input = Input::Fetch { id, event };
                self.shard.handle(self.now, input, &mut self.out);
            }
            let turn = Input::Turn { max_transmits: 1 };
            self.shard.handle(self.now, turn, &mut self.out);
        }
    }

    fn quic() -> QuicSetup {
        let certified = rcgen::generate_simple_self_signed(vec!["edge.test".to_owned()]);
        let certified = certified.expect("a certificate");
        let key = certified.signing_key.serialize_der().try_into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.expect("a key"))
            .expect("a pair");
        let mut cids = CidKeys::new(1, CidKey::from_bytes([3; 16]));
        cids.activate(1);
        QuicSetup::new(Arc::new(tls), cids, &Limits::default()).expect("QUIC")
    }

    /// One that has just been formatted.
    fn tier(purges: Arc<Purges>) -> Tier {
        let set = SetPlan {
            id: SetId([7; 16]),
            shards: 1,
            segment_bytes: 1 << 20,
            hash_seed: 0,
            tag_slots: purges.slots(),
        };
        let superblocks = Superblock::plan(&[24 << 20], &set).expect("a device");
        let geometry = Geometry::assemble(&superblocks).expect("a set");
        let config = TierConfig {
            max_reads: 8,
            max_write_blocks: 12,
            max_objects: 1 << 10,
            ..TierConfig::default()
        };
        let bytes = config.blocks(1) * DEFAULT_BLOCK_BYTES;
        let (region, _) = Backing::map(bytes, PagePolicy::Plain).expect("memory");
        let pool = Pool::new(region, DEFAULT_BLOCK_BYTES).expect("blocks");
        let mut recovery = Recovery::new(geometry, 0, config, purges, pool);
        while let Some(read) = recovery.next() {
            recovery.done(&vec![0; read.len as usize]);
        }
        recovery.finish()
    }

    #[test]
    fn a_pin_of_what_is_not_there_fetches_it_and_keeps_it() {
        let mut world = World::new(1 << 20, false);
        assert_eq!(world.pin(), Ok(Pinned::Awaited));
        let id = world.fetch().expect("fetched");
        assert_eq!(world.pin(), Ok(Pinned::Awaited));
        assert_eq!(world.fetch(), None, "it is being fetched");
        let awaited = PinnedKey {
            key: Bytes::from_static(KEY),
            bytes: None,
        };
        assert_eq!(world.listed().0, [awaited]);
        world.answer(id, 1_000);
        let Ok(Pinned::Kept { bytes }) = world.pin() else {
            panic!()
        };
        assert_eq!(world.fetch(), None, "it is there");
        let (pins, stats) = world.listed();
        assert_eq!(pins[0].bytes, Some(bytes));
        assert_eq!((stats.pins, stats.kept, stats.bytes), (1, 1, bytes));
        assert_eq!(world.shard.stats.pinned_bytes.get(), bytes);
        assert!(world.unpin());
        assert!(!world.unpin());
        assert!(world.listed().0.is_empty());
        assert_eq!(world.shard.holdings().local_flights, 0);
    }

    #[test]
    fn what_cannot_be_pinned_is_refused_with_the_reason() {
        let mut world = World::new(2_000, false);
        let elsewhere = Bytes::from_static(b"other.test/");
        let refused = world.ask(Command::Pin(elsewhere));
        assert_eq!(refused, Reply::Pinned(Err(PinError::UnknownHost)));
        assert_eq!(world.pin(), Ok(Pinned::Awaited));
        let id = world.fetch().expect("fetched");
        world.answer(id, 5_000);
        assert_eq!(world.listed().1.kept, 0, "stored, but not kept");
        assert!(world.unpin());
        let Err(PinError::Refused(StoreError::PinBudget { budget, needed, .. })) = world.pin()
        else {
            panic!()
        };
        assert!(budget == 2_000 && needed > 5_000);
        assert!(world.listed().0.is_empty());
        assert_eq!(world.listed().1.refused, 2);
    }

    #[test]
    fn a_purged_pin_waits_for_the_next_object() {
        let mut world = World::new(1 << 20, false);
        assert_eq!(world.pin(), Ok(Pinned::Awaited));
        let id = world.fetch().expect("fetched");
        world.answer(id, 1_000);
        let purge = Command::PurgeKeys {
            keys: Arc::from([Bytes::from_static(KEY)]),
            soft: false,
        };
        assert_eq!(world.ask(purge), Reply::Purged { objects: 1 });
        let (pins, stats) = world.listed();
        assert_eq!((pins.len(), pins[0].bytes, stats.bytes), (1, None, 0));
        assert_eq!(world.pin(), Ok(Pinned::Awaited));
        let id = world.fetch().expect("fetched again");
        world.answer(id, 1_000);
        assert_eq!(world.listed().1.kept, 1);
    }

    #[test]
    fn the_tier_keeps_what_is_pinned_until_it_is_not() {
        let mut world = World::new(1 << 20, true);
        assert_eq!(world.pin(), Ok(Pinned::Awaited));
        let id = world.fetch().expect("fetched");
        world.answer(id, 1_000);
        let pinned = |world: &World| world.shard.tier_stats().expect("a tier").pinned_objects;
        assert_eq!(pinned(&world), 1);
        assert!(world.unpin());
        assert_eq!(pinned(&world), 0);
        // One that is there already is written as pinned at once.
        assert!(matches!(world.pin(), Ok(Pinned::Kept { .. })));
        assert_eq!(pinned(&world), 1);
    }
}
