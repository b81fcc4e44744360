//! The guard over the real program, on a real interface, judging real packets.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use cache_ebpf::rule::{Mode, Rule};

use super::*;
use crate::guard::order::{Done, ListRequest, ModeRequest, RemoveRequest, Report};
use crate::xdp::tests::net::{OTHER_PEER_ADDRESS, PEER_ADDRESS, in_namespaces, send, send_from};
use crate::xdp::tests::{counter, options, short_packet, wait_until};

const PORT: u16 = 443;
const NOW: u64 = 1_000_000;

/// A program of its own, its guard, and the files of both.
struct World {
    directory: tempfile::TempDir,
    xdp: Arc<Mutex<Xdp>>,
    desk: Desk,
}

impl World {
    fn open(change: impl FnOnce(&mut GuardConfig, &Path)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::reopen(directory, change)
    }

    fn reopen(directory: tempfile::TempDir, change: impl FnOnce(&mut GuardConfig, &Path)) -> Self {
        let options = options(&directory.path().join("pins"));
        let xdp = Arc::new(Mutex::new(Xdp::attach(&options).expect("attached")));
        let mut config = config();
        config.state_file = directory.path().join("guard.json");
        change(&mut config, directory.path());
        // No shards: they have nothing to see.
        let (commands, count) = (tokio::sync::mpsc::channel(1).0, 0);
        let shards = Shards { commands, count };
        let desk = Desk::open(config, Arc::clone(&xdp), shards, Arc::default());
        let desk = desk.expect("a guard");
        Self {
            directory,
            xdp,
            desk,
        }
    }

    fn counter(&self, name: &str) -> u64 {
        counter(&self.xdp.lock().expect("not poisoned"), name)
    }

    fn short(&self) -> Vec<u8> {
        short_packet(&self.xdp.lock().expect("not poisoned").cid_keys())
    }

    /// Sends a packet, and says by which of the counters it was counted.
    fn counts(&self, source: &str, payload: &[u8], counters: &[&'static str]) -> &'static str {
        let before: Vec<u64> = counters.iter().map(|name| self.counter(name)).collect();
        send_from(source, PORT, payload);
        let mut found = "";
        wait_until("the packet is counted", || {
            let mut moved = counters
                .iter()
                .zip(&before)
                .filter(|(name, before)| self.counter(name) > **before);
            found = moved.next().map_or("", |(name, _)| name);
            !found.is_empty()
        });
        found
    }

    fn order(&mut self, order: Order, now: u64) -> Result<Answer, GuardError> {
        self.desk.carry_out(order, now)
    }

    fn done(&mut self, order: Order) -> Done {
        match self.order(order, NOW) {
            Ok(Answer::Done(done)) => done,
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self) -> Report {
        match self.order(Order::Report, NOW) {
            Ok(Answer::Report(report)) => *report,
            other => panic!("{other:?}"),
        }
    }
}

fn list(list: ListName, prefix: &str, seconds: Option<u64>) -> Order {
    Order::List(ListRequest {
        list,
        prefixes: vec![prefix.to_owned()],
        seconds,
        note: String::new(),
    })
}

const VERDICTS: [&str; 2] = ["quic_short", "dropped_block_list"];

#[test]
fn who_is_blocked_is_dropped_until_it_is_allowed_or_removed_or_its_time_is_up() {
    in_namespaces(|| {
        let mut world = World::open(|_, _| {});
        let short = world.short();
        let judged = |world: &World| world.counts(PEER_ADDRESS, &short, &VERDICTS);
        assert_eq!(judged(&world), "quic_short");
        let done = world.done(list(ListName::Block, "192.0.2.0/31", Some(60)));
        assert_eq!((done.blocked, done.changed), (1, 1));
        assert_eq!(judged(&world), "dropped_block_list");
        world.done(list(ListName::Allow, PEER_ADDRESS, None));
        assert_eq!(judged(&world), "quic_short");
        let prefixes = vec![PEER_ADDRESS.to_owned()];
        world.done(Order::Remove(RemoveRequest { prefixes }));
        assert_eq!(judged(&world), "dropped_block_list");
        world.desk.look_after(NOW + 59);
        assert_eq!(judged(&world), "dropped_block_list");
        world.desk.look_after(NOW + 60);
        assert_eq!(judged(&world), "quic_short");
    });
}

#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    in_namespaces(|| {
        let mut world = World::open(|config, directory| {
            config.max_entries = 2;
            let feed = directory.join("feed");
            std::fs::write(&feed, "192.0.2.1\n").expect("written");
            config.block_files = vec![feed];
        });
        let short = world.short();
        let feed = world.directory.path().join("feed");
        let judged = |world: &World| world.counts(PEER_ADDRESS, &short, &VERDICTS);
        assert_eq!(judged(&world), "dropped_block_list");

        std::fs::write(&feed, "198.51.100.0/24\n192.0.2.0/2x\n").expect("written");
        let refused = world.order(Order::Reload, NOW).expect_err("broken");
        assert!(refused.to_string().contains("line 2"), "{refused}");
        assert_eq!(judged(&world), "dropped_block_list");
        std::fs::write(&feed, "198.51.100.0/24\n").expect("written");
        world.done(Order::Reload);
        assert_eq!(judged(&world), "quic_short");

        let many = ListRequest {
            list: ListName::Block,
            prefixes: ["192.0.2.1", "198.51.100.1", "198.51.100.2"]
                .map(str::to_owned)
                .to_vec(),
            seconds: None,
            note: String::new(),
        };
        let refused = world.order(Order::List(many), NOW).expect_err("too many");
        assert!(
            matches!(refused, GuardError::TooMany { most: 2 }),
            "{refused}"
        );
        let prefixes = vec!["198.51.100.0/24".to_owned()];
        let refused = world.order(Order::Remove(RemoveRequest { prefixes }), NOW);
        assert!(
            matches!(refused, Err(GuardError::NotListed(_))),
            "of a feed"
        );
        assert_eq!(judged(&world), "quic_short");
        assert_eq!(world.report().counters["changes_refused"], 3);
        assert_eq!(world.report().counters["entries_refused"], 3);
    });
}

#[test]
fn changes_outlive_the_process() {
    in_namespaces(|| {
        let mut world = World::open(|_, _| {});
        let short = world.short();
        world.done(list(ListName::Block, PEER_ADDRESS, None));
        let rules = vec!["cid_mac".to_owned()];
        let mode = "monitor".to_owned();
        world.done(Order::Monitor(ModeRequest { rules, mode }));
        let World { directory, .. } = world;

        // Between two daemons the program goes on by what it was told last.
        send(PORT, &short);
        let mut world = World::reopen(directory, |_, _| {});
        wait_until("the packet is counted", || {
            world.counter("dropped_block_list") == 1
        });
        assert_eq!(world.report().entries.len(), 1);
        assert_eq!(
            world.counts(PEER_ADDRESS, &short, &VERDICTS),
            "dropped_block_list"
        );
        let forged = [&[0x41][..], &[7; 40]].concat();
        let verdicts = ["monitored_cid_mac", "dropped_cid_mac"];
        let judged = world.counts(OTHER_PEER_ADDRESS, &forged, &verdicts);
        assert_eq!(judged, "monitored_cid_mac");
        let mac = world.report().rules.remove(Rule::CidMac as usize);
        assert_eq!(
            (&mac.mode[..], mac.configured.as_deref()),
            ("monitor", Some("drop"))
        );
        let rules = vec!["all".to_owned()];
        let mode = "configured".to_owned();
        world.done(Order::Monitor(ModeRequest { rules, mode }));
        let judged = world.counts(OTHER_PEER_ADDRESS, &forged, &verdicts);
        assert_eq!(judged, "dropped_cid_mac");
    });
}

#[test]
fn what_is_dropped_is_told() {
    in_namespaces(|| {
        let mut world = World::open(|_, _| {});
        let forged = [&[0x41][..], &[7; 40]].concat();
        for _ in 0..3 {
            world.counts(PEER_ADDRESS, &forged, &["dropped_cid_mac"]);
        }
        world.desk.look_after(NOW);
        let Ok(Answer::Events(events)) = world.order(Order::Events { after: 1 }, NOW) else {
            panic!("no events");
        };
        assert_eq!(events.len(), 2, "{events:?}");
        let event = &events[0];
        assert_eq!((&event.rule[..], event.dropped), ("cid_mac", true));
        assert_eq!(event.source.to_string(), PEER_ADDRESS);
        assert!(event.first.starts_with("410707"), "{event:?}");
        let Ok(Answer::Top(top)) = world.order(Order::Top { most: 5 }, NOW) else {
            panic!("no top");
        };
        assert_eq!((top.len(), top[0].events), (1, 3), "{top:?}");
    });
}

/// A thousand swaps of the lists while packets come in: each is judged by one list or the other, and
/// what both lists say of it holds at every moment.
#[test]
fn a_thousand_reloads_lose_and_misjudge_no_packet() {
    in_namespaces(|| {
        let mut world = World::open(|config, directory| {
            config.block_files = vec![directory.join("feed")];
            std::fs::write(directory.join("feed"), "192.0.2.3\n").expect("written");
        });
        let (short, stop) = (world.short(), AtomicBool::new(false));
        let sent = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut sent = 0_u64;
                while !stop.load(Relaxed) {
                    send_from(PEER_ADDRESS, PORT, &short);
                    send_from(OTHER_PEER_ADDRESS, PORT, &short);
                    sent += 1;
                }
                sent
            });
            for round in 0..1_000 {
                let text = format!(
                    "192.0.2.3\n198.51.{}.{}\n2001:db8::{round:x}\n",
                    round / 250,
                    round % 250
                );
                std::fs::write(world.directory.path().join("feed"), text).expect("written");
                world.done(Order::Reload);
            }
            stop.store(true, Relaxed);
            load.join().expect("sent")
        });
        println!("{sent} packets of each source");
        assert!(sent > 1_000);
        wait_until("every packet is counted", || {
            world.counter("quic_short") + world.counter("dropped_block_list") == 2 * sent
        });
        assert_eq!(world.counter("quic_short"), sent);
    });
}

/// Twenty daemons after each other (`POPCACHE_RESTARTS` sets another number) over the same program while
/// packets come in.
#[test]
fn restarts_lose_and_misjudge_no_packet() {
    let restarts = std::env::var("POPCACHE_RESTARTS").map_or(20, |number| {
        number.parse().expect("POPCACHE_RESTARTS is a number")
    });
    in_namespaces(move || {
        let mut world = World::open(|_, _| {});
        world.done(list(ListName::Block, OTHER_PEER_ADDRESS, None));
        let (short, stop) = (world.short(), AtomicBool::new(false));
        let (sent, world) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut sent = 0_u64;
                while !stop.load(Relaxed) {
                    send_from(PEER_ADDRESS, PORT, &short);
                    send_from(OTHER_PEER_ADDRESS, PORT, &short);
                    sent += 1;
                }
                sent
            });
            for _ in 0..restarts {
                let World { directory, .. } = world;
                world = World::reopen(directory, |_, _| {});
            }
            stop.store(true, Relaxed);
            (load.join().expect("sent"), world)
        });
        println!("{sent} packets of each source over {restarts} restarts");
        wait_until("every packet is counted", || {
            world.counter("quic_short") + world.counter("dropped_block_list") == 2 * sent
        });
        assert_eq!(world.counter("quic_short"), sent);
    });
}

#[test]
fn a_million_prefixes_are_loaded() {
    in_namespaces(|| {
        let mut world = World::open(|config, directory| {
            let feed = directory.join("feed");
            let mut text = String::new();
            for i in 0..1_000_000_u32 {
                // Spread over the whole space, none of them the peer's.
                let [a, b, c, d] = i.wrapping_mul(2_654_435_761).to_be_bytes();
                let line = match i % 4 {
                    0 => format!("{}.{b}.{c}.0/24\n", a | 1),
                    1 => format!("2001:{a:x}{b:02x}:{c:x}{d:02x}::/48\n"),
                    _ => format!("{}.{b}.{c}.{d}\n", a | 1),
                };
                text.push_str(&line);
            }
            std::fs::write(&feed, text).expect("written");
            config.block_files = vec![feed];
            config.block = vec![prefixes::parse(OTHER_PEER_ADDRESS).expect("good")];
        });
        let begun = Instant::now();
        let done = world.done(Order::Reload);
        println!(
            "1,000,000 prefixes read and in force after {:?}",
            begun.elapsed()
        );
        assert_eq!(done.blocked, 1_000_001);
        let short = world.short();
        let judged = world.counts(OTHER_PEER_ADDRESS, &short, &VERDICTS);
        assert_eq!(judged, "dropped_block_list");
        let judged = world.counts(PEER_ADDRESS, &short, &VERDICTS);
        assert_eq!(judged, "quic_short");
    });
}

#[test]
fn a_broken_feed_does_not_keep_the_node_from_starting() {
    in_namespaces(|| {
        let mut world = World::open(|config, directory| {
            let (good, broken) = (directory.join("good"), directory.join("broken"));
            std::fs::write(&good, "192.0.2.1\n").expect("written");
            std::fs::write(&broken, "nonsense\n").expect("written");
            config.block_files = vec![broken, good];
            config.modes.set(Rule::BlockList, Mode::Drop);
        });
        let short = world.short();
        let judged = world.counts(PEER_ADDRESS, &short, &VERDICTS);
        assert_eq!(judged, "dropped_block_list");
        let feeds = world.report().feeds;
        assert!(
            feeds[0]
                .error
                .as_deref()
                .is_some_and(|why| why.contains("line 1"))
        );
        assert_eq!((feeds[1].prefixes, &feeds[1].error), (1, &None));
    });
}

#[test]
fn connection_ids_outlive_three_new_keys_and_a_restart() {
    in_namespaces(|| {
        let hour = |config: &mut GuardConfig, _: &Path| {
            config.cid_key_lifetime = Duration::from_secs(3600);
        };
        let verdicts = ["quic_short", "dropped_cid_mac"];
        let begun = unix_now();
        let mut world = World::open(hour);
        let first = world.short();
        world.desk.look_after(begun + 3500);
        assert_eq!(world.short(), first, "the key is young");
        for turn in 1..=3 {
            world.desk.look_after(begun + 3700 * turn);
            assert_ne!(world.short(), first);
            let World { directory, .. } = world;
            world = World::reopen(directory, hour);
            for id in [first.clone(), world.short()] {
                assert_eq!(world.counts(PEER_ADDRESS, &id, &verdicts), "quic_short");
            }
        }
        world.desk.look_after(begun + 3700 * 4);
        let judged = world.counts(PEER_ADDRESS, &first, &verdicts);
        assert_eq!(judged, "dropped_cid_mac");
        let fresh = world.short();
        assert_eq!(world.counts(PEER_ADDRESS, &fresh, &verdicts), "quic_short");
    });
}
