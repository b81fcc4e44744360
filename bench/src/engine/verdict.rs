//! The miss ratios in short: how many times what the best crate misses, and what plain LRU misses.

use std::fmt;

use super::miss::OFFLINE;
use super::peers::LRU;
use super::replay::{BYTE_MISSES, OBJECT_MISSES};
use crate::figures::Row;

/// What popcache may miss for each miss of the best peer, and of plain LRU.
const GOAL: f64 = 1.0;
const LRU_GOAL: f64 = 1.02;
/// Ratios are told apart so far.
const STEP: f64 = 0.0005;

/// One case and metric.
#[derive(Debug, PartialEq)]
struct Line {
    case: String,
    metric: String,
    own: f64,
    best: f64,
    /// Who that is, of all but the one that knows the future.
    name: String,
    lru: f64,
    offline: f64,
}

/// All cases, shown as a table with the worst at its end.
pub struct Verdict(Vec<Line>);

/// Of the rows that are miss ratios.
pub fn of(rows: &[Row]) -> Verdict {
    let is_misses = |row: &&Row| [OBJECT_MISSES.name, BYTE_MISSES.name].contains(&&*row.metric);
    Verdict(rows.iter().filter(is_misses).filter_map(line).collect())
}

fn line(row: &Row) -> Option<Line> {
    let peers = row.peers.iter().filter(|(name, _)| *name != OFFLINE);
    let (name, best) = peers.min_by(|a, b| a.1.total_cmp(b.1))?;
    Some(Line {
        case: row.case.clone(),
        metric: row.metric.clone(),
        own: row.popcache?,
        best: *best,
        name: name.clone(),
        lru: *row.peers.get(LRU)?,
        offline: *row.peers.get(OFFLINE)?,
    })
}

impl Line {
    fn to_best(&self) -> f64 {
        self.own / self.best
    }

    fn to_lru(&self) -> f64 {
        self.own / self.lru
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(
                f,
                "{:<36} {:<13} {:.4}  best {:.4} {:<12} {:.3} x  lru {:.4} {:.3} x  offline {:.4}",
                line.case,
                line.metric,
                line.own,
                line.best,
                line.name,
                line.to_best(),
                line.lru,
                line.to_lru(),
                line.offline,
            )?;
        }
        for metric in [OBJECT_MISSES.name, BYTE_MISSES.name] {
            let of_metric = |line: &&Line| line.metric == metric;
            let lines: Vec<&Line> = self.0.iter().filter(of_metric).collect();
            sum_up(f, metric, "the best crate", GOAL, &lines, Line::to_best)?;
            sum_up(f, metric, "plain LRU", LRU_GOAL, &lines, Line::to_lru)?;
        }
        Ok(())
    }
}

fn sum_up(
    f: &mut fmt::Formatter<'_>,
    metric: &str,
    whom: &str,
    goal: f64,
    lines: &[&Line],
    ratio: fn(&Line) -> f64,
) -> fmt::Result {
    let worst = lines.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let Some(worst) = worst else { return Ok(()) };
    let met = lines.iter().filter(|line| ratio(line) < goal + STEP);
    let sum: f64 = lines.iter().map(|line| ratio(line)).sum();
    writeln!(
        f,
        "{metric} of {whom}: mean {:.3} x, worst {:.3} x ({}); {} of {} are {goal:.2} x or less",
        sum / lines.len() as f64,
        ratio(worst),
        worst.case,
        met.count(),
        lines.len(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn row(case: &str, own: f64, peers: &[(&str, f64)]) -> Row {
        let peers = peers.iter().map(|(name, value)| ((*name).into(), *value));
        Row {
            case: case.into(),
            metric: OBJECT_MISSES.name.into(),
            unit: "ratio".into(),
            popcache: Some(own),
            peers: peers.collect(),
            ratio: BTreeMap::new(),
            runs: 1,
            spread: 0.0,
            error: None,
        }
    }

    #[test]
    fn the_best_is_not_the_one_that_knows_the_future() {
        let rows = [
            row("a", 0.5, &[(LRU, 0.5), ("moka", 0.4), (OFFLINE, 0.1)]),
            row("b", 0.3, &[(LRU, 0.5), ("moka", 0.6), (OFFLINE, 0.1)]),
            Row::failure("c", "no room".into()),
        ];
        let shown = of(&rows).to_string();
        let worst = "object_misses of the best crate: mean 0.925 x, worst 1.250 x (a); 1 of 2";
        assert!(shown.contains(worst), "{shown}");
        assert!(shown.contains("plain LRU: mean 0.800 x, worst 1.000 x (a); 2 of 2"));
        assert_eq!(of(&rows).0.len(), 2);
    }
}
