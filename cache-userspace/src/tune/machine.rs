//! The machine itself: netlink, ioctl and files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::ethtool::{Ethtool, reason};
use super::facts::{Facts, parse_cpus, queue_of};
use super::plan::hugepages_file;
use super::{Nic, hashing, irqbalance};

/// A NIC of this machine, in the namespace of this process.
pub struct Machine {
    interface: String,
    ethtool: Ethtool,
}

impl Machine {
    /// # Errors
    /// There is no such interface, or no netlink.
    pub fn open(interface: &str) -> anyhow::Result<Self> {
        let is_name = !interface.is_empty() && !interface.contains(['/', '.']);
        ensure!(
            is_name && nic(interface, "ifindex").is_ok(),
            "there is no interface {interface:?} (see `ip link`)"
        );
        Ok(Self {
            interface: interface.to_owned(),
            ethtool: Ethtool::open().context("cannot speak netlink")?,
        })
    }
}

impl Nic for Machine {
    fn facts(&mut self) -> anyhow::Result<Facts> {
        let interface = self.interface.as_str();
        let mtu =
            nic(interface, "mtu").with_context(|| format!("interface {interface} is gone"))?;
        let found = self.ethtool.read(interface);
        let nodes = nodes();
        let numa_node = nic(interface, "device/numa_node");
        let mut facts = Facts {
            interface: interface.to_owned(),
            driver: driver(interface),
            mtu: mtu.parse().unwrap_or(0),
            numa_node: numa_node.ok().and_then(|node| node.parse().ok()),
            nodes,
            kernel_arguments: text(Path::new("/proc/cmdline")).unwrap_or_default(),
            most: found.most,
            interrupts: interrupts(interface),
            fixed: found.fixed,
            settings: found.settings,
            missing: found.missing,
        };
        for setting in ["flow-hash/udp4", "flow-hash/udp6", "rss/table"] {
            if let Some(value) = hashing::read(interface, setting) {
                note(&mut facts, setting, value);
            }
        }
        if let Some(banned) = irqbalance::banned() {
            note(&mut facts, "irqbalance/banned", banned);
        }
        for file in files(&facts) {
            note(&mut facts, &file, text(Path::new(&file)));
        }
        Ok(facts)
    }

    fn write(&mut self, setting: &str, value: &str) -> Result<(), String> {
        if setting.starts_with('/') {
            return fs::write(setting, value).map_err(|error| reason(&error));
        }
        if setting == "irqbalance/banned" {
            return irqbalance::ban(value).map_err(|error| error.to_string());
        }
        if let Some(written) = hashing::write(&self.interface, setting, value) {
            return written.map_err(|error| reason(&error));
        }
        let written = self.ethtool.write(&self.interface, setting, value);
        written.unwrap_or_else(|| Err("there is no such setting".to_owned()))
    }
}

fn note(facts: &mut Facts, setting: &str, value: io::Result<String>) {
    match value {
        Ok(value) => drop(facts.settings.insert(setting.to_owned(), value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            drop(facts.missing.insert(
                setting.to_owned(),
                "this machine has no such file".to_owned(),
            ));
        }
        Err(error) => drop(facts.missing.insert(setting.to_owned(), reason(&error))),
    }
}

/// Those that a plan may want: of the NIC, its queues and interrupts, the CPUs and the hugepages.
fn files(facts: &Facts) -> Vec<String> {
    let class = format!("/sys/class/net/{}", facts.interface);
    let of_nic = ["napi_defer_hard_irqs", "gro_flush_timeout", "threaded"];
    let mut files: Vec<String> = of_nic
        .iter()
        .map(|name| format!("{class}/{name}"))
        .collect();
    let queues = fs::read_dir(format!("{class}/queues"))
        .into_iter()
        .flatten()
        .flatten();
    for queue in queues {
        let name = queue.file_name().to_string_lossy().into_owned();
        let file = if name.starts_with("tx-") {
            "xps_cpus"
        } else {
            "rps_cpus"
        };
        files.push(format!("{class}/queues/{name}/{file}"));
    }
    let affinity = |irq: &u32| format!("/proc/irq/{irq}/smp_affinity_list");
    files.extend(facts.interrupts.keys().map(affinity));
    let cpus = facts.nodes.values().flatten();
    files.extend(
        cpus.map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")),
    );
    files.push(hugepages_file(facts.numa_node, facts.nodes.len()));
    files
}

fn driver(interface: &str) -> String {
    let link = fs::read_link(format!("/sys/class/net/{interface}/device/driver"));
    let name = link
        .ok()
        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    // Virtual devices say their kind elsewhere.
    name.or_else(|| kind(interface))
        .unwrap_or_else(|| "unknown driver".to_owned())
}

/// By what only a kind of device has.
fn kind(interface: &str) -> Option<String> {
    let text = nic(interface, "uevent").ok()?;
    let kind = text.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    match kind {
        Some(kind) => Some(kind.to_owned()),
        // A veth names its peer, which may be in another namespace, and nothing else.
        None => {
            let [index, peer] = ["ifindex", "iflink"].map(|name| nic(interface, name).ok());
            (index != peer).then(|| "veth".to_owned())
        }
    }
}

fn nic(interface: &str, name: &str) -> io::Result<String> {
    text(&Path::new("/sys/class/net").join(interface).join(name))
}

fn text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

fn nodes() -> BTreeMap<u32, Vec<usize>> {
    let folder = fs::read_dir("/sys/devices/system/node")
        .into_iter()
        .flatten()
        .flatten();
    let mut nodes = BTreeMap::new();
    for entry in folder {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_prefix("node")
            .and_then(|number| number.parse().ok());
        if let (Some(number), Ok(cpus)) = (number, text(&entry.path().join("cpulist"))) {
            nodes.insert(number, parse_cpus(&cpus));
        }
    }
    if nodes.is_empty() {
        let online = text(Path::new("/sys/devices/system/cpu/online")).unwrap_or_default();
        nodes.insert(0, parse_cpus(&online));
    }
    nodes
}

/// The interrupts of the NIC's queues, by the names in /proc/interrupts.
fn interrupts(interface: &str) -> BTreeMap<u32, usize> {
    let device = Path::new("/sys/class/net").join(interface).join("device");
    // A virtio NIC's interrupts are those of the PCI device above it.
    let folders = [device.join("msi_irqs"), device.join("../msi_irqs")];
    let own = folders.iter().flat_map(fs::read_dir).flatten().flatten();
    let own: Vec<u32> = own
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    let table = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let of_queue = |line: &str| {
        let (irq, rest) = line.trim().split_once(':')?;
        let irq = irq.parse().ok().filter(|irq| own.contains(irq))?;
        Some((irq, queue_of(rest.split_whitespace().last()?)?))
    };
    table.lines().filter_map(of_queue).collect()
}
