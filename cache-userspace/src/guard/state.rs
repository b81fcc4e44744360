//! What was changed while running: prefixes with their ends, and overrides; kept in a file, so that it
//! outlives the process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use cache_ebpf::lists::{List, Prefix};
use serde::{Deserialize, Serialize};

use super::prefixes;
use super::settings::Overrides;

/// Of the file.
const VERSION: u32 = 1;

/// A list by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListName {
    Allow,
    Block,
}

impl From<ListName> for List {
    fn from(name: ListName) -> Self {
        match name {
            ListName::Allow => List::Allow,
            ListName::Block => List::Block,
        }
    }
}

impl ListName {
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
        }
    }
}

/// One prefix that was listed while running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub list: ListName,
    /// Unix time in seconds from which on it does not count any more.
    pub until: Option<u64>,
    pub note: String,
}

/// Everything that was changed while running.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub overrides: Overrides,
    pub entries: BTreeMap<Prefix, Entry>,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    #[serde(flatten)]
    overrides: Overrides,
    entries: Vec<Line>,
}

/// An entry as it is written in the file, and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub prefix: String,
    pub list: ListName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl State {
    /// What `path` holds; nothing when there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is not such a file.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|error| error.to_string())?,
        };
        let document: Document = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if document.version != VERSION {
            return Err(format!(
                "it has version {}, this popcache knows {VERSION}",
                document.version
            ));
        }
        let mut entries = BTreeMap::new();
        for line in document.entries {
            let prefix = prefixes::parse(&line.prefix)?;
            let Line {
                list, until, note, ..
            } = line;
            entries.insert(prefix, Entry { list, until, note });
        }
        Ok(Self {
            overrides: document.overrides,
            entries,
        })
    }

    /// Replaces what `path` holds, whole.
    ///
    /// # Errors
    /// It cannot be written; what was there stays.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let document = Document {
            version: VERSION,
            overrides: self.overrides.clone(),
            entries: self.lines(),
        };
        let text = serde_json::to_string_pretty(&document)?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    }

    pub fn lines(&self) -> Vec<Line> {
        let lines = self.entries.iter().map(|(prefix, entry)| Line {
            prefix: prefixes::show(prefix),
            list: entry.list,
            until: entry.until,
            note: entry.note.clone(),
        });
        lines.collect()
    }

    /// Drops the entries whose time is up at `now`, and says how many there were.
    pub fn expire(&mut self, now: u64) -> usize {
        let before = self.entries.len();
        let lasts = |until: Option<u64>| until.is_none_or(|until| until > now);
        self.entries.retain(|_, entry| lasts(entry.until));
        before - self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Limit, Rate};
    use super::*;

    fn state() -> State {
        let mut state = State::default();
        let mut insert = |prefix, list, until| {
            let note = "seen in the logs".to_owned();
            let prefix = prefixes::parse(prefix).expect("good");
            state.entries.insert(prefix, Entry { list, until, note });
        };
        insert("192.0.2.0/24", ListName::Block, Some(1_000));
        insert("2001:db8::1", ListName::Allow, None);
        let rate = Rate { rate: 1, burst: 2 };
        state.overrides.limits.insert(Limit::Handshakes, rate);
        state
            .overrides
            .modes
            .insert("trailing".into(), "off".into());
        state
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/guard.json");
        assert_eq!(State::load(&path), Ok(State::default()), "no file yet");
        let state = state();
        state.save(&path).expect("saved");
        assert_eq!(State::load(&path), Ok(state));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, says) in [
            ("nonsense", "expected"),
            (r#"{"version": 2, "entries": []}"#, "version 2"),
            (
                r#"{"version": 1, "entries": [{"prefix": "x", "list": "block"}]}"#,
                "is no prefix",
            ),
        ] {
            fs::write(file.path(), text).expect("written");
            let why = State::load(file.path()).expect_err(text);
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    #[test]
    fn entries_end() {
        let mut state = state();
        assert_eq!(state.expire(999), 0);
        assert_eq!(state.expire(1_000), 1);
        assert_eq!(state.lines().len(), 1);
        assert_eq!(state.expire(u64::MAX), 0, "the other one has no end");
    }
}
