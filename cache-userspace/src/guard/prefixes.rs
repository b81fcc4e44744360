//! Prefixes as operators write them, and feeds: files with one prefix a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cache_ebpf::lists::{MIN_LENGTH_V4, MIN_LENGTH_V6, Prefix, PrefixError};

/// Longest line of a feed, in bytes.
const MAX_LINE: u64 = 1 << 10;

/// Prefixes in one feed.
pub const MAX_FEED: usize = 4 << 20;

/// Broken lines of a feed that are told.
const MAX_TOLD: usize = 10;

/// Reads `192.0.2.0/24`, `2001:db8::/32` or a single address.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse(text: &str) -> Result<Prefix, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!(
            "{text:?} is no prefix: write 192.0.2.0/24, 2001:db8::/32 or a single address"
        ));
    };
    let whole = if address.is_ipv6() { 128 } else { 32 };
    let length = match length {
        None => whole,
        Some(length) => length
            .parse()
            .map_err(|_| format!("{text:?}: {length:?} is no prefix length"))?,
    };
    Prefix::new(address.into(), length).map_err(|error| {
        let why = explain(error, address.is_ipv6());
        format!("{text:?}: {why}")
    })
}

fn explain(error: PrefixError, v6: bool) -> String {
    match error {
        PrefixError::TooLong => "longer than an address".to_owned(),
        PrefixError::TooShort if v6 => format!("shorter than /{MIN_LENGTH_V6} is not taken"),
        PrefixError::TooShort => format!("shorter than /{MIN_LENGTH_V4} is not taken"),
        PrefixError::BetweenHosts => {
            "IPv6 is listed by /64 or shorter, or by single address".to_owned()
        }
        PrefixError::HostBits => "bits behind the prefix are set".to_owned(),
    }
}

/// A prefix as it is written, a single address without its length.
pub fn show(prefix: &Prefix) -> String {
    let (source, length) = (prefix.source(), prefix.length());
    let address = IpAddr::from(source);
    match (source.v6, length) {
        (true, 128) | (false, 32) => address.to_string(),
        _ => format!("{address}/{length}"),
    }
}

/// Why a feed was not taken: no prefix of it is.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} has {count} broken lines, and none of it is taken: {}", path.display(), told.join("; "))]
    Broken {
        path: PathBuf,
        count: usize,
        told: Vec<String>,
    },
    #[error("{} has more than {MAX_FEED} prefixes", path.display())]
    TooLong { path: PathBuf },
}

/// Reads one prefix a line. Empty lines are skipped, and everything from a `#` on.
///
/// # Errors
/// See [`FeedError`]; the first ten broken lines are told.
pub fn read_feed(path: &Path) -> Result<Vec<Prefix>, FeedError> {
    let unreadable = |source| FeedError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut prefixes, mut line) = (Vec::new(), String::new());
    let (mut count, mut told) = (0, Vec::new());
    for number in 1.. {
        line.clear();
        let read = file.by_ref().take(MAX_LINE).read_line(&mut line);
        if read.map_err(unreadable)? == 0 {
            break;
        }
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        match parse(content) {
            Ok(prefix) if prefixes.len() < MAX_FEED => prefixes.push(prefix),
            Ok(_) => {
                let path = path.to_owned();
                return Err(FeedError::TooLong { path });
            }
            Err(why) => {
                count += 1;
                if told.len() < MAX_TOLD {
                    told.push(format!("line {number}: {why}"));
                }
            }
        }
    }
    if count == 0 {
        return Ok(prefixes);
    }
    let path = path.to_owned();
    Err(FeedError::Broken { path, count, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_was_written() {
        for text in [
            "192.0.2.0/24",
            "192.0.2.7",
            "10.0.0.0/8",
            "2001:db8::/32",
            "2001:db8::1",
        ] {
            assert_eq!(show(&parse(text).expect(text)), text);
        }
        assert_eq!(show(&parse("192.0.2.7/32").expect("a host")), "192.0.2.7");
    }

    #[test]
    fn what_cannot_be_listed_says_why() {
        for (text, says) in [
            ("nonsense", "is no prefix"),
            ("192.0.2.0/x", "no prefix length"),
            ("192.0.2.0/33", "longer than an address"),
            ("0.0.0.0/0", "shorter than /8"),
            ("2000::/3", "shorter than /19"),
            ("2001:db8::/96", "by /64 or shorter"),
            ("192.0.2.1/24", "bits behind the prefix"),
        ] {
            let why = parse(text).expect_err(text);
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    fn feed(text: &str) -> Result<Vec<Prefix>, FeedError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        read_feed(file.path())
    }

    #[test]
    fn a_feed_has_one_prefix_a_line() {
        let prefixes = feed("# bad ones\n192.0.2.0/24\n\n  2001:db8::1 # why\r\n").expect("good");
        let shown: Vec<_> = prefixes.iter().map(show).collect();
        assert_eq!(shown, ["192.0.2.0/24", "2001:db8::1"]);
    }

    #[test]
    fn a_broken_feed_is_refused_with_its_lines() {
        let why = feed("192.0.2.0/24\n192.0.2.0/2x\nabc\n").expect_err("broken");
        let why = why.to_string();
        assert!(why.contains("2 broken lines"), "{why}");
        assert!(
            why.contains("line 2: ") && why.contains("line 3: "),
            "{why}"
        );
        let many = "x\n".repeat(50);
        let why = feed(&many).expect_err("broken").to_string();
        assert!(
            why.contains("50 broken lines") && !why.contains("line 11"),
            "{why}"
        );
        let missing = read_feed(Path::new("/nonexistent/feed")).expect_err("missing");
        assert!(missing.to_string().contains("/nonexistent/feed"));
    }
}
