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
        let start = (map.as_ptr() as usize).next_multiple_of(align) - map.as_ptr() as usize;
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
