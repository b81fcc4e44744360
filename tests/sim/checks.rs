//! What must hold for every answer and at the end of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use cache_core::config::Limits;
use cache_core::io::Outbox;
use cache_core::shard::{BYTES_PER_TURN, Holdings};

use crate::client::{Answer, Exchange, Outcome};
use crate::origin::{Origin, Version, body};
use crate::plan::{Kind, Plan, Purged, Resource};
use crate::ranges;

/// Ages are whole seconds, and lanes take their time.
const SLACK: Duration = Duration::from_millis(1_100);

/// A purge that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Purge {
    /// When it was made.
    pub made: Duration,
    /// When every shard had seen it; `None`: not yet.
    pub answered: Option<Duration>,
    pub what: Purged,
    pub soft: bool,
}

/// Checks every exchange of a finished run.
pub fn exchanges<'a>(
    plan: &Plan,
    origin: &Origin,
    purges: &[Purge],
    clients: impl Iterator<Item = &'a [Exchange]>,
) -> Result<(), String> {
    let mut private_served: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, list) in clients.enumerate() {
        for exchange in list {
            exchange_holds(plan, origin, purges, exchange, &mut private_served).map_err(|why| {
                format!(
                    "client {index}, request {:?} sent at {:?}: {why}",
                    exchange.plan, exchange.sent_at
                )
            })?;
        }
    }
    Ok(())
}

fn exchange_holds(
    plan: &Plan,
    origin: &Origin,
    purges: &[Purge],
    exchange: &Exchange,
    private_served: &mut BTreeMap<usize, usize>,
) -> Result<(), String> {
    let resource = &plan.resources[exchange.plan.resource];
    match &exchange.outcome {
        None => Err("neither answered nor reset".to_owned()),
        Some(Outcome::Unsent | Outcome::Cancelled) => Ok(()),
        Some(Outcome::ConnectionLost(reason)) => clean_forbids(plan, resource, reason),
        Some(Outcome::Torn(how)) => Err(how.clone()),
        Some(Outcome::Reset(code)) => {
            clean_forbids(plan, resource, &format!("reset with {code:#x}"))
        }
        Some(Outcome::Answered(answer)) => match answer.version {
            Some(version) => {
                let version = (
                    version,
                    origin.versions.get(version).ok_or("no such version")?,
                );
                content_holds(plan, resource, exchange, answer, version)?;
                purge_holds(plan, exchange, version.1, purges)?;
                once_only(resource, version, private_served)
            }
            None => own_answer_holds(plan, resource, exchange, answer),
        },
    }
}

/// In a run without faults only an object that grows past what is kept may be cut off, and one that
/// changes while it is sent.
fn clean_forbids(plan: &Plan, resource: &Resource, what: &str) -> Result<(), String> {
    let changes = resource.edition.is_some();
    let outgrows = changes || !resource.declared && resource.size as u64 > plan.limits.max_object;
    if plan.is_clean() && !outgrows {
        return Err(format!("{what}, though nothing went wrong"));
    }
    Ok(())
}

/// The body is the origin's for this key, whole, and the answer was fresh when it was asked for.
fn content_holds(
    plan: &Plan,
    resource: &Resource,
    exchange: &Exchange,
    answer: &Answer,
    (number, version): (usize, &Version),
) -> Result<(), String> {
    if version.resource != exchange.plan.resource {
        return Err(format!(
            "got version {number} of resource {}",
            version.resource
        ));
    }
    let status = match resource.kind {
        Kind::NotFound { .. } => 404,
        Kind::Broken => 500,
        _ => 200,
    };
    let partial = answer.status == 206 && status == 200 && exchange.plan.range.is_some();
    if answer.status != status && !partial {
        let (own, len) = (&answer.cache_status, answer.body.len());
        return Err(format!(
            "status {} for {status} ({own}, {len} bytes)",
            answer.status
        ));
    }
    let expected = body(version.resource, number, resource.size);
    if exchange.plan.head {
        if !answer.body.is_empty() {
            return Err("a body in the answer to HEAD".to_owned());
        }
    } else if let (true, Some(asked)) = (partial, exchange.plan.range) {
        ranges::parts_hold(asked, answer, &expected)?;
    } else if answer.body != expected {
        return Err(format!(
            "version {number}: {} bytes that are not the {} of the origin",
            answer.body.len(),
            expected.len()
        ));
    }
    let head_at = version
        .head_at
        .ok_or("a version whose head was never sent")?;
    let fresh_until = head_at + lifetime(resource.kind);
    let flight_until = version.ended_at.unwrap_or(Duration::MAX);
    let last = fresh_until.max(flight_until).saturating_add(SLACK);
    if exchange.sent_at > last {
        return Err(format!("version {number} was stale since {last:?}"));
    }
    // Parts of such a one came by several fetches.
    let in_slices = resource.edition.is_some();
    if plan.is_clean() || in_slices || version.whole || exchange.plan.head || partial {
        return Ok(());
    }
    Err(format!(
        "version {number} came broken and was answered as whole"
    ))
}

/// How long after its arrival an answer may be given, stale windows included.
fn lifetime(kind: Kind) -> Duration {
    let seconds = match kind {
        Kind::Cacheable { max_age } | Kind::NotFound { max_age } => max_age,
        Kind::StaleWhileRevalidate { max_age, window } | Kind::StaleIfError { max_age, window } => {
            max_age + window
        }
        Kind::NoStore | Kind::Private | Kind::Silent | Kind::Broken => 0,
    };
    Duration::from_secs(u64::from(seconds))
}

/// What was asked for after a purge was answered must have been fetched after it was made. After a
/// soft one, what has a window for it may be served stale.
fn purge_holds(
    plan: &Plan,
    exchange: &Exchange,
    version: &Version,
    purges: &[Purge],
) -> Result<(), String> {
    let resource = &plan.resources[version.resource];
    // The same version may be fetched again.
    if resource.edition.is_some() {
        return Ok(());
    }
    let broken = purges.iter().find(|purge| {
        purge.what.covers(version.resource, resource)
            && !(purge.soft && resource.has_stale_window())
            && purge.answered.is_some_and(|at| exchange.sent_at > at)
            && version.fetch_started < purge.made
    });
    match broken {
        Some(purge) => Err(format!(
            "fetched at {:?}, and served after {purge:?}",
            version.fetch_started
        )),
        None => Ok(()),
    }
}

/// An answer for one request was given to one.
fn once_only(
    resource: &Resource,
    (number, version): (usize, &Version),
    served: &mut BTreeMap<usize, usize>,
) -> Result<(), String> {
    let for_one = matches!(resource.kind, Kind::NoStore | Kind::Private) || version.authorized;
    if !for_one {
        return Ok(());
    }
    let count = served.entry(number).or_default();
    *count += 1;
    if *count > 1 {
        return Err(format!(
            "private version {number} was given to {count} requests"
        ));
    }
    Ok(())
}

/// Answers of the node itself: only for faults and bounds, and a 503 says when to try again.
fn own_answer_holds(
    plan: &Plan,
    resource: &Resource,
    exchange: &Exchange,
    answer: &Answer,
) -> Result<(), String> {
    let is_unsatisfiable = |asked| ranges::is_unsatisfiable(asked, resource.size);
    match answer.status {
        416 if exchange.plan.range.is_some_and(is_unsatisfiable) => Ok(()),
        502..=504 if plan.is_clean() => clean_forbids(plan, resource, &answer.cache_status),
        502 | 504 => Ok(()),
        503 if answer.retry_after => Ok(()),
        status => Err(format!(
            "status {status} from the node itself ({})",
            answer.cache_status
        )),
    }
}

/// Bounds that hold at any moment.
pub fn bounds(limits: &Limits, shard: usize, holdings: &Holdings) -> Result<(), String> {
    let within = |what: &str, value: u64, limit: u64| match value > limit {
        true => Err(format!("shard {shard}: {value} {what}, bound {limit}")),
        false => Ok(()),
    };
    within(
        "waiters",
        holdings.waiters as u64,
        limits.max_waiters as u64,
    )?;
    within(
        "flights",
        (holdings.flights + holdings.settling) as u64,
        limits.max_flights as u64,
    )?;
    within("passes", holdings.passes as u64, limits.max_passes as u64)?;
    within("heap bytes", holdings.heap_bytes, limits.max_heap_fill)?;
    within("copied out", holdings.copied_out, limits.max_copied_out)
}

/// What one turn sent: the transmit that reaches the bound of bytes is its last.
pub fn turn(out: &Outbox, max_transmits: usize) -> Result<(), String> {
    let sizes = out.transmits.iter().map(|transmit| transmit.data.len());
    let before_the_last: usize = sizes.clone().rev().skip(1).sum();
    if out.transmits.len() > max_transmits || before_the_last >= BYTES_PER_TURN {
        let sent: usize = sizes.sum();
        let count = out.transmits.len();
        return Err(format!("a turn sent {sent} bytes in {count} transmits"));
    }
    Ok(())
}

/// Nothing is held once clients and fetches are gone.
pub fn at_rest(shard: usize, holdings: &Holdings) -> Result<(), String> {
    let rest = holdings.connections
        + holdings.tcp_requests
        + holdings.waiters
        + holdings.local_flights
        + holdings.flights
        + holdings.settling
        + holdings.passes
        + holdings.heap_bytes as usize
        + holdings.copied_out as usize
        + holdings.tier_reads
        + holdings.store.fills as usize;
    let held: u32 = holdings.store.held_up.iter().sum();
    if rest > 0 || held > 0 {
        return Err(format!("shard {shard} still holds {holdings:?}"));
    }
    Ok(())
}
