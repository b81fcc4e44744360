//! The ledger: how everything was before the first change, and what was asked for since.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::plan::{Step, is_shape};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub interface: String,
    /// Every setting when nothing had been applied yet.
    pub before: BTreeMap<String, String>,
    /// By setting.
    pub changes: BTreeMap<String, Asked>,
}

/// What was asked of a setting, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub to: String,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Noted, and perhaps done: the process may have died in between.
    Planned,
    Done,
    Refused(String),
}

/// A setting that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub setting: String,
    pub is: Option<String>,
    pub wanted: String,
    /// Why the machine refused it, if it did.
    pub reason: Option<String>,
}

/// What came of an application, a verification or a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub interface: String,
    /// Settings that are as they should be.
    pub right: usize,
    pub wrong: Vec<Change>,
}

impl Ledger {
    pub fn new(facts: &Facts) -> Self {
        Self {
            interface: facts.interface.clone(),
            before: facts.settings.clone(),
            changes: BTreeMap::new(),
        }
    }

    /// `None` where there is none.
    pub fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        match fs::read(file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is damaged", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let mut unborn = file.as_os_str().to_owned();
        unborn.push(".unborn");
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&unborn, text))
            .and_then(|()| fs::rename(&unborn, file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Before they are done. Settings that came with new queues were as they are now.
    pub fn note(&mut self, facts: &Facts, steps: &[&Step]) {
        for step in steps {
            let asked = Asked {
                to: step.to.clone(),
                state: State::Planned,
            };
            self.changes.insert(step.setting.clone(), asked);
            if let Some(value) = facts.get(&step.setting) {
                let first = self.before.entry(step.setting.clone());
                first.or_insert_with(|| value.to_owned());
            }
        }
    }

    pub fn done(&mut self, setting: &str) {
        self.set(setting, State::Done);
    }

    pub fn refused(&mut self, setting: &str, reason: String) {
        self.set(setting, State::Refused(reason));
    }

    fn set(&mut self, setting: &str, state: State) {
        if let Some(asked) = self.changes.get_mut(setting) {
            asked.state = state;
        }
    }

    /// What was asked for against what is.
    pub fn compare(&self, facts: &Facts) -> Report {
        let mut report = Report {
            interface: self.interface.clone(),
            right: 0,
            wrong: Vec::new(),
        };
        for (setting, asked) in &self.changes {
            let is = facts.get(setting);
            if is == Some(asked.to.as_str()) {
                report.right += 1;
                continue;
            }
            report.wrong.push(Change {
                setting: setting.clone(),
                is: is.map(str::to_owned),
                wanted: asked.to.clone(),
                reason: match &asked.state {
                    State::Refused(reason) => Some(reason.clone()),
                    State::Planned | State::Done => None,
                },
            });
        }
        report
    }

    /// What has to be written for everything to be as it was: what was changed, and what a change of queues
    /// changed with it.
    pub fn ways_back(&self, facts: &Facts, shape: bool) -> Vec<Change> {
        let reshaped = self.changes.keys().any(|setting| is_shape(setting));
        let concerns = |setting: &str| {
            self.changes.contains_key(setting) || (reshaped && comes_with_queues(setting))
        };
        let mut back = Vec::new();
        for (setting, was) in &self.before {
            let is = facts.get(setting);
            // A file of a queue that is gone needs nothing.
            if is.is_none() || is == Some(was) || is_shape(setting) != shape || !concerns(setting) {
                continue;
            }
            back.push(Change {
                setting: setting.clone(),
                is: is.map(str::to_owned),
                wanted: was.clone(),
                reason: None,
            });
        }
        back
    }
}

fn comes_with_queues(setting: &str) -> bool {
    ["/queues/", "/smp_affinity_list", "rss/"]
        .iter()
        .any(|part| setting.contains(part))
}
