//! What a node wants of a machine, and why: facts in, plan out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::facts::{Facts, mask_like, show_cpus};

/// What the plan is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// Shard i runs on `cpus[i]` and has queue i.
    pub cpus: Vec<usize>,
    /// 2 MiB pages for the arenas and, with AF_XDP, for packets.
    pub hugepages: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub setting: String,
    pub from: String,
    pub to: String,
    pub why: String,
}

impl Step {
    /// Changes which other settings there are.
    pub fn is_shape(&self) -> bool {
        is_shape(&self.setting)
    }
}

/// Of queues and their rings, rather than of what is in them.
pub fn is_shape(setting: &str) -> bool {
    setting.starts_with("channels/") || setting.starts_with("ring/")
}

/// What cannot be had, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailable {
    pub setting: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub interface: String,
    pub driver: String,
    /// In the order in which they are done.
    pub steps: Vec<Step>,
    /// Settings that are right as they are.
    pub right: usize,
    pub unavailable: Vec<Unavailable>,
    /// What an operator has to do, since it needs a reboot or another configuration.
    pub hints: Vec<String>,
}

/// Descriptors of a queue: 4096 packets ride out 4 ms at a million a second.
const RX_RING: u64 = 4_096;
/// Enough for the answers of one turn of a shard, 64 transmits of up to 44 segments.
const TX_RING: u64 = 4_096;
/// Of the driver's interrupts under load, in microseconds.
const RX_USECS: u64 = 16;
const TX_USECS: u64 = 64;
/// How long the kernel polls a queue by a timer before its interrupt is on again, in nanoseconds: what an only packet may
/// wait at most.
const FLUSH_NANOS: u64 = 20_000;
/// Empty polls by that timer before.
const EMPTY_POLLS: u64 = 2;

/// Addresses and ports of both sides.
const HASH: &str = "sdfn";

/// Drivers whose hardware moves TCP flows between queues by itself unless rules may be set.
const RESTEER: [&str; 2] = ["ixgbe", "i40e"];

/// Plans. The same facts and wishes give the same plan.
pub fn plan(facts: &Facts, wishes: &Wishes) -> Plan {
    let mut planner = Planner {
        facts,
        wishes,
        plan: Plan {
            interface: facts.interface.clone(),
            driver: facts.driver.clone(),
            ..Plan::default()
        },
    };
    planner.queues();
    planner.rings();
    planner.features();
    planner.spreading();
    planner.interrupts();
    planner.polling();
    planner.placement();
    planner.machine();
    planner.hints();
    planner.plan
}

struct Planner<'a> {
    facts: &'a Facts,
    wishes: &'a Wishes,
    plan: Plan,
}

impl Planner<'_> {
    fn want(&mut self, setting: &str, to: impl ToString, why: &str) {
        let to = to.to_string();
        let Some(from) = self.facts.get(setting) else {
            let reason = self.facts.why_missing(setting);
            return self.cannot(setting, reason);
        };
        if from == to {
            self.plan.right += 1;
            return;
        }
        if self.facts.fixed.contains(setting) {
            let reason = format!("{} keeps it {from}", self.facts.driver);
            return self.cannot(setting, reason);
        }
        self.plan.steps.push(Step {
            setting: setting.to_owned(),
            from: from.to_owned(),
            to,
            why: why.to_owned(),
        });
    }

    fn cannot(&mut self, setting: &str, reason: String) {
        self.plan.unavailable.push(Unavailable {
            setting: setting.to_owned(),
            reason,
        });
    }

    /// A number that is raised, as far as the driver goes.
    fn want_at_least(&mut self, setting: &str, wanted: u64, why: &str) {
        let most = self.facts.most.get(setting).copied().unwrap_or(wanted);
        let now = self.facts.get(setting).and_then(|now| now.parse().ok());
        let to = wanted.min(most).max(now.unwrap_or(0));
        self.want(setting, to, why);
    }

    fn shards(&self) -> usize {
        self.wishes.cpus.len()
    }

    fn queues(&mut self) {
        let wanted = self.shards() as u64;
        let why = "one queue a shard: packets arrive on the core that owns their connection";
        let combined = self
            .facts
            .most
            .get("channels/combined")
            .copied()
            .unwrap_or(0);
        let settings: &[&str] = match combined {
            0 if self.facts.most.contains_key("channels/rx") => &["channels/rx", "channels/tx"],
            _ => &["channels/combined"],
        };
        for setting in settings {
            let most = self.facts.most.get(*setting).copied().unwrap_or(wanted);
            if most < wanted {
                let reason = format!(
                    "{} has {most} queues for {wanted} shards: the others get their packets handed over",
                    self.facts.driver
                );
                self.cannot(setting, reason);
            }
            self.want(setting, wanted.min(most), why);
        }
    }

    fn rings(&mut self) {
        self.want_at_least(
            "ring/rx",
            RX_RING,
            "bursts wait here while the shard is busy",
        );
        self.want_at_least(
            "ring/tx",
            TX_RING,
            "the answers of one turn fit without waiting",
        );
    }

    fn features(&mut self) {
        self.want(
            "feature/rx-lro",
            "off",
            "merged packets are not what clients sent, and XDP refuses them",
        );
        self.want("feature/rx-gro-hw", "off", "the same, done by the hardware");
        self.want("feature/rx-gro", "on", "datagrams of one connection reach the socket in one call, and XDP has its NAPI on a veth");
        self.want("feature/rx-hashing", "on", "the kernel need not hash again");
        self.want(
            "feature/tx-udp-segmentation",
            "on",
            "the hardware cuts a batch of datagrams; the kernel does it otherwise",
        );
        if RESTEER.contains(&self.facts.driver.as_str()) {
            self.want(
                "feature/rx-ntuple-filter",
                "on",
                "the hardware stops moving TCP connections between queues by itself",
            );
        }
    }

    fn spreading(&mut self) {
        for setting in ["flow-hash/udp4", "flow-hash/udp6"] {
            self.want(
                setting,
                HASH,
                "clients behind one address spread over the cores by their ports",
            );
        }
        let queues = self.shards().min(self.facts.queues()).max(1);
        self.want(
            "rss/table",
            format!("equal {queues}"),
            "every queue gets the same share of the flows",
        );
    }

    fn interrupts(&mut self) {
        self.want(
            "coalesce/adaptive-rx",
            "off",
            "the delay is what is set here, whatever the traffic was",
        );
        self.want("coalesce/adaptive-tx", "off", "the same for what was sent");
        self.want(
            "coalesce/rx-usecs",
            RX_USECS,
            "at most 62,500 interrupts a second a queue, and no packet waits longer",
        );
        self.want(
            "coalesce/tx-usecs",
            TX_USECS,
            "freeing what was sent is in no hurry",
        );
        let served = self.facts.interrupts.iter();
        let served: Vec<(u32, usize)> = served.map(|(irq, queue)| (*irq, *queue)).collect();
        let mut ours = BTreeSet::new();
        for (irq, queue) in served {
            if let Some(cpu) = self.wishes.cpus.get(queue) {
                ours.insert(irq);
                let file = format!("/proc/irq/{irq}/smp_affinity_list");
                self.want(
                    &file,
                    cpu,
                    "the shard's core takes the interrupts of its queue",
                );
            }
        }
        self.irqbalance(ours);
    }

    /// Only where it runs.
    fn irqbalance(&mut self, mut ours: BTreeSet<u32>) {
        const SETTING: &str = "irqbalance/banned";
        let Some(banned) = self.facts.get(SETTING) else {
            return;
        };
        if !ours.is_empty() {
            ours.extend(
                banned
                    .split_whitespace()
                    .filter_map(|irq| irq.parse::<u32>().ok()),
            );
            let all: Vec<String> = ours.iter().map(u32::to_string).collect();
            self.want(SETTING, all.join(" "), "it would move them again");
        }
    }

    fn polling(&mut self) {
        let file = |name: &str| format!("/sys/class/net/{}/{name}", self.facts.interface);
        let [defer, flush, threaded] =
            ["napi_defer_hard_irqs", "gro_flush_timeout", "threaded"].map(file);
        self.want(
            &defer,
            EMPTY_POLLS,
            "under load a queue is polled, not interrupted",
        );
        self.want(
            &flush,
            FLUSH_NANOS,
            "how often it is then polled: 20 us is the most that it costs a lone packet",
        );
        self.want(&threaded, 1, "a flood is the work of threads that the scheduler weighs against the shards, not of interrupts that stop them");
    }

    fn placement(&mut self) {
        let facts = self.facts;
        let queues = facts.queues().min(self.shards());
        for (queue, cpu) in self
            .wishes
            .cpus
            .clone()
            .into_iter()
            .enumerate()
            .take(queues)
        {
            let file = |kind: &str| format!("/sys/class/net/{}/queues/{kind}", facts.interface);
            let (xps, rps) = (
                file(&format!("tx-{queue}/xps_cpus")),
                file(&format!("rx-{queue}/rps_cpus")),
            );
            let now = facts.get(&xps).unwrap_or_default();
            self.want(
                &xps,
                mask_like(now, &[cpu]),
                "the shard sends on its own queue, without a lock that others take",
            );
            let now = facts.get(&rps).unwrap_or_default();
            self.want(
                &rps,
                mask_like(now, &[]),
                "packets stay on the core that they arrive on",
            );
        }
    }

    fn machine(&mut self) {
        for cpu in self.wishes.cpus.clone() {
            let file = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
            self.want(
                &file,
                "performance",
                "the core need not speed up first when a burst comes",
            );
        }
        if self.wishes.hugepages > 0 {
            let file = hugepages_file(self.facts.numa_node, self.facts.nodes.len());
            self.want_at_least(
                &file,
                self.wishes.hugepages,
                "arenas and packet buffers in 2 MiB pages: random reads cost half",
            );
        }
    }

    fn hints(&mut self) {
        let cpus = show_cpus(&self.wishes.cpus);
        let has = |name: &str| {
            let mut words = self.facts.kernel_arguments.split_whitespace();
            words.any(|word| word.starts_with(name))
        };
        let others = self.facts.nodes.values().flatten();
        let leaves_one = others
            .into_iter()
            .any(|cpu| !self.wishes.cpus.contains(cpu));
        let mut hints = Vec::new();
        if leaves_one && !(has("isolcpus=") && has("nohz_full=")) {
            hints.push(format!(
                "keep other work and the timer tick off the shards' CPUs: kernel arguments isolcpus=managed_irq,domain,{cpus} \
                 nohz_full={cpus} rcu_nocbs={cpus}"
            ));
        }
        if !leaves_one {
            hints.push(
                "every CPU has a shard: one left to the kernel, the control thread and other programs makes the slowest answers \
                 faster (server.cores)".to_owned(),
            );
        }
        if self.wishes.hugepages > 0 && !has("hugepages=") {
            hints.push(format!(
                "hugepages are surest to be had at boot: kernel arguments hugepagesz=2M hugepages={} (or vm.nr_hugepages in \
                 /etc/sysctl.d/60-popcache.conf)",
                self.wishes.hugepages
            ));
        }
        if let Some(node) = self.facts.numa_node
            && self.facts.nodes.len() > 1
            && let Some(near) = self.facts.nodes.get(&node)
            && self.wishes.cpus.iter().any(|cpu| !near.contains(cpu))
        {
            hints.push(format!(
                "{} is on NUMA node {node}: shards on its CPUs {} spare every packet the way to another node (server.cores)",
                self.facts.interface,
                show_cpus(near)
            ));
        }
        if self.facts.mtu > MOST_MTU {
            hints.push(format!(
                "MTU {}: above {MOST_MTU} most drivers have no native XDP (`ip link set dev {} mtu 1500`)",
                self.facts.mtu, self.facts.interface
            ));
        }
        self.plan.hints = hints;
    }
}

/// What fits into a page with the headroom of XDP.
const MOST_MTU: u32 = 3_498;

/// The pool of the NIC's node on a machine with several.
pub fn hugepages_file(node: Option<u32>, nodes: usize) -> String {
    match node {
        Some(node) if nodes > 1 => {
            format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages")
        }
        _ => "/proc/sys/vm/nr_hugepages".to_owned(),
    }
}
