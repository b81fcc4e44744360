//! Request sequences to replay: read from files, or made from a seed.
//!
//! A file is zstd-compressed and holds nothing but records of a little-endian `u64` key and `u32`
//! size in bytes, 1 throughout where sizes are not known. An object keeps the size of its first
//! request.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Bytes of a request in a file.
const RECORD: usize = 12;
/// Requests of a file that are replayed, the first: so that a run ends in a known time.
pub const MOST_REQUESTS: usize = 4_000_000;
const SUFFIXES: [&str; 2] = [".ks.zst", ".zst"];

/// Names the directory with trace files.
pub const VARIABLE: &str = "POPCACHE_TRACES";
/// Where they are looked for without it, from the current directory.
const USUAL: &str = "../shared/traces";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Numbered by first appearance, from 0.
    pub object: u32,
    /// In bytes, at least 1.
    pub size: u32,
}

#[derive(Clone, Debug)]
pub struct Trace {
    pub name: String,
    pub requests: Vec<Request>,
    pub objects: u32,
    /// Of all objects together; their number where sizes are not known.
    pub footprint: u64,
    /// Whether sizes are known.
    pub sized: bool,
}

impl Trace {
    /// Numbers the objects and gives each its first size.
    pub fn new(name: &str, requests: impl Iterator<Item = (u64, u32)>) -> Self {
        let mut seen: HashMap<u64, Request> = HashMap::new();
        let mut footprint = 0;
        let mut sized = false;
        let requests = requests.map(|(key, size)| {
            let object = seen.len() as u32;
            match seen.entry(key) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    let size = size.max(1);
                    footprint += u64::from(size);
                    sized |= size != 1;
                    *entry.insert(Request { object, size })
                }
            }
        });
        let requests = requests.collect();
        Self {
            name: name.to_owned(),
            requests,
            objects: seen.len() as u32,
            footprint,
            sized,
        }
    }

    /// Reads one file.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not hold whole records.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let bytes = zstd::decode_all(file).with_context(|| format!("{shown} is no zstd file"))?;
        if bytes.is_empty() || bytes.len() % RECORD != 0 {
            bail!(
                "{shown} holds {} bytes: a trace is records of {RECORD}, u64 key and u32 size",
                bytes.len()
            );
        }
        let records = bytes.as_chunks::<RECORD>().0;
        if records.len() > MOST_REQUESTS {
            let all = records.len();
            eprintln!("popcache-bench: {shown}: {MOST_REQUESTS} of {all} requests are replayed");
        }
        let records = records.iter().take(MOST_REQUESTS).map(decode);
        Ok(Self::new(&name_of(path), records))
    }
}

fn decode(record: &[u8; RECORD]) -> (u64, u32) {
    let (mut key, mut size) = ([0; 8], [0; 4]);
    key.copy_from_slice(&record[..8]);
    size.copy_from_slice(&record[8..]);
    (u64::from_le_bytes(key), u32::from_le_bytes(size))
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stripped = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
    stripped.unwrap_or(&name).to_owned()
}

/// Shows every trace of the files of a directory, see [`files`], and then those that were made.
///
/// # Errors
/// Traces that cannot be read.
pub fn each(
    named: Option<&Path>,
    made: impl IntoIterator<Item = Trace>,
    mut show: impl FnMut(&Trace),
) -> Result<()> {
    for path in files(named)? {
        show(&Trace::read(&path)?);
    }
    made.into_iter().for_each(|trace| show(&trace));
    Ok(())
}

/// The trace files of a directory by name; none where no directory was named and the usual one is
/// not there, which is said on stderr.
///
/// # Errors
/// A directory that was named and holds no trace.
fn files(named: Option<&Path>) -> Result<Vec<PathBuf>> {
    let variable = std::env::var_os(VARIABLE).map(PathBuf::from);
    let Some(dir) = named.map(Path::to_path_buf).or(variable) else {
        let usual = Path::new(USUAL);
        if !usual.is_dir() {
            eprintln!(
                "popcache-bench: no traces: give --traces DIR or {VARIABLE} with *.zst files of \
                 u64 key and u32 size; only synthetic ones are replayed"
            );
            return Ok(Vec::new());
        }
        return list(usual);
    };
    let found = list(&dir)?;
    if found.is_empty() {
        bail!("{} holds no *.zst trace", dir.display());
    }
    Ok(found)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("cannot list {}", dir.display()))?;
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "zst"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new()
            .suffix(".ks.zst")
            .tempfile()
            .unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn record(key: u64, size: u32) -> Vec<u8> {
        [&key.to_le_bytes()[..], &size.to_le_bytes()].concat()
    }

    #[test]
    fn objects_are_numbered_and_keep_their_first_size() {
        let plain = [record(900, 7), record(5, 0), record(900, 8)].concat();
        let file = file(&zstd::encode_all(&plain[..], 1).unwrap());
        let trace = Trace::read(file.path()).unwrap();
        let objects: Vec<_> = trace.requests.iter().map(|r| (r.object, r.size)).collect();
        assert_eq!(objects, [(0, 7), (1, 1), (0, 7)]);
        assert_eq!((trace.objects, trace.footprint, trace.sized), (2, 8, true));
        assert!(!trace.name.contains('.') || !trace.name.ends_with("zst"));
    }

    #[test]
    fn files_that_are_no_traces_are_named() {
        let torn = file(&zstd::encode_all(&[0; 13][..], 1).unwrap());
        let error = format!("{:#}", Trace::read(torn.path()).unwrap_err());
        assert!(
            error.contains("13 bytes") && error.contains(".zst"),
            "{error}"
        );
        let foreign = file(b"not compressed");
        let error = format!("{:#}", Trace::read(foreign.path()).unwrap_err());
        assert!(error.contains("no zstd"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(files(Some(empty.path())).is_err());
        assert!(files(Some(Path::new("/does/not/exist"))).is_err());
    }
}
