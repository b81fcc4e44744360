//! The XDP programs of the benchmarks and the daemon's, loaded into the kernel.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use cache_ebpf::maps::MapValue;
use cache_ebpf::vary::SUNK;

static TOOLS: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/popcache-bench-xdp.o"));
static GUARD: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/popcache-xdp.o"));

/// A map value of ours as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T>(pub T);

// SAFETY: a MapValue is plain data by its own contract, and the wrapper is transparent.
unsafe impl<T: MapValue> Pod for Plain<T> {}

/// The benchmarks' own object; `tables`: with the large tables that only comparisons need.
///
/// # Errors
/// Not root, no BPF, or an object that was not built.
pub fn tools(tables: bool) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    if !tables {
        loader.map_max_entries("PREFIXES", 1);
        loader.map_max_entries("SOURCES", 64);
    }
    load(loader, TOOLS, "popcache-bench-xdp")
}

/// The daemon's object.
///
/// # Errors
/// As of [`tools`].
pub fn guard() -> Result<Ebpf> {
    load(EbpfLoader::new(), GUARD, "popcache-xdp")
}

fn load(mut loader: EbpfLoader<'_>, object: &[u8], name: &str) -> Result<Ebpf> {
    ensure!(
        !object.is_empty(),
        "this popcache-bench was built without {name}.o: run `cargo xtask build-ebpf` and build it again"
    );
    ensure!(
        nix::unistd::geteuid().is_root(),
        "BPF programs need root: run it with sudo"
    );
    loader
        .load(object)
        .with_context(|| format!("cannot load {name}.o"))
}

/// Has the kernel verify and compile a program.
///
/// # Errors
/// It is not there, or the verifier refuses it.
pub fn verified<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the object has no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    program
        .load()
        .with_context(|| format!("the kernel refuses the program {name}"))?;
    Ok(program)
}

/// An array map of one of our values.
///
/// # Errors
/// It is not there, or of another size.
pub fn array<'a, T: MapValue>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<Array<&'a mut MapData, Plain<T>>> {
    Ok(Array::try_from(map(ebpf, name)?)?)
}

/// A map by its name.
///
/// # Errors
/// It is not there.
pub fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("the object has no map {name}"))
}

/// Swallows and counts all UDP that arrives on an interface, for as long as it lives.
pub struct Sink {
    ebpf: Ebpf,
}

/// What a [`Sink`] has swallowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sunk {
    pub packets: u64,
    pub bytes: u64,
}

impl Sink {
    /// Attaches to `interface`, natively.
    ///
    /// # Errors
    /// As of [`tools`], or an interface without native XDP.
    pub fn attach(interface: &str) -> Result<Self> {
        let mut ebpf = tools(false)?;
        verified(&mut ebpf, "sink")?
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach to {interface}"))?;
        Ok(Self { ebpf })
    }

    /// # Errors
    /// The kernel's, on reading its counters.
    pub fn sunk(&self) -> Result<Sunk> {
        let map = self.ebpf.map(SUNK).context("the object has no counters")?;
        let counters: PerCpuArray<_, [u64; 2]> = map.try_into()?;
        let cpus: PerCpuValues<[u64; 2]> = counters.get(&0, 0)?;
        let mut sum = Sunk::default();
        for [packets, bytes] in cpus.iter() {
            sum.packets += packets;
            sum.bytes += bytes;
        }
        Ok(sum)
    }
}
