//! Plans and reports for people.

use std::fmt::Write as _;

use super::facts::show_cpus;
use super::ledger::Report;
use super::plan::{Plan, Wishes};

/// Longest value shown; the table of RSS has hundreds of entries.
const LONGEST: usize = 24;

impl Plan {
    /// What would be changed, why, and what cannot be.
    pub fn page(&self, wishes: &Wishes) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} ({}), for shards on CPU {}: {} changes, {} settings are right",
            self.interface,
            self.driver,
            show_cpus(&wishes.cpus),
            self.steps.len(),
            self.right
        );
        for step in &self.steps {
            let change = format!("{} -> {}", short(&step.from), short(&step.to));
            let _ = writeln!(out, "  {:<44} {change:<20} {}", step.setting, step.why);
        }
        if !self.unavailable.is_empty() {
            out.push_str("cannot be had:\n");
        }
        for one in &self.unavailable {
            let _ = writeln!(out, "  {:<44} {}", one.setting, one.reason);
        }
        if !self.hints.is_empty() {
            out.push_str("for you to do:\n");
        }
        for hint in &self.hints {
            let _ = writeln!(out, "  {hint}");
        }
        out
    }
}

impl Report {
    /// What is not as it should be.
    pub fn page(&self) -> String {
        let mut out = format!(
            "{}: {} settings are as they should be, {} are not\n",
            self.interface,
            self.right,
            self.wrong.len()
        );
        for change in &self.wrong {
            let is = change.is.as_deref().unwrap_or("absent");
            let reason = change
                .reason
                .as_deref()
                .unwrap_or("changed by another, or not taken");
            let values = format!("{}, not {}", short(is), short(&change.wanted));
            let _ = writeln!(out, "  {:<44} {values:<20} {reason}", change.setting);
        }
        out
    }
}

fn short(value: &str) -> String {
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}
