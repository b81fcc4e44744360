//! What the drives of a world do with commands, and what may be relied on of these.

use cache_core::tier::DiskCommand;
use cache_core::tier::format::DATA_START;
use rand::Rng;

use super::World;

impl World {
    /// What the shell may rely on.
    pub(super) fn check_command(&mut self, command: &DiskCommand) {
        let (kind, device, offset, len) = extent(command);
        self.fold(offset ^ len << 40 ^ u64::from(device) << 60);
        let segment = u64::from(self.geometry.segment_bytes());
        let mine = (0..self.geometry.segments()).any(|number| {
            let (its, start) = self.geometry.place(self.plan.shard, number);
            its == device && start <= offset && offset + len <= start + segment
        });
        assert!(
            mine || kind == Kind::Flush,
            "outside of this shard's segments"
        );
        assert!(offset % 4096 == 0 && len % 4096 == 0);
        assert!(kind == Kind::Flush || len > 0);
        for other in &self.under_way {
            let (its, on, at, _) = extent(other);
            if on != device {
                continue;
            }
            let both_write = kind != Kind::Read && its != Kind::Read;
            assert!(!both_write, "two writes under way on one device");
            // Lengths are rounded up, so that a read may go into the footer that is being written. What
            // begins a segment anew begins with its header.
            let (read, write) = match kind {
                Kind::Read => (offset, at),
                _ => (at, offset),
            };
            let one_reads = (kind == Kind::Read) != (its == Kind::Read);
            let into = write.checked_sub(DATA_START);
            let begins = into.is_some_and(|into| into % segment == 0);
            let clash = one_reads && begins && (write..write + segment).contains(&read);
            let faults = self.plan.faults;
            let clash = clash && faults.write_error == 0.0 && !faults.full;
            assert!(!clash, "read and write of the same place under way");
        }
    }

    pub fn complete_something(&mut self) {
        if !self.under_way.is_empty() {
            let at = self.rng.random_range(0..self.under_way.len());
            let (_, device, ..) = extent(&self.under_way[at]);
            if self.plan.faults.slow && device == 0 && self.rng.random_bool(0.9) {
                return;
            }
            let command = self.under_way.swap_remove(at);
            self.complete(command);
        }
    }

    fn complete(&mut self, mut command: DiskCommand) {
        let faults = self.plan.faults;
        let result = match &mut command {
            DiskCommand::Read {
                device,
                offset,
                len,
                block,
                ..
            } => {
                let bytes = self.disks[usize::from(*device)].read(*offset, *len as usize);
                block[..*len as usize].copy_from_slice(&bytes);
                self.outcome(faults.read_error, *len)
            }
            DiskCommand::Write {
                device,
                offset,
                len,
                block,
                ..
            } => self.write(*device, *offset, &block[..*len as usize]),
            DiskCommand::Flush { device, .. } => {
                let result = self.outcome(faults.flush_error, 0);
                if result.is_ok() {
                    self.disks[usize::from(*device)].flush();
                }
                result
            }
            DiskCommand::Discard {
                device,
                offset,
                len,
                ..
            } if !faults.no_discard => {
                if self.rng.random_bool(0.5) {
                    let zeros = vec![0; *len as usize];
                    self.disks[usize::from(*device)].write(*offset, &zeros);
                }
                Ok(0)
            }
            DiskCommand::Discard { .. } => Err(95),
        };
        self.tier.done(self.now(), command.answer(result));
    }

    fn write(&mut self, device: u8, offset: u64, bytes: &[u8]) -> Result<u32, i32> {
        let faults = self.plan.faults;
        let disk = usize::from(device);
        if faults.full && device == 0 && self.millis / 10_000 % 3 == 1 {
            return Err(28);
        }
        if self.rng.random_bool(faults.lost_write) {
            return Ok(bytes.len() as u32);
        }
        let result = self.outcome(faults.write_error, bytes.len() as u32);
        // A write that fails may have done a part.
        let done = match result {
            Ok(_) => bytes.len(),
            Err(_) => self.rng.random_range(0..=bytes.len()),
        };
        if done > 0 {
            self.disks[disk].write(offset, &bytes[..done]);
        }
        result
    }

    fn outcome(&mut self, error: f64, len: u32) -> Result<u32, i32> {
        match self.rng.random_bool(error) {
            // An I/O error, no space left, or less than was asked for.
            true => match self.rng.random_range(0..3) {
                0 => Err(5),
                1 => Err(28),
                _ if len > 512 => Ok(len - 512),
                _ => Err(5),
            },
            false => Ok(len),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Read,
    Write,
    Flush,
}

fn extent(command: &DiskCommand) -> (Kind, u8, u64, u64) {
    match command {
        DiskCommand::Read {
            device,
            offset,
            len,
            ..
        } => (Kind::Read, *device, *offset, u64::from(*len)),
        DiskCommand::Write {
            device,
            offset,
            len,
            block,
            ..
        } => {
            assert!(*len as usize <= block.len());
            (Kind::Write, *device, *offset, u64::from(*len))
        }
        DiskCommand::Flush { device, .. } => (Kind::Flush, *device, 0, 0),
        DiskCommand::Discard {
            device,
            offset,
            len,
            ..
        } => (Kind::Write, *device, *offset, *len),
    }
}
