//! Which node a fetch is sent to, and what is believed of each: decisions only, with the time passed in.
//!
//! ```text
//!  route of an origin:   shields (0..n)  ->  the origin's own addresses (1..n)
//!                             \                  /
//!   spread: the key's order of preference, load bounded -> Ticket -> outcome
//!                             ^                                         |
//!    usable = health (probes) and not ejected (outlier) and breaker  <--'
//!   budget: how many second requests (retries, hedges) there may be; latency: when to hedge
//! ```
//!
//! [`Policy`] is the whole; the others are its parts, one rule each. A node is shared by all routes
//! that name it: a shield that is down is down for every origin.

mod breaker;
mod budget;
mod health;
mod latency;
mod outlier;
mod policy;
mod settings;
pub mod spread;
#[cfg(test)]
mod tests;
mod window;

pub use policy::{NodeSpec, NodeView, Outcome, Policy, RouteSpec, RouteView, Ticket};
pub use settings::{
    BreakerSettings, BudgetSettings, HealthSettings, HedgeSettings, OutlierSettings, Settings,
};

/// A node: an index into the list that [`Policy::new`] was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// A route: that of the origin with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u16);

/// What stands between this node and the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    Shield,
    Origin,
}

impl Tier {
    /// As operators read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shield => "shield",
            Self::Origin => "origin",
        }
    }
}
