//! What is asked for: the targets of a run, how they are chosen, and which bytes are right.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::Rng;

use super::h3::encode_get;
use crate::engine::trace::{Request, Trace};
use crate::origin::{body, film};

/// Targets of one run.
pub const MAX_TARGETS: usize = 1_000_000;

/// A list of targets with their encoded requests.
pub struct Targets {
    list: Vec<Target>,
    verify: bool,
}

struct Target {
    path: String,
    /// The HEADERS frame.
    request: Vec<u8>,
    /// The origin's body, made at the first check.
    expected: Option<Bytes>,
    /// What of a film is asked for.
    part: Option<Range<u64>>,
}

impl Targets {
    /// `verify`: every body must be [`body()`] of its target, byte for byte.
    ///
    /// # Errors
    /// No target, too many, one that does not start with a slash, or one without a known body where
    /// bodies are to be verified.
    pub fn new(authority: &str, paths: Vec<String>, verify: bool) -> Result<Self> {
        ensure!(
            !paths.is_empty(),
            "no target to ask for: give --url or --path-template"
        );
        ensure!(
            paths.len() <= MAX_TARGETS,
            "{} targets are too many: at most {MAX_TARGETS}",
            paths.len()
        );
        for path in &paths {
            ensure!(
                path.starts_with('/'),
                "target `{path}` does not start with a slash"
            );
        }
        if verify {
            let first = &paths[0];
            ensure!(
                body(first).is_some(),
                "the demo origin has no known body for `{first}` to verify"
            );
        }
        let list = paths
            .into_iter()
            .map(|path| Target {
                request: encode_get(authority, &path, None),
                path,
                expected: None,
                part: None,
            })
            .collect();
        Ok(Self { list, verify })
    }

    /// `count` equal parts that make up a whole film (`/film/BYTES`), each a target of its own.
    ///
    /// # Errors
    /// A path that is no film's, or no part.
    pub fn parts(authority: &str, path: &str, count: usize) -> Result<Self> {
        let length = film::length_of(path);
        let length = length.with_context(|| format!("`{path}` is no /film/BYTES"))?;
        ensure!(
            count > 0 && count <= MAX_TARGETS && length >= count as u64,
            "{length} bytes cannot be asked for in {count} parts"
        );
        let bound = |n: usize| (u128::from(length) * n as u128 / count as u128) as u64;
        let list = (0..count)
            .map(|n| {
                let part = bound(n)..bound(n + 1);
                let range = format!("bytes={}-{}", part.start, part.end - 1);
                Target {
                    request: encode_get(authority, path, Some(&range)),
                    path: path.to_owned(),
                    expected: None,
                    part: Some(part),
                }
            })
            .collect();
        let verify = true;
        Ok(Self { list, verify })
    }

    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub(super) fn request(&self, key: usize) -> &[u8] {
        &self.list[key].request
    }

    /// Whether `part` is what the origin has at `offset`.
    pub(super) fn matches(&mut self, key: usize, offset: u64, part: &[u8]) -> bool {
        if !self.verify {
            return true;
        }
        if let Target {
            part: Some(asked),
            path,
            ..
        } = &self.list[key]
        {
            let start = asked.start + offset;
            let end = start + part.len() as u64;
            return end <= asked.end && film::film(path, 0, start..end) == part;
        }
        let expected = self.expected(key);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        expected
            .get(start..)
            .is_some_and(|rest| rest.starts_with(part))
    }

    /// The status of a right answer.
    pub(super) fn status(&self, key: usize) -> u16 {
        match self.list[key].part {
            Some(_) => 206,
            None => 200,
        }
    }

    /// Whether a body of `length` bytes, all of which matched, is complete.
    pub(super) fn is_whole(&mut self, key: usize, length: u64) -> bool {
        if let Some(part) = &self.list[key].part {
            return part.end - part.start == length;
        }
        !self.verify || self.expected(key).len() as u64 == length
    }

    fn expected(&mut self, key: usize) -> &Bytes {
        let target = &mut self.list[key];
        // An unknown path has an empty body here, which no real answer matches.
        target
            .expected
            .get_or_insert_with(|| body(&target.path).unwrap_or_default())
    }
}

/// The paths of a template: `{}` is replaced by 0 to `keys - 1`.
pub fn expand(template: &str, keys: usize) -> Vec<String> {
    if !template.contains("{}") {
        return vec![template.to_owned()];
    }
    (0..keys.min(MAX_TARGETS))
        .map(|n| template.replacen("{}", &n.to_string(), 1))
        .collect()
}

/// The paths of a trace's objects, and their numbers in the order of its requests: as far as there
/// are at most [`MAX_TARGETS`] of them. In the template `{}` is replaced by the number of an object and
/// `{size}` by its size.
///
/// # Errors
/// A file that is no trace, or a template without `{}`.
pub fn of_trace(file: &Path, template: &str) -> Result<(Vec<String>, Vec<u32>)> {
    ensure!(
        template.contains("{}"),
        "`{template}` gives all objects of a trace one path: it needs {{}}"
    );
    let trace = Trace::read(file)?;
    let mut paths = Vec::new();
    let mut order = Vec::with_capacity(trace.requests.len());
    for Request { object, size } in trace.requests {
        if object as usize == paths.len() {
            if paths.len() == MAX_TARGETS {
                break;
            }
            let path = template.replace("{size}", &size.to_string());
            paths.push(path.replacen("{}", &object.to_string(), 1));
        }
        order.push(object);
    }
    Ok((paths, order))
}

/// How the next target is chosen.
pub enum Choice {
    /// One after the other.
    InTurn { next: usize, count: usize },
    /// Target `n` with a weight of `1 / (n + 1)^exponent`, by its running sum.
    Zipf { sums: Vec<f64> },
    /// In a given order, again and again.
    Ordered { order: Vec<u32>, next: usize },
}

impl Choice {
    /// `exponent` zero chooses in turn.
    pub fn new(count: usize, exponent: f64) -> Self {
        if exponent == 0.0 {
            return Self::InTurn { next: 0, count };
        }
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        Self::Zipf { sums }
    }

    pub fn next(&mut self, random: &mut impl Rng) -> usize {
        match self {
            Self::InTurn { next, count } => {
                let key = *next;
                *next = (key + 1) % *count;
                key
            }
            Self::Zipf { sums } => {
                let total = sums.last().copied().unwrap_or_default();
                let at = random.random::<f64>() * total;
                sums.partition_point(|sum| *sum <= at).min(sums.len() - 1)
            }
            Self::Ordered { order, next } => {
                let key = order[*next];
                *next = (*next + 1) % order.len();
                key as usize
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn zipf_prefers_low_ranks_and_reaches_high_ones() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut choice = Choice::new(100, 0.9);
        let mut counts = vec![0u32; 100];
        for _ in 0..100_000 {
            counts[choice.next(&mut random)] += 1;
        }
        // The first rank has a share of 1 / sum(k^-0.9), about 0.147.
        assert!((13_500..16_000).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[9] && counts[9] > counts[99] && counts[99] > 0);
    }

    #[test]
    fn in_turn_goes_round() {
        let mut choice = Choice::new(3, 0.0);
        let mut random = SmallRng::seed_from_u64(7);
        let keys: Vec<usize> = (0..5).map(|_| choice.next(&mut random)).collect();
        assert_eq!(keys, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_trace_is_asked_for_in_its_order() {
        let record = |key: u64, size: u32| [&key.to_le_bytes()[..], &size.to_le_bytes()].concat();
        let bytes = [record(900, 7), record(5, 20), record(900, 7)].concat();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let packed = zstd::encode_all(&bytes[..], 1).expect("packed");
        std::fs::write(file.path(), packed).expect("written");
        let (paths, order) = of_trace(file.path(), "/size/{size}?k={}").expect("a trace");
        assert_eq!(paths, ["/size/7?k=0", "/size/20?k=1"]);
        let mut choice = Choice::Ordered { order, next: 0 };
        let mut random = SmallRng::seed_from_u64(7);
        let keys: Vec<usize> = (0..4).map(|_| choice.next(&mut random)).collect();
        assert_eq!(keys, [0, 1, 0, 0]);
        of_trace(file.path(), "/same").expect_err("one path for all");
    }

    #[test]
    fn templates_expand() {
        assert_eq!(
            expand("/emotes/{}.png", 2),
            ["/emotes/0.png", "/emotes/1.png"]
        );
        assert_eq!(expand("/index", 5), ["/index"]);
    }

    #[test]
    fn wrong_bytes_are_noticed() {
        let mut targets =
            Targets::new("edge.test", vec!["/size/10".into()], true).expect("known body");
        let right = body("/size/10").expect("known body");
        assert!(targets.matches(0, 0, &right[..4]) && targets.matches(0, 4, &right[4..]));
        assert!(!targets.matches(0, 1, &right[..4]));
        assert!(!targets.matches(0, 8, b"abc"));
        assert!(targets.is_whole(0, 10) && !targets.is_whole(0, 9));
    }

    #[test]
    fn bad_targets_are_refused() {
        assert!(Targets::new("edge.test", vec![], false).is_err());
        assert!(Targets::new("edge.test", vec!["x".into()], false).is_err());
        assert!(Targets::new("edge.test", vec!["/nope".into()], true).is_err());
    }
}
