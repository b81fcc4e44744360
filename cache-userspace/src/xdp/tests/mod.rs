//! The real program on a real interface, through restarts of its daemon.

pub(crate) mod net;

use std::{
    os::fd::AsFd,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use aya::{Ebpf, maps::MapData, programs::XdpMode as AttachMode};
use cache_ebpf::{
    cid::{self, CidKeys},
    maps::LAYOUT,
    rule::{Mode, Modes, Rule},
};

use super::*;
use net::{DroppingXsk, INTERFACE, delete_pair, describe, in_namespaces, make_pair, send};

const PORT: u16 = 443;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn options(pin_dir: &Path) -> XdpOptions {
    XdpOptions {
        interface: INTERFACE.into(),
        mode: XdpMode::Native,
        pin_dir: pin_dir.into(),
        ports: vec![PORT],
        tcp_ports: vec![PORT],
        shards: 2,
    }
}

/// Runs `test` in namespaces of its own, with the pin directory to use.
pub(crate) fn with_pins(test: impl FnOnce(&Path) + Send + 'static) {
    in_namespaces(move || {
        let directory = tempfile::tempdir().expect("a temporary directory");
        test(&directory.path().join("pins"));
    });
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn counter(xdp: &Xdp, name: &str) -> u64 {
    let counters = xdp.counters().expect("counters");
    let found = counters.into_iter().find(|(counter, _)| *counter == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).1
}

/// A short header with a connection id of ours.
pub(crate) fn short_packet(keys: &CidKeys) -> Vec<u8> {
    let (key_id, key) = keys.active().expect("an active key");
    let id = cid::seal(&key, key_id, 1, *b"abcdef");
    [&[0x41], &id[..], &[0; 20]].concat()
}

#[test]
fn a_restart_never_detaches() {
    with_pins(|pins| {
        let first = Xdp::attach(&options(pins)).expect("first start");
        assert_eq!(first.attachment().origin, Origin::Attached);
        let (before, keys) = (first.attachment(), first.cid_keys());
        send(PORT, &short_packet(&keys));
        wait_until("the packet is counted", || {
            counter(&first, "quic_short") == 1
        });
        drop(first);

        send(PORT, &short_packet(&keys));
        let second = Xdp::attach(&options(pins)).expect("second start");
        let after = second.attachment();
        assert_eq!(after.origin, Origin::Kept);
        assert_eq!(
            (after.link_id, after.program_id),
            (before.link_id, before.program_id)
        );
        assert_eq!(second.cid_keys(), keys, "connection ids stay valid");
        wait_until("what came while no daemon ran is counted", || {
            counter(&second, "quic_short") == 2
        });
        assert_eq!(
            counter(&second, "cid_home") + counter(&second, "cid_away"),
            2
        );
    });
}

#[test]
fn a_new_program_replaces_the_old_one_on_the_same_link() {
    with_pins(|pins| {
        let first = Xdp::attach(&options(pins)).expect("first start");
        let (before, keys) = (first.attachment(), first.cid_keys());
        let foreign = load_elsewhere(pins);

        let second = Xdp::attach(&options(pins)).expect("second start");
        let after = second.attachment();
        assert_eq!(after.origin, Origin::Replaced);
        assert_eq!(after.link_id, before.link_id);
        assert_ne!(after.program_id, before.program_id);
        send(PORT, &short_packet(&keys));
        wait_until("the new program counts in the old maps", || {
            counter(&second, "quic_short") == 1
        });
        drop(foreign);
    });
}

/// Puts a program on the pinned link that works on maps of its own.
fn load_elsewhere(pins: &Path) -> Ebpf {
    use aya::programs::links::{FdLink, PinnedLink};

    let mut ebpf = Ebpf::load(OBJECT).expect("loaded");
    let program = program_of(&mut ebpf).expect("the program");
    program.load().expect("verified");
    let link = PinnedLink::from_pin(pins.join(INTERFACE).join("link")).expect("pinned");
    let link = FdLink::from(link).try_into().expect("an XDP link");
    program.attach_to_link(link).expect("updated");
    ebpf
}

#[test]
fn a_program_of_someone_else_is_left_alone() {
    with_pins(|pins| {
        let mut ebpf = Ebpf::load(OBJECT).expect("loaded");
        let program = program_of(&mut ebpf).expect("the program");
        program.load().expect("verified");
        program
            .attach(INTERFACE, AttachMode::Driver)
            .expect("attached");

        let refused = Xdp::attach(&options(pins)).err().expect("refused");
        assert!(matches!(refused, XdpError::Foreign { .. }), "{refused}");
        assert!(refused.to_string().contains("xdp off"), "{refused}");
        assert!(!pins.join(INTERFACE).exists(), "nothing is left behind");
    });
}

#[test]
fn maps_of_another_layout_give_way_to_new_ones_on_the_same_link() {
    with_pins(|pins| {
        let mut first = Xdp::attach(&options(pins)).expect("first start");
        let mut rules = first.rules;
        rules.layout = LAYOUT + 1;
        rules.modes.set(Rule::CidMac, Mode::Drop);
        first.maps.write_rules(&rules).expect("written");
        let (before, keys) = (first.attachment(), first.cid_keys());
        // What another version may have had beside, and a start that was cut short may have left.
        let directory = pins.join(INTERFACE);
        for name in ["OTHERS", "RULES_next"] {
            let map = MapData::from_pin(directory.join("COUNTERS")).expect("pinned");
            map.pin(directory.join(name)).expect("pinned");
        }

        let second = Xdp::attach(&options(pins)).expect("second start");
        let after = second.attachment();
        assert_eq!(after.origin, Origin::Replaced);
        assert_eq!(after.link_id, before.link_id, "never detached");
        assert_ne!(after.program_id, before.program_id);
        assert_eq!(second.cid_keys(), keys, "connection ids stay valid");
        assert_eq!(
            second.rules().modes,
            Modes::OFF,
            "nothing of what may mean something else"
        );
        send(PORT, &short_packet(&keys));
        wait_until("the new maps count", || counter(&second, "quic_short") == 1);
        let mut names: Vec<_> = std::fs::read_dir(&directory)
            .expect("pins")
            .map(|entry| {
                entry
                    .expect("a pin")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        let mut expected: Vec<_> = maps::pinned().chain(["link"]).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);

        drop(second);
        let third = Xdp::attach(&options(pins)).expect("third start");
        assert_eq!(
            third.attachment(),
            Attachment {
                origin: Origin::Kept,
                ..after
            }
        );
        assert_eq!(counter(&third, "quic_short"), 1);
        assert!(detach(INTERFACE, pins).expect("detached") && !directory.exists());
    });
}

/// Keeps what is logged.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl log::Log for &Heard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().expect("not poisoned").push(line);
    }

    fn flush(&self) {}
}

#[test]
fn a_program_on_maps_of_another_layout_passes_all_and_says_so() {
    with_pins(|pins| {
        let mut xdp = Xdp::attach(&options(pins)).expect("attached");
        let heard = Heard::default();
        let program = xdp.attachment().program_id;
        let mut log = EbpfLogger::init_from_id_with_logger(program, &heard).expect("a log");
        let mut rules = xdp.rules;
        rules.layout = LAYOUT + 1;
        xdp.maps.write_rules(&rules).expect("written");

        send(PORT, &short_packet(&xdp.cid_keys()));
        wait_until("the packet passes", || counter(&xdp, "layout_mismatch") > 0);
        wait_until("the program says so", || {
            log.flush();
            let heard = heard.0.lock().expect("not poisoned");
            let wanted = format!("WARN maps have layout {}", LAYOUT + 1);
            heard.iter().any(|line| line.starts_with(&wanted))
        });
        assert_eq!(counter(&xdp, "quic_short"), 0);
        xdp.flush_log();
    });
}

#[test]
fn an_interface_that_was_made_anew_is_attached_anew() {
    with_pins(|pins| {
        let keys = Xdp::attach(&options(pins)).expect("first start").cid_keys();
        delete_pair();
        make_pair();
        let second = Xdp::attach(&options(pins)).expect("second start");
        assert_eq!(second.attachment().origin, Origin::Attached);
        assert_eq!(second.cid_keys(), keys);
        send(PORT, &short_packet(&keys));
        wait_until("the new interface is served", || {
            counter(&second, "quic_short") == 1
        });
    });
}

#[test]
fn another_mode_attaches_anew() {
    with_pins(|pins| {
        let native = Xdp::attach(&options(pins)).expect("native");
        let skb = XdpOptions {
            mode: XdpMode::Skb,
            ..options(pins)
        };
        let skb = Xdp::attach(&skb).expect("skb");
        assert_eq!(skb.attachment().origin, Origin::Attached);
        assert_eq!(skb.cid_keys(), native.cid_keys());
        assert!(describe().contains("xdpgeneric"), "{}", describe());
    });
}

#[test]
fn detaching_leaves_nothing() {
    with_pins(|pins| {
        drop(Xdp::attach(&options(pins)).expect("attached"));
        assert!(describe().contains("prog/xdp"), "{}", describe());
        assert!(detach(INTERFACE, pins).expect("detached"));
        wait_until("the program is gone", || !describe().contains("prog/xdp"));
        assert!(!pins.join(INTERFACE).exists());
        assert!(!detach(INTERFACE, pins).expect("nothing to do"));
    });
}

#[test]
fn packets_go_to_the_socket_of_a_queue_that_is_on() {
    with_pins(|pins| {
        let mut xdp = Xdp::attach(&options(pins)).expect("attached");
        let packet = short_packet(&xdp.cid_keys());
        let sockets = [0, 1].map(DroppingXsk::bind);
        for (queue, socket) in (0..).zip(&sockets) {
            xdp.register_xsk(queue, socket.fd().as_fd())
                .expect("registered");
        }
        send(PORT, &packet);
        wait_until("it passes while steering is off", || {
            counter(&xdp, "quic_short") == 1
        });
        assert_eq!(counter(&xdp, "redirected"), 0);

        for queue in [0, 1] {
            xdp.set_af_xdp(queue, true).expect("on");
        }
        send(PORT, &packet);
        wait_until("it reaches a socket", || {
            sockets.iter().map(DroppingXsk::reached).sum::<u64>() == 1
        });
        assert_eq!(counter(&xdp, "redirected"), 1);

        drop(sockets);
        // A child that another test forks right now holds them a little longer.
        wait_until("without a socket it passes", || {
            send(PORT, &packet);
            counter(&xdp, "socket_missing") > 0
        });
        send(PORT + 1, &packet);
        wait_until("other ports pass", || counter(&xdp, "other_port") == 1);
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    in_namespaces(|| {
        let nowhere = Path::new("/nonexistent-pins");
        let refuse = |options: XdpOptions| Xdp::attach(&options).err().expect("refused");
        let no_interface = refuse(XdpOptions {
            interface: "pcxdp9".into(),
            ..options(nowhere)
        });
        assert!(
            matches!(no_interface, XdpError::NoInterface { .. }),
            "{no_interface}"
        );
        let ports = refuse(XdpOptions {
            ports: (1..=9).collect(),
            ..options(nowhere)
        });
        assert!(
            matches!(ports, XdpError::TooManyPorts { count: 9, .. }),
            "{ports}"
        );
        let shards = refuse(XdpOptions {
            shards: MAX_QUEUES + 1,
            ..options(nowhere)
        });
        assert!(matches!(shards, XdpError::TooManyShards { .. }), "{shards}");
        assert!(detach("../etc", nowhere).is_err());
        assert!(!nowhere.exists());
    });
}

#[test]
fn random_keys_differ() {
    assert_ne!(
        random_cid_keys(0).expect("random"),
        random_cid_keys(0).expect("random")
    );
}

#[test]
fn the_handle_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Xdp>();
}
