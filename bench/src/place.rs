//! Where generated things are kept.

use std::path::{Path, PathBuf};

/// The build's target directory where this program runs from one, else a directory for temporary
/// files.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file());
    target.map_or_else(
        || std::env::temp_dir().join("popcache-bench"),
        Path::to_path_buf,
    )
}
