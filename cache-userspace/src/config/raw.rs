//! The configuration file as text with positions: what stands where, and what is wrong with it.
//!
//! A [`Reader`] walks the parsed document section by section. Every setting is asked for once,
//! with its default and the reason for it; that one call reads the value, records it for
//! [`super::explain`], and makes the key known. What nobody asked for is unknown, and is refused
//! with the nearest known name. Nothing stops at the first problem: all are collected.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::explain::{Setting, Source};
use super::units::{Invalid, Kind, Node};

/// Something wrong with the file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: ")?,
            (Some(line), None) => write!(f, "line {line}: ")?,
            _ => {}
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Walks one document. Create it with [`parse`].
pub struct Reader<'d, 't> {
    root: &'d DeTable<'t>,
    log: Log<'d>,
    sections: Vec<&'static str>,
}

/// What a reader has found so far.
struct Log<'d> {
    text: &'d str,
    problems: Vec<Problem>,
    settings: Vec<Setting>,
    unknown: Vec<Unknown>,
}

struct Unknown {
    section: &'static str,
    key: String,
    at: Range<usize>,
}

/// The syntax tree of `text`, or every syntax error in it.
pub fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(root);
    }
    let mut problems: Vec<Problem> = errors
        .iter()
        .map(|error| syntax_problem(text, error))
        .collect();
    problems.dedup_by_key(|problem| problem.line);
    Err(problems)
}

impl<'d, 't> Reader<'d, 't> {
    pub fn new(text: &'d str, root: &'d DeTable<'t>) -> Self {
        Self {
            root,
            log: Log {
                text,
                problems: Vec::new(),
                settings: Vec::new(),
                unknown: Vec::new(),
            },
            sections: Vec::new(),
        }
    }

    /// Reads `[name]`. An absent section is an empty one.
    pub fn section<R>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_, 'd, 't>) -> R,
    ) -> R {
        self.sections.push(name);
        let table = match self.root.get(name) {
            None => None,
            Some(node) => match node.get_ref() {
                DeValue::Table(table) => Some(table),
                _ => {
                    let hint = format!("write [{name}] on a line of its own");
                    self.log
                        .problem(node.span(), format!("{name:?} is a section"), Some(hint));
                    None
                }
            },
        };
        self.read(name, None, table, None, read)
    }

    /// Reads every `[[name]]`, in order.
    pub fn sections<R>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Section<'_, 'd, 't>) -> R,
    ) -> Vec<R> {
        self.sections.push(name);
        let Some(node) = self.root.get(name) else {
            return Vec::new();
        };
        let hint = || {
            Some(format!(
                "write [[{name}]], with double brackets, before each"
            ))
        };
        let DeValue::Array(items) = node.get_ref() else {
            self.log.problem(
                node.span(),
                format!("{name:?} is a list of sections"),
                hint(),
            );
            return Vec::new();
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    values.push(self.read(
                        name,
                        Some(index),
                        Some(table),
                        Some(item.span()),
                        &mut read,
                    ));
                }
                _ => self.log.problem(
                    item.span(),
                    format!("{name:?} is a list of sections"),
                    hint(),
                ),
            }
        }
        values
    }

    /// Adds a problem found by looking at several settings together.
    pub fn problem(
        &mut self,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        match span {
            Some(span) => self.log.problem(span, message, hint),
            None => self.log.problems.push(Problem {
                line: None,
                column: None,
                message: message.into(),
                hint,
            }),
        }
    }

    /// Whether the file says anything under this name, well or badly.
    pub fn has(&self, section: &str) -> bool {
        self.root.contains_key(section)
    }

    /// Where a setting of a plain section is written, if it is.
    pub fn span(&self, section: &str, key: &str) -> Option<Range<usize>> {
        let table = self.root.get(section)?.get_ref().as_table()?;
        Some(table.get(key)?.span())
    }

    /// Refuses what nobody asked for, and gives back the settings or all the problems.
    pub fn finish(mut self) -> Result<Vec<Setting>, Vec<Problem>> {
        for (key, _) in self.root {
            if !self.sections.contains(&key.get_ref().as_ref()) {
                self.unknown_section(key.get_ref(), key.span());
            }
        }
        for unknown in std::mem::take(&mut self.log.unknown) {
            self.unknown_key(&unknown);
        }
        if self.log.problems.is_empty() {
            return Ok(self.log.settings);
        }
        self.log
            .problems
            .sort_by_key(|p| (p.line.unwrap_or(usize::MAX), p.column));
        Err(self.log.problems)
    }

    fn read<R>(
        &mut self,
        name: &'static str,
        index: Option<usize>,
        table: Option<&'d DeTable<'t>>,
        at: Option<Range<usize>>,
        read: impl FnOnce(&mut Section<'_, 'd, 't>) -> R,
    ) -> R {
        let mut section = Section {
            name,
            index,
            table,
            at,
            known: Vec::new(),
            log: &mut self.log,
        };
        let value = read(&mut section);
        section.note_unknown();
        value
    }

    fn unknown_section(&mut self, key: &str, at: Range<usize>) {
        let hint = match nearest(key, self.sections.iter().copied()) {
            Some(near) => Some(format!("did you mean [{near}]?")),
            None => self
                .log
                .home_of(key)
                .map(|home| format!("it belongs in [{home}]")),
        };
        let hint = hint.or_else(|| Some(format!("sections are {}", self.sections.join(", "))));
        self.log
            .problem(at, format!("unknown section or key `{key}`"), hint);
    }

    fn unknown_key(&mut self, unknown: &Unknown) {
        let Unknown { section, key, at } = unknown;
        let known = || self.log.keys_of(section);
        let hint = match nearest(key, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match self.log.home_of(key) {
                Some(home) => format!("it belongs in [{home}]"),
                None => format!("keys here are {}", known().collect::<Vec<_>>().join(", ")),
            },
        };
        self.log.problem(
            at.clone(),
            format!("unknown key `{key}` in [{section}]"),
            Some(hint),
        );
    }
}

/// One section of the file while it is read.
pub struct Section<'r, 'd, 't> {
    name: &'static str,
    index: Option<usize>,
    table: Option<&'d DeTable<'t>>,
    at: Option<Range<usize>>,
    known: Vec<&'static str>,
    log: &'r mut Log<'d>,
}

impl<'d, 't> Section<'_, 'd, 't> {
    /// A setting with a default. `why` says in one line what it bounds and why the default is
    /// what it is.
    pub fn setting<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        default: T,
        why: &'static str,
    ) -> T {
        let value = self.read(key, kind).unwrap_or(default);
        self.record(key, Some((kind.show)(&value)), Source::Default, why);
        value
    }

    /// A setting with a default, and bounds (both inclusive).
    pub fn bounded<T: PartialOrd + Clone>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        default: T,
        range: RangeInclusive<T>,
        why: &'static str,
    ) -> T {
        let value = self.setting(key, kind, default, why);
        if !range.contains(&value) {
            let (low, high) = ((kind.show)(range.start()), (kind.show)(range.end()));
            self.refuse(key, format!("{key} must be between {low} and {high}"));
        }
        value
    }

    /// A setting that may be absent.
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        why: &'static str,
    ) -> Option<T> {
        let value = self.read(key, kind);
        self.record(key, value.as_ref().map(kind.show), Source::Unset, why);
        value
    }

    /// A setting without which the section means nothing. `None` only after a recorded problem.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        why: &'static str,
    ) -> Option<T> {
        let value = self.optional(key, kind, why);
        if value.is_none() && self.node(key).is_none() {
            let at = self.at.clone().unwrap_or(0..0);
            let message = format!("[[{}]] needs `{key}`", self.name);
            self.log.problem(at, message, Some(why.to_owned()));
        }
        value
    }

    /// Refuses the value of `key` (where it is written, else of the section).
    pub fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let at = self.span(key).or_else(|| self.at.clone()).unwrap_or(0..0);
        self.log.problem(at, message, None);
    }

    /// Where `key` is written.
    pub fn span(&self, key: &str) -> Option<Range<usize>> {
        self.node(key).map(Spanned::span)
    }

    /// Where the section starts, for sections that can repeat.
    pub fn at(&self) -> Option<Range<usize>> {
        self.at.clone()
    }

    fn node(&self, key: &str) -> Option<&'d Node<'t>> {
        self.table?.get(key)
    }

    /// The value of `key`, unless it is absent or (after a recorded problem) bad.
    fn read<T>(&mut self, key: &str, kind: &Kind<T>) -> Option<T> {
        match (kind.parse)(self.node(key)?) {
            Ok(value) => Some(value),
            Err(Invalid { span, message }) => {
                self.log.problem(span, format!("{key}: {message}"), None);
                None
            }
        }
    }

    fn record(
        &mut self,
        key: &'static str,
        value: Option<String>,
        otherwise: Source,
        why: &'static str,
    ) {
        let source = match self.span(key) {
            Some(span) => Source::Line(self.log.position(span.start).0),
            None => otherwise,
        };
        self.known.push(key);
        self.log.settings.push(Setting {
            section: self.name,
            index: self.index,
            key,
            value,
            source,
            why,
        });
    }

    fn note_unknown(&mut self) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                self.log.unknown.push(Unknown {
                    section: self.name,
                    key: key.get_ref().to_string(),
                    at: key.span(),
                });
            }
        }
    }
}

impl Log<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let (line, column) = self.position(span.start);
        self.problems.push(Problem {
            line: Some(line),
            column: Some(column),
            message: message.into(),
            hint,
        });
    }

    fn position(&self, at: usize) -> (usize, usize) {
        position(self.text, at)
    }

    fn keys_of(&self, section: &str) -> impl Iterator<Item = &'static str> {
        self.settings
            .iter()
            .filter(move |setting| setting.section == section && setting.index.unwrap_or(0) == 0)
            .map(|setting| setting.key)
    }

    /// The section that a key belongs to, when it belongs to exactly one.
    fn home_of(&self, key: &str) -> Option<&'static str> {
        let mut homes: Vec<&str> = self
            .settings
            .iter()
            .filter(|setting| setting.key == key)
            .map(|setting| setting.section)
            .collect();
        homes.dedup();
        match homes[..] {
            [home] => Some(home),
            _ => None,
        }
    }
}

/// The name that `found` was probably meant to be: at most a third of it differs.
pub fn nearest<'n>(found: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let found = found.to_ascii_lowercase().replace('-', "_");
    let allowed = (found.chars().count() / 3).max(1);
    names
        .map(|name| (strsim::damerau_levenshtein(&found, name), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let position = error.span().map(|span| position(text, span.start));
    Problem {
        line: position.map(|(line, _)| line),
        column: position.map(|(_, column)| column),
        message: error.message().to_owned(),
        hint: None,
    }
}

/// Line and column (in characters) of a byte offset, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let at = at.min(text.len());
    let before = &text.as_bytes()[..at];
    let line_start = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |i| i + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = text
        .get(line_start..at)
        .map_or(1, |part| part.chars().count() + 1);
    (line, column)
}
