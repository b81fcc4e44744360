//! The numbers that the policy goes by.

use std::time::Duration;

/// Everything the policy is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Nodes that one fetch may be sent to, one after the other, hedges not counted.
    pub max_attempts: u32,
    /// A node takes at most this much of the mean load of its tier, in percent; past it a key goes
    /// to the next node of its order.
    pub load_percent: u32,
    /// Fetches a node may have in flight whatever the mean is.
    pub load_floor: u32,
    pub health: HealthSettings,
    pub outlier: OutlierSettings,
    pub breaker: BreakerSettings,
    pub retries: BudgetSettings,
    pub hedges: HedgeSettings,
}

/// Active checks, of nodes that have something to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSettings {
    pub interval: Duration,
    /// Each wait is longer or shorter by up to this part of the interval, so that a fleet does not
    /// ask in step.
    pub jitter_percent: u32,
    /// Failures in a row after which a node is left out.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is back.
    pub healthy_after: u32,
}

/// Ejection of a node that does worse than its tier.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierSettings {
    /// Failures in a row.
    pub consecutive: u32,
    /// Percentage points that a node's success rate may lie below that of the tier's others.
    pub success_gap: u32,
    /// Requests in the last ten seconds before a success rate is looked at.
    pub min_requests: u32,
    /// The first ejection; each further one is twice as long.
    pub ejection: Duration,
    pub max_ejection: Duration,
    /// Part of a tier that may be ejected at the same time.
    pub max_ejected_percent: u32,
}

/// Refusal of requests to a node that fails, until trials succeed.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub consecutive: u32,
    /// Or this part of the last ten seconds' requests failed,
    pub failure_percent: u32,
    /// and there were this many.
    pub min_requests: u32,
    /// How long it is open for the first time; twice as long whenever a trial fails.
    pub open: Duration,
    pub max_open: Duration,
    /// Requests that are let through at a time to find out, and that must succeed.
    pub trials: u32,
}

/// How many extra requests there may be over ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Of the requests in that time.
    pub percent: u32,
    /// And so many a second in any case.
    pub per_second: u32,
}

/// Second requests for a slow answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeSettings {
    /// Zero for both: none.
    pub budget: BudgetSettings,
    /// Never earlier than this, whatever the node's recent times say.
    pub min_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            load_percent: 125,
            load_floor: 32,
            health: HealthSettings {
                interval: Duration::from_secs(5),
                jitter_percent: 20,
                unhealthy_after: 3,
                healthy_after: 2,
            },
            outlier: OutlierSettings {
                consecutive: 5,
                success_gap: 20,
                min_requests: 50,
                ejection: Duration::from_secs(10),
                max_ejection: Duration::from_secs(300),
                max_ejected_percent: 50,
            },
            breaker: BreakerSettings {
                consecutive: 10,
                failure_percent: 50,
                min_requests: 50,
                open: Duration::from_secs(1),
                max_open: Duration::from_secs(30),
                trials: 3,
            },
            retries: BudgetSettings {
                percent: 20,
                per_second: 10,
            },
            hedges: HedgeSettings {
                budget: BudgetSettings {
                    percent: 5,
                    per_second: 0,
                },
                min_delay: Duration::from_millis(10),
            },
        }
    }
}
