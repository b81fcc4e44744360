//! Where the memory comes from: 1 GiB pages, 2 MiB pages, transparent hugepages, plain pages.
//!
//! A [`PagePolicy`] is where the attempt starts; what cannot be had is passed over downwards and
//! the [`BackingReport`] says what was got and why nothing better.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

const PLAIN_BYTES: usize = 4 << 10;
const HUGE_2M_BYTES: usize = 2 << 20;
const HUGE_1G_BYTES: usize = 1 << 30;
const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// The best pages to try for. `Auto` is `Huge1G` when the size is a multiple of 1 GiB, else
/// `Huge2M`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagePolicy {
    #[default]
    Auto,
    Huge1G,
    Huge2M,
    /// 4 KiB pages that the kernel joins (`madvise(MADV_HUGEPAGE)`).
    Thp,
    Plain,
}

impl FromStr for PagePolicy {
    type Err = Error;

    /// The words of the configuration: `auto`, `1g`, `2m`, `thp`, `plain`.
    fn from_str(word: &str) -> Result<Self, Error> {
        Ok(match word {
            "auto" => Self::Auto,
            "1g" => Self::Huge1G,
            "2m" => Self::Huge2M,
            "thp" => Self::Thp,
            "plain" => Self::Plain,
            _ => return Err(Error::Policy(word.to_owned())),
        })
    }
}

/// The pages that a mapping really has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    Huge1G,
    Huge2M,
    Thp,
    Plain,
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Huge1G => "1 GiB hugepages",
            Self::Huge2M => "2 MiB hugepages",
            Self::Thp => "transparent hugepages",
            Self::Plain => "4 KiB pages",
        })
    }
}

/// What a mapping got, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingReport {
    pub kind: PageKind,
    /// Bytes that can be used.
    pub bytes: u64,
    /// Why nothing better, and what to do; empty when the policy's first choice was had.
    pub note: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot map {bytes} bytes of memory: {source}; lower `memory.ram`")]
    Map {
        bytes: usize,
        source: std::io::Error,
    },
    #[error("a mapping of 0 bytes was asked for")]
    Empty,
    #[error("unknown page policy `{0}`: use auto, 1g, 2m, thp or plain")]
    Policy(String),
    #[error("cannot {action} {path}: {source}; run as root, or set vm.nr_hugepages by sysctl")]
    Reserve {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
    #[error("{path} says `{text}` where a number of pages was expected")]
    ReserveText { path: String, text: String },
    #[error(
        "the kernel found only {got} of {wanted} free 2 MiB pages (memory is too full or too \
         fragmented); reserve them at boot by hugepages={wanted} on the kernel command line"
    )]
    ReserveShort { wanted: u64, got: u64 },
    #[error("an arena of {bytes} bytes cannot be cut in segments of {segment} bytes: {reason}")]
    Layout {
        bytes: usize,
        segment: usize,
        reason: &'static str,
    },
}

/// A mapping, unmapped when the last region, arena or view of it is gone.
#[derive(Debug)]
struct Mapping {
    map: MmapRaw,
}

/// Maps memory.
#[derive(Debug)]
pub struct Backing;

impl Backing {
    /// Maps `bytes` (rounded up to the page) of zeroed memory, with the best pages that `policy`
    /// and the machine allow. Hugetlb pages are reserved at once, so that touching them later
    /// cannot fail; other pages are committed when first touched.
    pub fn map(bytes: usize, policy: PagePolicy) -> Result<(Region, BackingReport), Error> {
        if bytes == 0 {
            return Err(Error::Empty);
        }
        let mut notes = Vec::new();
        for kind in candidates(bytes, policy) {
            match try_map(bytes, *kind) {
                Ok(region) => {
                    let report = BackingReport {
                        kind: *kind,
                        bytes: region.len() as u64,
                        note: notes.join("; "),
                    };
                    return Ok((region, report));
                }
                Err(source) if *kind == PageKind::Plain => {
                    return Err(Error::Map { bytes, source });
                }
                Err(source) => notes.push(refusal(*kind, bytes, &source)),
            }
        }
        unreachable!("every list of candidates ends with plain pages")
    }
}

fn candidates(bytes: usize, policy: PagePolicy) -> &'static [PageKind] {
    use PageKind::{Huge1G, Huge2M, Plain, Thp};
    match policy {
        PagePolicy::Auto if bytes.is_multiple_of(HUGE_1G_BYTES) => &[Huge1G, Huge2M, Thp, Plain],
        PagePolicy::Huge1G => &[Huge1G, Huge2M, Thp, Plain],
        PagePolicy::Auto | PagePolicy::Huge2M => &[Huge2M, Thp, Plain],
        PagePolicy::Thp => &[Thp, Plain],
        PagePolicy::Plain => &[Plain],
    }
}

fn try_map(bytes: usize, kind: PageKind) -> std::io::Result<Region> {
    match kind {
        PageKind::Huge1G if !bytes.is_multiple_of(HUGE_1G_BYTES) => {
            Err(std::io::Error::other("the size is not a multiple of 1 GiB"))
        }
        PageKind::Huge1G => map_hugetlb(bytes, HUGE_1G_BYTES),
        PageKind::Huge2M => map_hugetlb(bytes, HUGE_2M_BYTES),
        PageKind::Thp => map_thp(bytes),
        PageKind::Plain => map_plain(bytes, PLAIN_BYTES),
    }
}

fn map_hugetlb(bytes: usize, page: usize) -> std::io::Result<Region> {
    let len = round_up(bytes, page)?;
    let bits = page.trailing_zeros() as u8;
    let map = MmapOptions::new().len(len).huge(Some(bits)).map_anon()?;
    Ok(Region::whole(map, page))
}

/// The kernel joins pages only in ranges aligned to 2 MiB, so one hugepage more is mapped and the
/// unaligned ends are left untouched (address space, not memory).
fn map_thp(bytes: usize) -> std::io::Result<Region> {
    let region = map_plain(bytes, HUGE_2M_BYTES)?;
    region.mapping.map.advise(Advice::HugePage)?;
    Ok(region)
}

fn map_plain(bytes: usize, align: usize) -> std::io::Result<Region> {
    let len = round_up(bytes, PLAIN_BYTES)?;
    let slack = align - PLAIN_BYTES;
    let total = len.checked_add(slack).ok_or_else(too_large)?;
    let mut region = Region::whole(MmapOptions::new().len(total).map_anon()?, align);
    region.len = len;
    Ok(region)
}

fn round_up(bytes: usize, page: usize) -> std::io::Result<usize> {
    bytes.checked_next_multiple_of(page).ok_or_else(too_large)
}

fn too_large() -> std::io::Error {
    std::io::Error::from(std::io::ErrorKind::OutOfMemory)
}

fn refusal(kind: PageKind, bytes: usize, source: &std::io::Error) -> String {
    let pages = bytes.div_ceil(HUGE_2M_BYTES);
    let advice = match kind {
        PageKind::Huge1G => "reserve them by hugepagesz=1G hugepages=N at boot".to_owned(),
        PageKind::Huge2M => format!("raise vm.nr_hugepages by {pages}"),
        PageKind::Thp | PageKind::Plain => {
            "enable /sys/kernel/mm/transparent_hugepage/enabled (madvise)".to_owned()
        }
    };
    format!("no {kind}: {source} ({advice})")
}

/// A range of a mapping that nobody else has. Cut in pieces by [`Region::take`] and turned into a
/// [`crate::Table`], an arena, or used as plain bytes (a packet buffer pool).
#[derive(Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl Region {
    fn whole(map: MmapMut, align: usize) -> Self {
        let len = map.len();
        let start = map.as_ptr().align_offset(align);
        let map = MmapRaw::from(map);
        Self {
            mapping: Arc::new(Mapping { map }),
            start,
            len: len - start,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts the first `bytes` off; `None` when there are fewer. Keep to multiples of the alignment
    /// that the pieces need.
    pub fn take(&mut self, bytes: usize) -> Option<Region> {
        let rest = self.len.checked_sub(bytes)?;
        let piece = Region {
            mapping: Arc::clone(&self.mapping),
            start: self.start,
            len: bytes,
        };
        self.start += bytes;
        self.len = rest;
        Some(piece)
    }

    /// The first byte. Valid for `len` bytes while the region (or what it was made into) lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.map.as_mut_ptr().wrapping_add(self.start)
    }
}

/// 2 MiB pages added to the kernel's pool by [`reserve_2m`].
#[derive(Debug)]
pub struct Reservation {
    path: String,
    added: u64,
}

impl Reservation {
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Takes the added pages out of the pool again (pages in use leave it when they are freed).
    pub fn release(self) -> Result<(), Error> {
        let now = read_pages(&self.path)?;
        write_pages(&self.path, now.saturating_sub(self.added))
    }
}

/// Adds `pages` 2 MiB pages to the kernel's pool (`vm.nr_hugepages`); needs root. They stay there
/// until [`Reservation::release`], also when the process ends. When the kernel cannot find all of
/// them the pool is put back as it was.
pub fn reserve_2m(pages: u64) -> Result<Reservation, Error> {
    reserve_at(NR_HUGEPAGES, pages)
}

fn reserve_at(path: &str, pages: u64) -> Result<Reservation, Error> {
    let before = read_pages(path)?;
    write_pages(path, before + pages)?;
    let got = read_pages(path)?.saturating_sub(before);
    if got < pages {
        write_pages(path, before)?;
        return Err(Error::ReserveShort { wanted: pages, got });
    }
    Ok(Reservation {
        path: path.to_owned(),
        added: pages,
    })
}

fn read_pages(path: &str) -> Result<u64, Error> {
    let text = fs::read_to_string(Path::new(path)).map_err(|source| Error::Reserve {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let text = text.trim();
    text.parse().map_err(|_| Error::ReserveText {
        path: path.to_owned(),
        text: text.to_owned(),
    })
}

fn write_pages(path: &str, pages: u64) -> Result<(), Error> {
    fs::write(path, pages.to_string()).map_err(|source| Error::Reserve {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fill(region: &Region, byte: u8) {
        // SAFETY: the region is this test's own, and nothing else points into it.
        unsafe { region.as_ptr().write_bytes(byte, region.len()) };
    }

    fn first_and_last(region: &Region) -> (u8, u8) {
        // SAFETY: as in `fill`; both offsets lie in the region.
        unsafe { (*region.as_ptr(), *region.as_ptr().add(region.len() - 1)) }
    }

    #[test]
    fn plain_and_transparent_pages_can_be_written_to_the_end() {
        for (policy, kind) in [
            (PagePolicy::Plain, PageKind::Plain),
            (PagePolicy::Thp, PageKind::Thp),
        ] {
            let (region, report) = Backing::map(5 << 20, policy).unwrap();
            assert_eq!((report.kind, report.bytes), (kind, 5 << 20));
            assert_eq!(report.note, "");
            assert_eq!(first_and_last(&region), (0, 0));
            fill(&region, 7);
            assert_eq!(first_and_last(&region), (7, 7));
        }
    }

    #[test]
    fn transparent_hugepages_begin_at_their_alignment() {
        let (region, _) = Backing::map(2 << 20, PagePolicy::Thp).unwrap();
        assert_eq!(region.as_ptr() as usize % HUGE_2M_BYTES, 0);
    }

    #[test]
    fn what_cannot_be_had_is_passed_over_with_the_reason() {
        // More than any pool of this kind of machine, and untouched: only address space.
        let (_region, report) = Backing::map((12 << 30) + 4096, PagePolicy::Huge1G).unwrap();
        assert_eq!(report.kind, PageKind::Thp);
        assert!(
            report.note.contains("no 1 GiB hugepages"),
            "{}",
            report.note
        );
        assert!(
            report.note.contains("vm.nr_hugepages by 6145"),
            "{}",
            report.note
        );
    }

    #[test]
    fn a_size_beyond_all_memory_is_an_error() {
        let error = Backing::map(1 << 50, PagePolicy::Plain).unwrap_err();
        assert!(error.to_string().contains("lower `memory.ram`"), "{error}");
        let error = Backing::map(usize::MAX, PagePolicy::Auto).unwrap_err();
        assert!(matches!(error, Error::Map { .. }));
        assert!(matches!(
            Backing::map(0, PagePolicy::Auto),
            Err(Error::Empty)
        ));
    }

    #[test]
    fn pieces_of_a_region_do_not_overlap() {
        let (mut region, _) = Backing::map(12 << 10, PagePolicy::Plain).unwrap();
        let first = region.take(4 << 10).unwrap();
        let second = region.take(8 << 10).unwrap();
        assert!(region.is_empty() && region.take(1).is_none());
        fill(&first, 1);
        fill(&second, 2);
        assert_eq!(first_and_last(&first), (1, 1));
        assert_eq!(first_and_last(&second), (2, 2));
    }

    #[test]
    fn policies_have_the_words_of_the_configuration() {
        let words = ["auto", "1g", "2m", "thp", "plain"];
        let parsed: Vec<PagePolicy> = words.iter().map(|word| word.parse().unwrap()).collect();
        assert_eq!(parsed[0], PagePolicy::Auto);
        assert_eq!(parsed[4], PagePolicy::Plain);
        let error = "2mb".parse::<PagePolicy>().unwrap_err();
        assert!(error.to_string().contains("`2mb`"));
    }

    /// A file in place of the kernel's, which takes whatever is written.
    struct PoolFile(std::path::PathBuf);

    impl PoolFile {
        fn new(name: &str, text: &str) -> Self {
            let file = format!("hugepages-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(file);
            fs::write(&path, text).unwrap();
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for PoolFile {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap();
        }
    }

    #[test]
    fn a_reservation_adds_and_takes_back_only_its_own() {
        let pool = PoolFile::new("adds", "3\n");
        let reservation = reserve_at(pool.path(), 4).unwrap();
        assert_eq!(read_pages(pool.path()).unwrap(), 7);
        write_pages(pool.path(), 9).unwrap();
        reservation.release().unwrap();
        assert_eq!(read_pages(pool.path()).unwrap(), 5);
    }

    #[test]
    fn a_pool_that_is_not_a_number_or_not_there_is_named() {
        let pool = PoolFile::new("text", "many");
        let error = reserve_at(pool.path(), 1).unwrap_err().to_string();
        assert!(
            error.contains(pool.path()) && error.contains("many"),
            "{error}"
        );
        let error = reserve_at("/proc/popcache-no-such-file", 1).unwrap_err();
        assert!(error.to_string().contains("/proc/popcache-no-such-file"));
    }

    /// The kernel's own pool, where this test may change it.
    #[test]
    fn reserved_pages_back_a_mapping() {
        let reservation = match reserve_2m(4) {
            Ok(reservation) => reservation,
            Err(error) => return assert!(error.to_string().contains("vm.nr_hugepages"), "{error}"),
        };
        let (region, report) = Backing::map(8 << 20, PagePolicy::Huge2M).unwrap();
        assert_eq!((report.kind, report.note.as_str()), (PageKind::Huge2M, ""));
        fill(&region, 9);
        assert_eq!(first_and_last(&region), (9, 9));
        drop(region);
        reservation.release().unwrap();
    }
}
