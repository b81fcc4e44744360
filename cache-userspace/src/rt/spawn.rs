//! Starts the thread of a core and hands back how it ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use cache_core::shard::Shard;
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};

use super::core_loop::{Core, CoreIo, LoopStats};
use super::disk::{Disk, DiskPlan};
use super::door::Door;
use super::mesh::ShardLanes;
use super::packet::{PacketStats, Port};
use crate::tcp::TcpPlan;

/// Registered I/O memory of an executor: glommio's least, since it does no disk I/O for us. It is
/// locked, and RLIMIT_MEMLOCK is 8 MiB by default.
const IO_MEMORY: usize = 64 << 10;
/// Entries of each of glommio's rings.
const RING_DEPTH: usize = 64;

/// Everything that one core runs.
pub struct CorePlan {
    pub number: u8,
    pub cpu: usize,
    pub shard: Shard,
    pub port: Port,
    /// Where the tier's drives are, if there is a tier.
    pub disk: Option<DiskPlan>,
    pub lanes: ShardLanes,
    /// Listeners for clients without UDP.
    pub tcp: TcpPlan,
    pub spin: Duration,
    pub packet_stats: Arc<PacketStats>,
    pub loop_stats: Arc<LoopStats>,
}

/// A core's thread.
pub struct RunningCore {
    number: u8,
    handle: ExecutorJoinHandle<anyhow::Result<()>>,
}

/// Starts a core and waits until it is in its loop.
///
/// # Errors
/// The thread cannot be pinned, or io_uring refuses its rings.
pub fn spawn(plan: CorePlan) -> anyhow::Result<RunningCore> {
    let (number, cpu) = (plan.number, plan.cpu);
    let (started, starting) = mpsc::channel();
    let handle = LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name(&format!("shard-{number}"))
        .io_memory(IO_MEMORY)
        .ring_depth(RING_DEPTH)
        .spawn(move || run(plan, started))
        .map_err(|error| explain(error, number, cpu))?;
    let core = RunningCore { number, handle };
    match starting.recv() {
        Ok(()) => Ok(core),
        // The core ended before it was started; it knows why.
        Err(_) => match core.join() {
            Err(error) => Err(error),
            Ok(()) => Err(anyhow!("shard {number} ended before it began")),
        },
    }
}

async fn run(plan: CorePlan, started: mpsc::Sender<()>) -> anyhow::Result<()> {
    let io = CoreIo {
        packets: plan.port.open(plan.packet_stats),
        disk: match plan.disk {
            Some(disk) => Some(Disk::new(disk).context("cannot make the drives' io_uring")?),
            None => None,
        },
        lanes: plan.lanes,
    };
    let core = Core::new(plan.shard, io, plan.spin, plan.loop_stats);
    core.hear_drives()?;
    let sleeper = core.sleeper()?;
    let core = Rc::new(RefCell::new(core));
    plan.tcp.start(Door::new(&core));
    // The one who started us waits for this, or is gone.
    let _ = started.send(());
    Core::run(core, sleeper).await
}

impl RunningCore {
    /// Waits for the end.
    ///
    /// # Errors
    /// The core failed or panicked.
    pub fn join(self) -> anyhow::Result<()> {
        let number = self.number;
        match self.handle.join() {
            Ok(result) => result.with_context(|| format!("shard {number}")),
            Err(error) => Err(anyhow!("shard {number} ended: {error}")),
        }
    }
}

fn explain(error: GlommioError<()>, number: u8, cpu: usize) -> anyhow::Error {
    anyhow!("cannot start shard {number} on CPU {cpu}: {error}")
}
