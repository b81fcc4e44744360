//! `popcache tune`: the machine's settings that a node wants, and the way back.
//!
//! ```text
//!  Facts (what there is) --plan, pure--> Plan: steps, what cannot be had and why, hints
//!        ^                                 |
//!        |                                 v
//!  Nic: the machine itself, or one that is only recorded (tests)
//!        |                                 |
//!        '--- verify, rollback <-- Ledger <'   a file: how everything was, and what was asked for
//! ```
//! A setting is a name and a value, both text: `channels/combined = 8`, `/sys/class/net/eth0/threaded = 1`. That
//! is all that planning, the ledger and rolling back have to know of it; [`machine`] knows how each is read and
//! written.

mod ethtool;
mod facts;
mod hashing;
mod irqbalance;
mod ledger;
mod machine;
mod plan;
mod show;

use std::path::Path;

use anyhow::Context as _;

pub use facts::Facts;
pub use ledger::{Change, Ledger, Report};
pub use machine::Machine;
pub use plan::{Plan, Step, Wishes, plan};

/// A NIC and the machine around it.
pub trait Nic {
    /// How everything is now.
    ///
    /// # Errors
    /// There is no such interface.
    fn facts(&mut self) -> anyhow::Result<Facts>;

    /// Changes one setting.
    ///
    /// # Errors
    /// Why the driver or the kernel refuses it.
    fn write(&mut self, setting: &str, value: &str) -> Result<(), String>;
}

/// Carries a plan out. What was there before is in the ledger before the first change.
///
/// # Errors
/// There is no such interface, or the ledger cannot be written.
pub fn apply(nic: &mut impl Nic, wishes: &Wishes, file: &Path) -> anyhow::Result<Report> {
    let before = nic.facts()?;
    let mut ledger = Ledger::read(file)?.unwrap_or_else(|| Ledger::new(&before));
    // Queues first: they bring interrupts and files of their own, and take others away.
    for is_shape in [true, false] {
        let facts = nic.facts()?;
        let plan = plan(&facts, wishes);
        let steps = plan.steps.iter().filter(|step| step.is_shape() == is_shape);
        let steps: Vec<&Step> = steps.collect();
        ledger.note(&facts, &steps);
        ledger.write(file)?;
        for step in steps {
            match nic.write(&step.setting, &step.to) {
                Ok(()) => ledger.done(&step.setting),
                Err(reason) => ledger.refused(&step.setting, reason),
            }
        }
        ledger.write(file)?;
    }
    Ok(ledger.compare(&nic.facts()?))
}

/// Compares what was asked for with what is.
///
/// # Errors
/// Nothing was applied, or there is no such interface.
pub fn verify(nic: &mut impl Nic, file: &Path) -> anyhow::Result<Report> {
    let ledger = applied(file)?;
    Ok(ledger.compare(&nic.facts()?))
}

/// Puts everything back that was changed, or that changed with it. The ledger goes once nothing is left.
///
/// # Errors
/// Nothing was applied, there is no such interface, or the ledger cannot be removed.
pub fn rollback(nic: &mut impl Nic, file: &Path) -> anyhow::Result<Report> {
    let ledger = applied(file)?;
    let mut refused = Vec::new();
    for is_shape in [true, false] {
        let facts = nic.facts()?;
        for change in ledger.ways_back(&facts, is_shape) {
            if let Err(reason) = nic.write(&change.setting, &change.wanted) {
                refused.push(Change {
                    reason: Some(reason),
                    ..change
                });
            }
        }
    }
    let facts = nic.facts()?;
    let mut left: Vec<Change> = [true, false]
        .iter()
        .flat_map(|is_shape| ledger.ways_back(&facts, *is_shape))
        .collect();
    for change in &mut left {
        let known = refused.iter().find(|one| one.setting == change.setting);
        change.reason = known.and_then(|one| one.reason.clone());
    }
    if left.is_empty() {
        std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(Report {
        interface: ledger.interface,
        right: ledger.changes.len().saturating_sub(left.len()),
        wrong: left,
    })
}

fn applied(file: &Path) -> anyhow::Result<Ledger> {
    Ledger::read(file)?
        .with_context(|| format!("{} is not there: nothing was applied", file.display()))
}

#[cfg(test)]
mod tests;
