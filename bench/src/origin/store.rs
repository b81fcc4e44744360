//! The emotes of one origin: drawn once, kept on disk, held in memory.
//!
//! ```text
//! DIR/format        one line: what drew the files, so that a newer drawing replaces older files
//! DIR/0.png ...     the files
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::emotes;

/// Changes when [`emotes::draw`] would draw anything else.
const FORMAT: &str = "popcache emotes 1\n";

/// Reads emotes `0..count` from `dir`, drawing those that are not there.
///
/// # Errors
/// More than [`emotes::MAX_EMOTES`]; a directory that cannot be read or written.
pub fn load(dir: &Path, count: u32) -> Result<Vec<Bytes>> {
    ensure!(
        count <= emotes::MAX_EMOTES,
        "{count} emotes are too many: ask for at most {}",
        emotes::MAX_EMOTES
    );
    prepare(dir)?;
    let workers = std::thread::available_parallelism()
        .map_or(1, |n| n.get() as u32)
        .min(16);
    let share = count.div_ceil(workers).max(1);
    let ranges = (0..count)
        .step_by(share as usize)
        .map(|from| from..(from + share).min(count));
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranges
            .map(|range| {
                scope.spawn(move || range.map(|n| load_one(dir, n)).collect::<Result<Vec<_>>>())
            })
            .collect();
        let mut all = Vec::with_capacity(count as usize);
        for thread in threads {
            all.extend(thread.join().expect("drawing does not panic")?);
        }
        Ok(all)
    })
}

/// Makes the directory and throws away files of another format.
fn prepare(dir: &Path) -> Result<()> {
    let marker = dir.join("format");
    if fs::read_to_string(&marker).is_ok_and(|text| text == FORMAT) {
        return Ok(());
    }
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the emote directory {}", dir.display()))?;
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "png") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    fs::write(&marker, FORMAT).with_context(|| format!("cannot write {}", marker.display()))
}

fn load_one(dir: &Path, n: u32) -> Result<Bytes> {
    let path = dir.join(format!("{n}.png"));
    match fs::read(&path) {
        Ok(file) if (emotes::MIN_FILE..=emotes::MAX_FILE).contains(&file.len()) => {
            Ok(Bytes::from(file))
        }
        _ => draw_one(&path, n),
    }
}

/// Writes beside and renames, so that a stopped origin leaves no half file.
fn draw_one(path: &Path, n: u32) -> Result<Bytes> {
    let file = emotes::draw(n);
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&beside, &file).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot rename to {}", path.display()))?;
    Ok(Bytes::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_and_equal_the_drawn_ones() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = load(dir.path(), 5).expect("drawn");
        assert_eq!(first[3], emotes::draw(3));
        let kept = fs::metadata(dir.path().join("3.png"))
            .expect("kept")
            .modified()
            .expect("a time");
        assert_eq!(load(dir.path(), 5).expect("read back"), first);
        let again = fs::metadata(dir.path().join("3.png"))
            .expect("kept")
            .modified()
            .expect("a time");
        assert_eq!(kept, again);
    }

    #[test]
    fn another_format_is_drawn_anew() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("format"), "older\n").expect("written");
        fs::write(dir.path().join("0.png"), vec![0; 2000]).expect("written");
        assert_eq!(load(dir.path(), 1).expect("drawn")[0], emotes::draw(0));
    }
}
