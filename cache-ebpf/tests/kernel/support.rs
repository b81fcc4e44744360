//! The real object in the real kernel, driven by BPF_PROG_TEST_RUN, and the same decisions on the
//! host to compare with.

use std::path::Path;

use aya::{
    Ebpf, Pod, TestRun, TestRunOptions,
    maps::{Array, MapData, PerCpuArray},
    programs::Xdp,
};
use cache_ebpf::{
    maps::{CID_KEYS, COUNTERS, CidKeys, Counters, Extra, MapValue, RULES, Rules, counter_names},
    packet::Packet,
    verdict::{Verdict, decide},
};

const XDP_PASS: u32 = 2;

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

/// What the library says about `frame` on queue 0, where no socket is registered.
pub fn on_host(frame: &[u8], rules: &Rules, keys: &CidKeys) -> Outcome {
    let decision = decide(&Packet::new(frame), 0, rules, keys);
    let mut counted = Counters::ZERO;
    decision.count(&mut counted);
    if matches!(decision.verdict, Verdict::Redirect { .. }) {
        counted.count_extra(Extra::SocketMissing);
    }
    Outcome {
        action: XDP_PASS,
        counted,
    }
}

/// The program, loaded and with its maps at hand, attached to nothing.
pub struct Kernel {
    ebpf: Ebpf,
    counted: Counters,
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
        Self {
            ebpf,
            counted: Counters::ZERO,
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
        Outcome {
            action: result.return_value,
            counted,
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
