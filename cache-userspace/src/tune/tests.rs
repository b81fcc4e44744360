//! Plans for NICs that are not at hand, against what they should be; and the way there and back.
//!
//! `recorded/NAME.json` is a machine: written by hand from what such a driver is known to offer, with the defaults of Linux 6.12.
//! `recorded/NAME.plan` is the page for it. POPCACHE_BLESS=1 writes the pages anew, to be read before they are kept.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::facts::mask_like;
use super::*;

#[derive(Deserialize)]
struct Recording {
    facts: Facts,
    wishes: Wishes,
    /// What the driver says no to, and why.
    refuses: BTreeMap<String, String>,
}

/// A machine that is only remembered.
struct Recorded {
    facts: Facts,
    /// As it was recorded: what queues get that come back.
    at_first: Facts,
    refuses: BTreeMap<String, String>,
}

impl Recorded {
    /// Queues come and go with their files and interrupts, and the table of RSS starts anew.
    fn reshape(&mut self, queues: usize) {
        let of_queue = |name: &str| -> Option<usize> {
            let (_, rest) = name.split_once("/queues/")?;
            rest.split(['-', '/']).nth(1)?.parse().ok()
        };
        let at_first = &self.at_first;
        let irqs = at_first
            .interrupts
            .iter()
            .filter(|(_, queue)| **queue < queues);
        self.facts.interrupts = irqs.map(|(irq, queue)| (*irq, *queue)).collect();
        for (name, value) in &at_first.settings {
            let irq = name
                .strip_prefix("/proc/irq/")
                .and_then(|rest| rest.split('/').next()?.parse::<u32>().ok());
            let queue = of_queue(name).or_else(|| at_first.interrupts.get(&irq?).copied());
            match queue {
                Some(queue) if queue >= queues => drop(self.facts.settings.remove(name)),
                Some(_) => {
                    let place = self.facts.settings.entry(name.clone());
                    place.or_insert_with(|| match name.ends_with("_cpus") {
                        // The kernel forgets where a queue that was gone sent from.
                        true => mask_like(value, &[]),
                        false => value.clone(),
                    });
                }
                None => {}
            }
        }
        if let Some(table) = self.facts.settings.get_mut("rss/table") {
            *table = format!("equal {queues}");
        }
    }
}

impl Nic for Recorded {
    fn facts(&mut self) -> anyhow::Result<Facts> {
        Ok(self.facts.clone())
    }

    fn write(&mut self, setting: &str, value: &str) -> Result<(), String> {
        if let Some(reason) = self.refuses.get(setting) {
            return Err(reason.clone());
        }
        let place = self
            .facts
            .settings
            .get_mut(setting)
            .ok_or("no such setting")?;
        value.clone_into(place);
        if setting == "channels/combined" {
            self.reshape(value.parse().map_err(|_| "not a number")?);
        }
        Ok(())
    }
}

fn recording(text: &str) -> (Recorded, Wishes) {
    let recording: Recording = serde_json::from_str(text).expect("a recording");
    let nic = Recorded {
        at_first: recording.facts.clone(),
        facts: recording.facts,
        refuses: recording.refuses,
    };
    (nic, recording.wishes)
}

macro_rules! recorded {
    ($($name:ident: $file:literal),+ $(,)?) => {$(
        mod $name {
            use super::*;

            #[test]
            fn the_plan_is_the_golden_one() {
                let (nic, wishes) = recording(include_str!(concat!("recorded/", $file, ".json")));
                let page = plan(&nic.facts, &wishes).page(&wishes);
                let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join(concat!("src/tune/recorded/", $file, ".plan"));
                if std::env::var_os("POPCACHE_BLESS").is_some() {
                    std::fs::write(&golden, &page).expect("blessed");
                }
                let expected = std::fs::read_to_string(&golden).expect("the golden plan");
                assert!(page == expected, "not {}:\n{page}", golden.display());
            }

            #[test]
            fn what_is_applied_is_undone() {
                let (nic, wishes) = recording(include_str!(concat!("recorded/", $file, ".json")));
                there_and_back(nic, &wishes);
            }
        }
    )+};
}

recorded! {
    ixgbe: "ixgbe",
    i40e: "i40e",
    ice: "ice",
    mlx5: "mlx5",
    virtio_net: "virtio-net",
}

fn there_and_back(mut nic: Recorded, wishes: &Wishes) {
    let folder = tempfile::tempdir().expect("directory");
    let file = folder.path().join("state/tune.json");
    let before = nic.facts.clone();

    let report = apply(&mut nic, wishes, &file).expect("applied");
    let refused: Vec<_> = report.wrong.iter().map(|change| &change.setting).collect();
    assert_eq!(refused, nic.refuses.keys().collect::<Vec<_>>());
    for change in &report.wrong {
        assert_eq!(change.reason.as_ref(), nic.refuses.get(&change.setting));
    }
    let left = plan(&nic.facts, wishes).steps;
    assert_eq!(left.len(), nic.refuses.len(), "{left:#?}");
    // Twice is as good as once, and does not forget how it was before.
    assert_eq!(apply(&mut nic, wishes, &file).expect("again"), report);

    let somewhere = format!("/sys/class/net/{}/gro_flush_timeout", before.interface);
    nic.write(&somewhere, "7").expect("changed by another");
    let drifted = verify(&mut nic, &file).expect("verified");
    assert!(
        drifted
            .wrong
            .iter()
            .any(|change| change.setting == somewhere)
    );

    let undone = rollback(&mut nic, &file).expect("undone");
    assert_eq!(undone.wrong, []);
    assert_eq!(nic.facts, before);
    assert!(!file.exists());
    verify(&mut nic, &file).expect_err("nothing was applied");
}

#[test]
fn what_cannot_be_put_back_stays_in_the_ledger() {
    let (mut nic, wishes) = recording(include_str!("recorded/mlx5.json"));
    let folder = tempfile::tempdir().expect("directory");
    let file = folder.path().join("tune.json");
    let before = nic.facts.clone();
    apply(&mut nic, &wishes, &file).expect("applied");
    nic.refuses.insert("ring/rx".to_owned(), "busy".to_owned());
    let left = rollback(&mut nic, &file).expect("tried").wrong;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        (left[0].setting.as_str(), left[0].reason.as_deref()),
        ("ring/rx", Some("busy"))
    );
    nic.refuses.clear();
    assert_eq!(rollback(&mut nic, &file).expect("undone").wrong, []);
    assert_eq!(nic.facts, before);
}

#[test]
fn a_process_that_dies_in_between_can_be_undone() {
    let (mut nic, wishes) = recording(include_str!("recorded/ixgbe.json"));
    let folder = tempfile::tempdir().expect("directory");
    let file = folder.path().join("tune.json");
    let before = nic.facts.clone();
    // As far as the ledger and the first change.
    let planned = plan(&before, &wishes);
    let mut ledger = Ledger::new(&before);
    ledger.note(&before, &planned.steps.iter().collect::<Vec<_>>());
    ledger.write(&file).expect("written");
    nic.write(&planned.steps[0].setting, &planned.steps[0].to)
        .expect("changed");
    assert_eq!(rollback(&mut nic, &file).expect("undone").wrong, []);
    assert_eq!(nic.facts, before);
}
