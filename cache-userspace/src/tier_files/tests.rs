//! Sets of real files that are new, old, damaged, foreign, too small, in the wrong order.

use std::os::unix::fs::FileExt as _;

use super::*;

const MIB: u64 = 1 << 20;

fn config(dir: &Path, names: &[&str]) -> TierConfig {
    let mut config = TierConfig::without_devices();
    config.devices = names.iter().map(|name| dir.join(name)).collect();
    config.size = 24 * MIB;
    config.segment = MIB;
    config
}

fn wanted(shards: u8) -> Wanted {
    Wanted {
        shards,
        tag_slots: 65_536,
        format: false,
    }
}

fn open(config: &TierConfig) -> anyhow::Result<OpenTier> {
    OpenTier::open(config, &wanted(2))
}

/// Why a set is refused; nothing that was there is changed by it.
fn refusal(config: &TierConfig) -> String {
    refusal_of(config, &wanted(2))
}

fn refusal_of(config: &TierConfig, wanted: &Wanted) -> String {
    let there: Vec<_> = config.devices.iter().filter(|path| path.exists()).collect();
    let bytes = || there.iter().map(|path| std::fs::read(path).expect("read"));
    let before: Vec<_> = bytes().collect();
    let refused = OpenTier::open(config, wanted).expect_err("it was opened");
    assert!(bytes().eq(before), "it was written to");
    format!("{refused:#}")
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}

#[test]
fn new_files_become_a_set_that_is_known_again_in_any_order() {
    let dir = scratch::directory();
    let made = open(&config(dir.path(), &["a", "b"])).expect("made");
    assert!(made.is_new);
    let (seed, geometry) = (made.hash_seed, made.geometry.clone());
    let names: Vec<_> = made.devices.iter().map(|d| d.path.clone()).collect();
    drop(made);
    for order in [["a", "b"], ["b", "a"]] {
        let config = config(dir.path(), &order);
        assert_eq!(inspect(&config, 2), [""; 0]);
        let again = open(&config).expect("known");
        assert!(!again.is_new);
        assert_eq!((again.hash_seed, &again.geometry), (seed, &geometry));
        let found: Vec<_> = again.devices.iter().map(|d| d.path.clone()).collect();
        assert_eq!(found, names);
    }
}

#[test]
fn what_is_foreign_is_left_alone_until_it_is_formatted() {
    let dir = scratch::directory();
    let config = config(dir.path(), &["a"]);
    let path = dir.path().join("a");
    let mut bytes = vec![0; 24 << 20];
    bytes[..8].copy_from_slice(b"somebody");
    std::fs::write(&path, &bytes).expect("write");
    let why = refusal(&config);
    assert!(
        why.contains(
            "/a: it holds data that is not of a popcache tier (it begins with `somebody`)"
        ) && why.contains("popcache serve --format"),
        "{why}"
    );
    assert_eq!(inspect(&config, 2).len(), 1);
    assert!(std::fs::read(&path).expect("read") == bytes, "untouched");
    let format = Wanted {
        format: true,
        ..wanted(2)
    };
    let formatted = OpenTier::open(&config, &format).expect("formatted");
    assert!(formatted.is_new);
    drop(formatted);
    assert!(!open(&config).expect("known").is_new);
}

#[test]
fn a_file_of_zeros_that_somebody_wrote_is_not_taken_for_a_new_one() {
    let dir = scratch::directory();
    std::fs::write(dir.path().join("a"), vec![0; 24 << 20]).expect("write");
    let why = refusal(&config(dir.path(), &["a"]));
    assert!(why.contains("not formatted: it begins with zeros"), "{why}");
}

#[test]
fn damage_is_refused_and_one_good_copy_is_enough() {
    let dir = scratch::directory();
    let config = config(dir.path(), &["a"]);
    let path = dir.path().join("a");
    drop(open(&config).expect("made"));
    let whole = std::fs::read(&path).expect("read");
    for copy in SUPERBLOCK_OFFSETS {
        overwrite(&path, copy + 100, &[1]);
        assert_eq!(inspect(&config, 2), [""; 0]);
        assert!(
            std::fs::read(&path).expect("read") != whole,
            "not by looking"
        );
        assert!(!open(&config).expect("by the other copy").is_new);
        assert!(std::fs::read(&path).expect("read") == whole, "written anew");
    }
    for copy in SUPERBLOCK_OFFSETS {
        overwrite(&path, copy + 100, &[1]);
    }
    let why = refusal(&config);
    assert!(
        why.contains("both copies of the superblock are damaged"),
        "{why}"
    );
}

#[test]
fn another_version_and_other_cores_are_named() {
    let dir = scratch::directory();
    let config = config(dir.path(), &["a"]);
    drop(open(&config).expect("made"));
    let why = refusal_of(&config, &wanted(3));
    assert!(
        why.contains("formatted for 2 shards") && why.contains("name 2 CPUs in server.cores"),
        "{why}"
    );
    assert!(inspect(&config, 3)[0].contains("formatted for 2 shards"));
    overwrite(&dir.path().join("a"), 8, &[99]);
    let why = refusal(&config);
    assert!(
        why.contains("has format version 99") && why.contains("run the version that wrote it"),
        "{why}"
    );
}

#[test]
fn sets_are_not_mixed_and_not_taken_apart() {
    let dir = scratch::directory();
    drop(open(&config(dir.path(), &["a", "b"])).expect("made"));
    drop(open(&config(dir.path(), &["c", "d"])).expect("made"));
    for (names, words) in [
        (["a", "d"].as_slice(), "another set"),
        (&["a"], "the set has 2 devices, 1 were given"),
        (&["a", "b", "c"], "devices"),
        (&["a", "new"], "not formatted"),
    ] {
        let config = config(dir.path(), names);
        let seen = inspect(&config, 2);
        assert_eq!(seen.len(), 1, "{names:?}: {seen:?}");
        let why = refusal(&config);
        assert!(why.contains(words), "{names:?}: {why}");
    }
}

#[test]
fn a_file_that_changed_its_size_is_refused() {
    let dir = scratch::directory();
    let mut config = config(dir.path(), &["a"]);
    drop(open(&config).expect("made"));
    config.size = 32 * MIB;
    let why = refusal(&config);
    assert!(
        why.contains("it has 24 MiB, tier.size says 32 MiB"),
        "{why}"
    );
    assert_eq!(inspect(&config, 2).len(), 1);
    let file = File::options()
        .write(true)
        .open(dir.path().join("a"))
        .expect("open");
    file.set_len(20 * MIB).expect("truncate");
    config.size = 20 * MIB;
    let why = refusal(&config);
    assert!(
        why.contains("it has shrunk") && why.contains("give it its size back"),
        "{why}"
    );
}

#[test]
fn one_file_by_two_names_is_noticed() {
    let dir = scratch::directory();
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("b")).expect("link");
    let config = config(dir.path(), &["a", "b"]);
    let why = refusal(&config);
    assert!(
        why.contains("/a and ") && why.contains("/b are the same"),
        "{why}"
    );
    assert_eq!(inspect(&config, 2).len(), 1);
}

#[test]
fn a_block_device_is_used_whole_and_only_once_it_was_formatted() {
    let dir = scratch::directory();
    let Some(device) = scratch::LoopDevice::over(&dir.path().join("image"), 32 * MIB) else {
        return;
    };
    let mut config = config(dir.path(), &[]);
    config.devices = vec![device.node.clone()];
    // Nobody can say of a block device that it was never used.
    let why = refusal(&config);
    assert!(why.contains("not formatted"), "{why}");
    let format = Wanted {
        format: true,
        ..wanted(2)
    };
    let made = OpenTier::open(&config, &format).expect("formatted");
    assert_eq!(made.geometry.shard_bytes(), 11 * MIB);
    assert!(made.devices[0].discard, "auto: block devices are told");
    drop(made);
    assert!(!open(&config).expect("known").is_new);
    device.resize(24 * MIB);
    let why = refusal(&config);
    assert!(why.contains("it has shrunk"), "{why}");
    device.resize(40 * MIB);
    let grown = open(&config).expect("the rest is not used");
    assert_eq!(grown.geometry.shard_bytes(), 11 * MIB);
}
