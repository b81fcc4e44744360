//! Which packet comes next: kinds by weight, and the templates of a kind in turn.

use anyhow::{Context, Result, bail, ensure};

use super::frame::Template;
use super::payload::Kind;

/// The largest weight of a kind.
const MAX_WEIGHT: u32 = 1_000_000;

/// Kinds with their weights, as `initial=1,short=8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(pub Vec<(Kind, u32)>);

impl Mix {
    /// # Errors
    /// A kind that is unknown or named twice, or a weight that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut mix: Vec<(Kind, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let names = Kind::ALL.map(Kind::name);
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
                bail!(
                    "`{name}` is not a kind of packet: there are {}",
                    names.join(", ")
                );
            };
            ensure!(
                mix.iter().all(|(other, _)| *other != kind),
                "`{name}` is in the mix twice"
            );
            let weight = weight
                .parse()
                .ok()
                .filter(|weight| (1..=MAX_WEIGHT).contains(weight))
                .with_context(|| format!("`{part}`: a weight is a number of 1 to {MAX_WEIGHT}"))?;
            mix.push((kind, weight));
        }
        Ok(Self(mix))
    }
}

/// Templates to send, in the shares of their mix.
pub struct Traffic {
    groups: Vec<Group>,
}

struct Group {
    name: &'static str,
    weight: u64,
    templates: Vec<Template>,
    next: usize,
    sent: u64,
}

/// A template that was chosen, to be told how often it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    group: usize,
    template: usize,
}

impl Traffic {
    /// # Panics
    /// Without any template.
    pub fn new(groups: impl IntoIterator<Item = (&'static str, u32, Vec<Template>)>) -> Self {
        let group = |(name, weight, templates): (_, u32, Vec<Template>)| {
            assert!(!templates.is_empty(), "{name} has no template");
            Group {
                name,
                weight: u64::from(weight),
                templates,
                next: 0,
                sent: 0,
            }
        };
        let groups: Vec<Group> = groups.into_iter().map(group).collect();
        assert!(!groups.is_empty(), "no traffic");
        Self { groups }
    }

    /// The template whose turn it is: of the kind that is furthest behind its share.
    pub fn choose(&self) -> Chosen {
        let behind = |group: &Group| group.sent as f64 / group.weight as f64;
        let groups = self.groups.iter().enumerate();
        let least = groups.min_by(|(_, a), (_, b)| behind(a).total_cmp(&behind(b)));
        let (group, of) = least.expect("there are groups");
        Chosen {
            group,
            template: of.next,
        }
    }

    pub fn template(&self, chosen: Chosen) -> &Template {
        &self.groups[chosen.group].templates[chosen.template]
    }

    /// Counts `packets` of it, and turns to the next of its kind.
    pub fn sent(&mut self, chosen: Chosen, packets: u64) {
        let group = &mut self.groups[chosen.group];
        group.sent += packets;
        group.next = (group.next + 1) % group.templates.len();
    }

    /// Packets by kind.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.groups.iter().map(|group| (group.name, group.sent))
    }

    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.groups.iter().flat_map(|group| &group.templates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read() {
        let mix = Mix::parse("initial=3,short").expect("valid");
        assert_eq!(mix.0, [(Kind::Initial, 3), (Kind::Short, 1)]);
        for bad in ["", "nothing", "short=0", "short=x", "short,short=2"] {
            Mix::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn shares_hold_whatever_the_bursts() {
        let template = |byte| Template::fixed(vec![byte], 0);
        let mut traffic = Traffic::new([
            ("a", 1, vec![template(1), template(2)]),
            ("b", 3, vec![template(3)]),
        ]);
        let mut order = Vec::new();
        for burst in [1, 64, 7, 300, 1].into_iter().cycle().take(4000) {
            let chosen = traffic.choose();
            order.push(traffic.template(chosen).frame[0]);
            traffic.sent(chosen, burst);
        }
        let counts: Vec<_> = traffic.counts().collect();
        let (a, b) = (counts[0].1 as f64, counts[1].1 as f64);
        assert!((b / a - 3.0).abs() < 0.05, "{counts:?}");
        let of_a: Vec<_> = order.into_iter().filter(|byte| *byte < 3).collect();
        assert_eq!(of_a[..4], [1, 2, 1, 2]);
    }
}
