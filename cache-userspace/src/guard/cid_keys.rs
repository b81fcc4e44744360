//! The keys of connection ids: a fresh one from time to time, known everywhere before it is used.

use std::sync::{Mutex, PoisonError};

use cache_core::io::Command;
use cache_ebpf::cid::{CidKey, CidKeys};
use tokio::sync::{mpsc, oneshot};

use super::GuardError;
use crate::node::ShardCommand;
use crate::xdp::{Xdp, random_key};

/// The shards, who make connection ids and open them.
pub struct Shards {
    pub commands: mpsc::Sender<ShardCommand>,
    pub count: u8,
}

impl Shards {
    /// Returns once every shard goes by `keys`. Waits for them: not for the control thread.
    fn see(&self, keys: CidKeys) -> Result<(), GuardError> {
        let ask = |shard| {
            let (reply, answer) = oneshot::channel();
            let command = Command::SeeCidKeys(Box::new(keys));
            let command = ShardCommand {
                shard,
                command,
                reply,
            };
            let sent = self.commands.blocking_send(command);
            sent.map(|()| answer).map_err(|_| GuardError::Ended)
        };
        let answers: Vec<_> = (0..self.count).map(ask).collect::<Result<_, _>>()?;
        for answer in answers {
            answer.blocking_recv().map_err(|_| GuardError::Ended)?;
        }
        Ok(())
    }
}

/// Makes ids with a fresh key from now on, and returns its number.
///
/// The program and every shard know the key before the first of them makes an id with it, so that no
/// id is taken for a forged one on its way.
pub fn turn(xdp: &Mutex<Xdp>, shards: &Shards, now: u64) -> Result<u8, GuardError> {
    let lock = || xdp.lock().unwrap_or_else(PoisonError::into_inner);
    let known = lock().cid_keys();
    let (mut keys, next) = known.with_next(CidKey(random_key()?));
    publish(&lock, shards, keys)?;
    keys.activate(next);
    keys.set_since(seconds(now));
    publish(&lock, shards, keys)?;
    Ok(next)
}

fn publish<'x>(
    lock: &impl Fn() -> std::sync::MutexGuard<'x, Xdp>,
    shards: &Shards,
    keys: CidKeys,
) -> Result<(), GuardError> {
    lock().set_cid_keys(keys)?;
    shards.see(keys)
}

/// Notes when the first key became active.
pub fn begin(xdp: &Mutex<Xdp>, now: u64) -> Result<(), GuardError> {
    let mut xdp = xdp.lock().unwrap_or_else(PoisonError::into_inner);
    let mut keys = xdp.cid_keys();
    if keys.since() == 0 {
        keys.set_since(seconds(now));
        xdp.set_cid_keys(keys)?;
    }
    Ok(())
}

/// Unix time as the map holds it: until 2106.
fn seconds(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(u32::MAX)
}
