//! The real object in the real kernel, driven by BPF_PROG_TEST_RUN, and the same decisions on the
//! host to compare with.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Ebpf, Pod, TestRun, TestRunOptions,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
    programs::Xdp,
};
use cache_ebpf::{
    event::Event,
    lists::{List, Prefix, Slot, Used, Writer},
    maps::{
        CID_KEYS, COUNTERS, COVER4, COVER6, CidKeys, Counters, EVENTS, EXACT, Extra, MARKS4,
        MapValue, RULES, Rules, counter_names,
    },
    packet::Packet,
    tables::HostTables,
    verdict::{Given, Seen, Verdict, decide},
};
use memmap2::{MmapMut, MmapOptions};

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;

/// A map value of ours as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: a MapValue is plain data by its own contract, and the wrapper is transparent.
unsafe impl<T: MapValue> Pod for Plain<T> {}

/// What became of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action: u32,
    pub counted: Counters,
    pub event: Option<Event>,
}

impl Outcome {
    /// The names of the counters that moved.
    pub fn moved(&self) -> Vec<&'static str> {
        counter_names()
            .zip(self.counted.values)
            .filter_map(|(name, count)| (count > 0).then_some(name))
            .collect()
    }
}

/// The rules and tables of the host, to compare the kernel's verdicts with.
pub struct Host {
    pub rules: Rules,
    pub keys: CidKeys,
    pub tables: HostTables,
}

impl Host {
    pub fn new(rules: Rules, keys: CidKeys) -> Self {
        Self {
            rules,
            keys,
            tables: HostTables::default(),
        }
    }

    /// Fills the generation that is not in use from both lists, and uses it.
    pub fn list(&mut self, allow: &[Prefix], block: &[Prefix], seed: [u64; 2]) {
        self.rules.lists.prepare(seed);
        let slot = self.tables.slot(self.rules.lists.generation() ^ 1);
        let used = write_lists(slot, allow, block, seed);
        self.rules.lists.flip(used);
    }

    /// What the library says about `frame` on queue 0, where no socket is registered.
    pub fn run(&mut self, frame: &[u8]) -> Outcome {
        let (mut counted, mut seen) = (Counters::ZERO, Seen::NOTHING);
        let given = Given {
            queue: 0,
            rules: &self.rules,
            keys: &self.keys,
        };
        let packet = Packet::new(frame);
        let verdict = decide(|| packet, given, &mut self.tables, &mut counted, &mut seen);
        if matches!(verdict, Verdict::Redirect { .. }) {
            counted.count_extra(Extra::SocketMissing);
        }
        let event = Event::new(&packet, &seen);
        let action = match verdict {
            Verdict::Drop => XDP_DROP,
            Verdict::Pass | Verdict::Redirect { .. } => XDP_PASS,
        };
        Outcome {
            action,
            counted,
            event,
        }
    }
}

fn write_lists(slot: Slot<'_>, allow: &[Prefix], block: &[Prefix], seed: [u64; 2]) -> Used {
    let mut writer = Writer::new(slot, seed);
    for (list, prefixes) in [(List::Allow, allow), (List::Block, block)] {
        for prefix in prefixes {
            writer.insert(list, prefix).expect("room");
        }
    }
    writer.finish().0
}

/// The program, loaded and with its maps at hand, attached to nothing.
pub struct Kernel {
    ebpf: Ebpf,
    counted: Counters,
    tables: [MmapMut; 4],
    events: RingBuf<MapData>,
}

impl Kernel {
    /// Loads `target/bpf/popcache-xdp.o`. Needs root.
    pub fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/popcache-xdp.o");
        let object = std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; build it with `cargo xtask build-ebpf`",
                path.display()
            )
        });
        let mut ebpf = Ebpf::load(&object).unwrap_or_else(|error| {
            panic!("{error:?}; these tests need root and a kernel with BPF")
        });
        let program: &mut Xdp = ebpf
            .program_mut("popcache_xdp")
            .expect("the object has the program")
            .try_into()
            .expect("it is an XDP program");
        program
            .load()
            .unwrap_or_else(|error| panic!("the verifier refuses the program: {error}\n{error:?}"));
        let tables = [MARKS4, COVER4, COVER6, EXACT].map(|name| mapped(&ebpf, name));
        let events = ebpf.take_map(EVENTS).expect("the object has the map");
        Self {
            ebpf,
            counted: Counters::ZERO,
            tables,
            events: events.try_into().expect("a ring"),
        }
    }

    pub fn program(&self) -> &Xdp {
        let program = self.ebpf.program("popcache_xdp");
        program
            .and_then(|program| program.try_into().ok())
            .expect("loaded")
    }

    pub fn set(&mut self, rules: Rules, keys: CidKeys) {
        self.array(RULES).set(0, Plain(rules), 0).expect("RULES");
        self.array(CID_KEYS)
            .set(0, Plain(keys), 0)
            .expect("CID_KEYS");
    }

    /// Gives the program the rules and keys of `host`.
    pub fn follow(&mut self, host: &Host) {
        self.set(host.rules, host.keys);
    }

    /// Fills the generation that `host` uses from the same lists.
    pub fn list(&mut self, host: &Host, allow: &[Prefix], block: &[Prefix], seed: [u64; 2]) {
        let [marks4, cover4, cover6, exact] = &mut self.tables;
        let generation = host.rules.lists.generation();
        let slot = Slot::of_generation(generation, marks4, cover4, cover6, exact);
        write_lists(slot.expect("of the right size"), allow, block, seed);
    }

    fn array<T: MapValue>(&mut self, name: &str) -> Array<&mut MapData, Plain<T>> {
        let map = self.ebpf.map_mut(name).expect("the object has the map");
        Array::try_from(map).expect("the layouts agree")
    }

    /// Runs the program on one frame, as if it had come in on queue 0 of the loopback interface.
    pub fn run(&mut self, frame: &[u8]) -> Outcome {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = self.program().test_run(options);
        let result = result.unwrap_or_else(|error| panic!("BPF_PROG_TEST_RUN: {error:?}"));
        let after = self.counters();
        let mut counted = after;
        for (value, before) in counted.values.iter_mut().zip(self.counted.values) {
            *value -= before;
        }
        self.counted = after;
        let event = self.events.next();
        Outcome {
            action: result.return_value,
            counted,
            event: event.map(|bytes| Event::from_bytes(&bytes).expect("an event")),
        }
    }

    /// The counters of all CPUs together.
    fn counters(&self) -> Counters {
        let map = self.ebpf.map(COUNTERS).expect("the object has the map");
        let array: PerCpuArray<_, Plain<Counters>> = map.try_into().expect("the layouts agree");
        let mut sum = Counters::ZERO;
        for cpu in array.get(&0, 0).expect("COUNTERS").iter() {
            for (total, value) in sum.values.iter_mut().zip(cpu.0.values) {
                *total += value;
            }
        }
        sum
    }
}

/// A table of the lists, as memory that is shared with the kernel.
fn mapped(ebpf: &Ebpf, name: &str) -> MmapMut {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        panic!("the object has no array {name}");
    };
    let info = map.info().expect("information about the map");
    let length = info.max_entries() as usize * info.value_size() as usize;
    let descriptor = map.fd().as_fd().as_raw_fd();
    // SAFETY: the program only reads the tables, and only while a test runs it.
    unsafe { MmapOptions::new().len(length).map_mut(descriptor) }.expect("mapped")
}
