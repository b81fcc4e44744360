//! The guard's documents as pages for people.

use std::fmt::Write as _;

use crate::config::explain::rounded;
use crate::config::units::show_duration;
use crate::guard::order::{FeedLine, Report};
use crate::guard::settings::Rate;
use crate::guard::{EventLine, Line, TopLine};
use crate::status::write_table;

/// Prefixes of the configuration and of the running node that are shown one by one.
const MAX_SHOWN: usize = 100;

pub fn report(report: &Report) -> String {
    let mut out = String::new();
    rules(&mut out, report);
    limits(&mut out, report);
    lists(&mut out, report);
    out
}

fn rules(out: &mut String, report: &Report) {
    let mut rows = vec![row(["rule", "mode", "dropped", "monitored"])];
    for rule in &report.rules {
        let mode = match &rule.configured {
            Some(configured) => format!("{} (configured: {configured})", rule.mode),
            None => rule.mode.clone(),
        };
        let (dropped, monitored) = (rule.dropped.to_string(), rule.monitored.to_string());
        rows.push(row([&rule.rule, &mode, &dropped, &monitored]));
    }
    write_table(out, &rows);
}

fn limits(out: &mut String, report: &Report) {
    let limits = report.limits;
    let show = |rate: Rate, number: fn(u64) -> String| match rate.burst {
        0 => "not counted".to_owned(),
        burst => format!("{} a second, {} at once", number(rate.rate), number(burst)),
    };
    let plain = |number: u64| number.to_string();
    let _ = writeln!(out, "\none source (IPv4 address, IPv6 /64) may send");
    for (name, shown) in [
        ("packets", show(limits.packets, plain)),
        ("bytes", show(limits.bytes, rounded)),
        ("handshakes", show(limits.handshakes, plain)),
        ("syns", show(limits.syns, plain)),
    ] {
        let changed = report.limits_changed.iter();
        let mark = match changed
            .map(|limit| format!("{limit:?}"))
            .any(|changed| changed.eq_ignore_ascii_case(name))
        {
            true => " (changed while running)",
            false => "",
        };
        let _ = writeln!(out, "  {name:<11} {shown}{mark}");
    }
}

fn lists(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "\n{} prefixes allowed, {} blocked; {} of {} places for single addresses in use",
        report.allowed, report.blocked, report.exact_used, report.exact_places
    );
    for FeedLine {
        path,
        list,
        prefixes,
        error,
        ..
    } in &report.feeds
    {
        let _ = match error {
            None => writeln!(out, "  {:<6} {prefixes} prefixes of {path}", list.name()),
            Some(error) => writeln!(out, "  {:<6} nothing: {error}", list.name()),
        };
    }
    let both = [(&report.configured, "configured"), (&report.entries, "")];
    for (lines, from) in both {
        for line in lines.iter().take(MAX_SHOWN) {
            entry(out, line, from);
        }
        if let Some(more) = lines.len().checked_sub(MAX_SHOWN + 1) {
            let _ = writeln!(out, "  and {} more: --json shows all", more + 1);
        }
    }
}

fn entry(out: &mut String, line: &Line, from: &str) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let end = match line.until {
        Some(until) => {
            let left = std::time::Duration::from_secs(until.saturating_sub(now.as_secs()));
            format!("for {} more", show_duration(left))
        }
        None => from.to_owned(),
    };
    let text = format!(
        "  {:<6} {:<24} {end}  {}",
        line.list.name(),
        line.prefix,
        line.note
    );
    let _ = writeln!(out, "{}", text.trim_end());
}

pub fn top(top: &[TopLine]) -> String {
    let mut rows = vec![row(["source", "rule", "", "events", "packets, about"])];
    for line in top {
        let (events, packets) = (line.events.to_string(), line.packets.to_string());
        rows.push(row([
            &line.source,
            &line.rule,
            done(line.dropped),
            &events,
            &packets,
        ]));
    }
    let mut out = String::new();
    write_table(&mut out, &rows);
    out
}

pub fn events(events: &[EventLine]) -> String {
    let mut out = String::new();
    for event in events {
        let _ = writeln!(
            out,
            "{} {:<9} {:<15} {} port {} to {}, {} bytes: {}",
            event.unix,
            done(event.dropped),
            event.rule,
            event.source,
            event.source_port,
            event.destination_port,
            event.length,
            event.first
        );
    }
    out
}

/// One object a line.
pub fn json_lines(events: &[EventLine]) -> String {
    let lines = events.iter().map(serde_json::to_string);
    lines.flatten().map(|line| line + "\n").collect()
}

fn done(dropped: bool) -> &'static str {
    if dropped { "dropped" } else { "monitored" }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}
