//! What can be asked of the guard, and what it answers: the bodies of the admin API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::events::{EventLine, TopLine};
use super::settings::{GuardConfig, Limit, Rate, SourceLimits};
use super::state::{Line, ListName};

/// Prefixes in one request.
pub const MAX_NAMED: usize = 10_000;

/// Longest note, in bytes.
pub const MAX_NOTE: usize = 200;

/// One thing to do or to tell.
#[derive(Clone, Debug)]
pub enum Order {
    Report,
    List(ListRequest),
    Remove(RemoveRequest),
    Monitor(ModeRequest),
    Limit(LimitRequest),
    /// Read the feeds again.
    Reload,
    /// Go by another configuration, whose feeds are read. What was changed while running goes before it
    /// as before.
    Configure(Box<GuardConfig>),
    /// Another process is taking over: change nothing (true), or go on as before.
    Rest(bool),
    Events {
        /// Those with a higher number.
        after: u64,
    },
    Top {
        most: usize,
    },
}

/// `POST /v1/guard/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRequest {
    pub list: ListName,
    pub prefixes: Vec<String>,
    /// Seconds until they are taken back; without it they stay.
    #[serde(default)]
    pub seconds: Option<u64>,
    #[serde(default)]
    pub note: String,
}

/// `POST /v1/guard/remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    pub prefixes: Vec<String>,
}

/// `POST /v1/guard/monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// Names of rules, or `all`.
    pub rules: Vec<String>,
    /// `monitor`, `drop`, `off`, or `configured`: what the configuration says.
    pub mode: String,
}

/// `POST /v1/guard/limit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    pub limit: Limit,
    /// Without it the configuration counts again.
    #[serde(default)]
    pub rate: Option<Rate>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    Report(Box<Report>),
    Done(Done),
    Events(Vec<EventLine>),
    Top(Vec<TopLine>),
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Prefixes in force, however they came to be listed.
    pub allowed: usize,
    pub blocked: usize,
    /// What was changed, such as the prefixes named.
    pub changed: usize,
}

/// The guard as it is now: `GET /v1/guard`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub rules: Vec<RuleLine>,
    pub limits: SourceLimits,
    /// Limits that were changed while running.
    pub limits_changed: Vec<Limit>,
    pub reflector_ports: Vec<u16>,
    pub allowed: usize,
    pub blocked: usize,
    /// Places of the table for single addresses in use, and all of them.
    pub exact_used: u32,
    pub exact_places: u32,
    pub configured: Vec<Line>,
    pub feeds: Vec<FeedLine>,
    /// Listed while running.
    pub entries: Vec<Line>,
    pub event_sample: u32,
    pub state_file: String,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLine {
    pub rule: String,
    pub mode: String,
    /// What the configuration says, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<String>,
    /// Packets since the program was first attached.
    pub dropped: u64,
    /// Packets that monitor mode counted.
    pub monitored: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedLine {
    pub path: String,
    pub list: ListName,
    pub prefixes: usize,
    /// Unix time in seconds at which it was read.
    pub read: u64,
    /// Why nothing of it is listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
