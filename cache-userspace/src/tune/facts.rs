//! What a machine says of itself, as planning wants it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How everything is. Read from a machine, or from a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub interface: String,
    pub driver: String,
    pub mtu: u32,
    /// Where the NIC is plugged in, on a machine with several nodes.
    pub numa_node: Option<u32>,
    /// CPUs of each NUMA node.
    pub nodes: BTreeMap<u32, Vec<usize>>,
    /// `/proc/cmdline`.
    pub kernel_arguments: String,
    /// The most that a setting may be.
    pub most: BTreeMap<String, u64>,
    /// Which queue an interrupt belongs to.
    pub interrupts: BTreeMap<u32, usize>,
    /// Features that the driver does not let anyone change.
    pub fixed: BTreeSet<String>,
    pub settings: BTreeMap<String, String>,
    /// Settings, or groups of them such as `coalesce`, that cannot be read, and why.
    pub missing: BTreeMap<String, String>,
}

impl Facts {
    pub fn get(&self, setting: &str) -> Option<&str> {
        self.settings.get(setting).map(String::as_str)
    }

    /// Why a setting is not there.
    pub fn why_missing(&self, setting: &str) -> String {
        let group = setting.split('/').next().unwrap_or_default();
        let reason = self
            .missing
            .get(setting)
            .or_else(|| self.missing.get(group));
        match reason {
            Some(reason) => reason.clone(),
            None if setting.starts_with('/') => "there is no such file".to_owned(),
            None => format!("{} has no such setting", self.driver),
        }
    }

    /// Queues that packets may arrive on now.
    pub fn queues(&self) -> usize {
        let count = |name: &str| self.get(name).and_then(|n| n.parse().ok()).unwrap_or(0);
        let queues = count("channels/combined") + count("channels/rx");
        queues.max(1)
    }
}

/// The queue that an interrupt serves, by the names that drivers give: `eth0-TxRx-3`, `ice-eth0-TxRx-3`,
/// `mlx5_comp3@pci:0000:3b:00.0`, `virtio2-input.3`.
pub fn queue_of(name: &str) -> Option<usize> {
    let name = name.split('@').next().unwrap_or_default();
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (kind, number) = name.split_at(name.len() - digits);
    let kind = kind.to_ascii_lowercase();
    let serves_a_queue = [
        "txrx-", "-rx-", "-tx-", "comp", "input.", "output.", "-rx", "-tx", "queue",
    ];
    match serves_a_queue.iter().any(|end| kind.ends_with(end)) {
        true => number.parse().ok(),
        false => None,
    }
}

/// `cpus` as a mask in the form of `like`, which the kernel printed: groups of eight digits, as many as it has.
pub fn mask_like(like: &str, cpus: &[usize]) -> String {
    let digits = like.chars().filter(char::is_ascii_hexdigit).count().max(1);
    let mut nibbles = vec![0u8; digits];
    for cpu in cpus {
        if let Some(nibble) = nibbles.get_mut(cpu / 4) {
            *nibble |= 1 << (cpu % 4);
        }
    }
    let mut mask = String::new();
    for (place, nibble) in nibbles.iter().enumerate().rev() {
        mask.push(char::from_digit(u32::from(*nibble), 16).unwrap_or('0'));
        if place > 0 && place % 8 == 0 {
            mask.push(',');
        }
    }
    mask
}

/// A list of CPUs as the kernel writes it, `0-3,8`, taken apart.
pub fn parse_cpus(list: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend(first..=last.min(first + 8_192));
        }
    }
    cpus
}

/// The same put together.
pub fn show_cpus(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for cpu in sorted {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let show = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_of_queues_are_known_by_their_names() {
        for (name, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("i40e-ens1f0-TxRx-12", Some(12)),
            ("ice-ens1-TxRx-0", Some(0)),
            ("mlx5_comp7@pci:0000:3b:00.0", Some(7)),
            ("virtio2-input.1", Some(1)),
            ("virtio2-output.1", Some(1)),
            ("eth0", None),
            ("mlx5_async0@pci:0000:3b:00.0", None),
            ("virtio2-config", None),
            ("i40e-0000:18:00.0:misc", None),
        ] {
            assert_eq!(queue_of(name), queue, "{name}");
        }
    }

    #[test]
    fn masks_have_the_kernels_form() {
        assert_eq!(mask_like("3", &[1]), "2");
        assert_eq!(mask_like("ff", &[0, 7]), "81");
        assert_eq!(mask_like("00000000,00000000", &[33]), "00000002,00000000");
        assert_eq!(mask_like("000,00000000", &[]), "000,00000000");
        assert_eq!(mask_like("0", &[9]), "0");
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_cpus("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpus(""), Vec::<usize>::new());
        assert_eq!(show_cpus(&[5, 0, 1, 2]), "0-2,5");
        assert_eq!(show_cpus(&[]), "");
    }
}
