//! Sampled matches of the rules: the latest of them, and the sources that they came from most.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use cache_ebpf::event::Event;
use serde::{Deserialize, Serialize};

/// Events that are kept; older ones go.
pub const MAX_KEPT: usize = 4_096;

/// Events in one answer at most.
pub const MAX_SHOWN: usize = 1_000;

/// A sampled packet as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// Counts up by one.
    pub number: u64,
    /// Unix time in seconds at which it was read, up to a quarter of a second late.
    pub unix: u64,
    pub rule: String,
    pub dropped: bool,
    pub source: IpAddr,
    /// 0 where the packet is not for a served port.
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes of UDP payload; of TCP, from its header on.
    pub length: u16,
    /// The first bytes of the payload, in hexadecimal.
    pub first: String,
}

/// Who was met most by a rule, of the events that are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopLine {
    /// An IPv4 address, or an IPv6 /64.
    pub source: String,
    pub rule: String,
    pub dropped: bool,
    pub events: u64,
    /// Events times what each stands for: a guess at the packets.
    pub packets: u64,
}

/// The latest events.
#[derive(Default)]
pub struct Events {
    kept: VecDeque<EventLine>,
    /// Events ever read.
    pub total: u64,
}

impl Events {
    /// Keeps an event of a rule that is known.
    pub fn push(&mut self, event: &Event, unix: u64) {
        let Some(rule) = event.rule() else { return };
        if self.kept.len() == MAX_KEPT {
            self.kept.pop_front();
        }
        self.total += 1;
        let shown = event.first.len().min(usize::from(event.length));
        self.kept.push_back(EventLine {
            number: self.total,
            unix,
            rule: rule.name().to_owned(),
            dropped: event.dropped != 0,
            source: event.source(),
            source_port: event.source_port,
            destination_port: event.destination_port,
            length: event.length,
            first: event.first[..shown]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        });
    }

    /// The latest events after number `after`, the oldest first.
    pub fn after(&self, after: u64) -> Vec<EventLine> {
        let newer = self.kept.iter().filter(|line| line.number > after);
        let skipped = newer.clone().count().saturating_sub(MAX_SHOWN);
        newer.skip(skipped).cloned().collect()
    }

    /// The `most` sources with the most events, where one event stands for `sample` packets.
    pub fn top(&self, most: usize, sample: u32) -> Vec<TopLine> {
        let mut counted: HashMap<(IpAddr, &str, bool), u64> = HashMap::new();
        for line in &self.kept {
            *counted
                .entry((network(line.source), &line.rule, line.dropped))
                .or_default() += 1;
        }
        let mut all: Vec<_> = counted.into_iter().collect();
        all.sort_by(|(a, n), (b, m)| m.cmp(n).then(a.cmp(b)));
        let lines = all.into_iter().take(most);
        lines
            .map(|((source, rule, dropped), events)| TopLine {
                source: match source {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("{address}/64"),
                },
                rule: rule.to_owned(),
                dropped,
                events,
                packets: events * u64::from(sample),
            })
            .collect()
    }
}

/// What the meters take for one source.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as it lies in the ring.
    fn event(source: &str, rule: u32, length: u16) -> Event {
        let source: IpAddr = source.parse().expect("an address");
        let (v6, high, low) = match source {
            IpAddr::V4(address) => (0_u16, 0_u64, u64::from(address.to_bits())),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                (1, (bits >> 64) as u64, bits as u64)
            }
        };
        let mut bytes = Vec::new();
        bytes.extend(rule.to_ne_bytes());
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(high.to_ne_bytes());
        bytes.extend(low.to_ne_bytes());
        for short in [v6, 5, 443, length] {
            bytes.extend(short.to_ne_bytes());
        }
        bytes.extend([0xab; 32]);
        Event::from_bytes(&bytes).expect("whole")
    }

    #[test]
    fn the_latest_are_kept() {
        let mut events = Events::default();
        for _ in 0..MAX_KEPT + 10 {
            events.push(&event("192.0.2.1", 0, 3), 7);
        }
        assert_eq!(events.kept.len(), MAX_KEPT);
        let shown = events.after(0);
        assert_eq!(shown.len(), MAX_SHOWN);
        assert_eq!(shown.last().map(|line| line.number), Some(events.total));
        assert_eq!(shown[0].first, "ababab", "no more than there was");
        assert_eq!(events.after(events.total - 2).len(), 2);
        events.push(&event("192.0.2.1", 1_000, 3), 7);
        assert_eq!(events.after(events.total).len(), 0, "an unknown rule");
    }

    #[test]
    fn sources_are_counted_as_the_meters_do() {
        let mut events = Events::default();
        for (source, times) in [
            ("2001:db8::1", 2),
            ("2001:db8::ffff:2", 2),
            ("192.0.2.1", 3),
            ("192.0.2.2", 1),
        ] {
            (0..times).for_each(|_| events.push(&event(source, 9, 3), 0));
        }
        let top = events.top(2, 1024);
        let sources: Vec<_> = top
            .iter()
            .map(|line| (&line.source[..], line.packets))
            .collect();
        assert_eq!(
            sources,
            [("2001:db8::/64", 4 * 1024), ("192.0.2.1", 3 * 1024)]
        );
        assert_eq!(top[0].rule, "cid_mac");
    }
}
