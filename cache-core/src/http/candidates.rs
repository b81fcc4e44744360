//! Which routes may fit a request, by a few of its bytes: those that are left are compared in full.
//!
//! ```text
//!  /live/a.m3u8   host[0]   path[1]='l'   path[2]='i'   last='8'
//!                    |          |             |            |
//!                  set of  AND set of    AND set of   AND set of      routes, a bit each
//! ```
//! A route is in the set of every byte that its conditions leave open, so that no route that fits is
//! missing. The order of routes is that of the bits.

use super::pattern::Pattern;
use super::routes::Route;

/// Bytes that are looked at.
const PLACES: usize = 4;

/// Where there is no such byte.
const NONE: usize = 256;

/// For each place and byte a set of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    /// Words of a set.
    words: usize,
    /// By place, then byte, then word.
    sets: Vec<u64>,
}

impl Candidates {
    pub(super) fn new(routes: &[Route]) -> Self {
        let words = routes.len().div_ceil(64);
        let mut all = Self {
            words,
            sets: vec![0; PLACES * (NONE + 1) * words],
        };
        for (number, route) in routes.iter().enumerate() {
            let open: [Vec<usize>; PLACES] = [
                of_hosts(&route.hosts),
                of_paths(&route.paths, 1),
                of_paths(&route.paths, 2),
                of_extensions(&route.extensions),
            ];
            for (place, bytes) in open.iter().enumerate() {
                for &byte in bytes {
                    let at = all.at(place, byte) + number / 64;
                    all.sets[at] |= 1 << (number % 64);
                }
            }
        }
        all
    }

    fn at(&self, place: usize, byte: usize) -> usize {
        (place * (NONE + 1) + byte) * self.words
    }

    /// The first of the routes that may fit for which `holds`.
    pub(super) fn first(
        &self,
        host: &[u8],
        path: &[u8],
        mut holds: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let byte = |of: Option<&u8>| of.map_or(NONE, |&b| usize::from(b.to_ascii_lowercase()));
        let path_byte = |at| path.get(at).map_or(NONE, |&b| usize::from(b));
        let starts = [
            self.at(0, byte(host.first())),
            self.at(1, path_byte(1)),
            self.at(2, path_byte(2)),
            self.at(3, byte(path.last())),
        ];
        for word in 0..self.words {
            let mut left = starts
                .iter()
                .fold(u64::MAX, |set, start| set & self.sets[start + word]);
            while left != 0 {
                let number = word * 64 + left.trailing_zeros() as usize;
                if holds(number) {
                    return Some(number);
                }
                left &= left - 1;
            }
        }
        None
    }
}

fn any() -> Vec<usize> {
    (0..=NONE).collect()
}

fn of_hosts(hosts: &[String]) -> Vec<usize> {
    let first = |host: &String| host.bytes().next().filter(|&b| b != b'*');
    let bytes: Option<Vec<_>> = hosts.iter().map(first).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => bytes.into_iter().map(usize::from).collect(),
        _ => any(),
    }
}

/// Bytes that stand at an offset of every path that one of the patterns begins.
fn of_paths(paths: &[Pattern], at: usize) -> Vec<usize> {
    let byte = |pattern: &Pattern| {
        let text = pattern.text().as_bytes();
        let fixed = text.iter().position(|&b| b == b'*').unwrap_or(text.len());
        text[..fixed].get(at).map(|&b| usize::from(b))
    };
    let bytes: Option<Vec<_>> = paths.iter().map(byte).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => bytes,
        _ => any(),
    }
}

/// The last byte of a path that ends so.
fn of_extensions(extensions: &[String]) -> Vec<usize> {
    match extensions {
        [] => any(),
        some => {
            let last = some.iter().filter_map(|extension| extension.bytes().last());
            last.map(|b| usize::from(b.to_ascii_lowercase())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::Rules;
    use proptest::prelude::*;

    fn route(host: &str, path: &str, extension: &str) -> Route {
        let some = |text: &str| match text {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        };
        Route {
            name: "r".to_owned(),
            hosts: some(host),
            paths: Pattern::new(path).into_iter().collect(),
            extensions: some(extension),
            methods: Vec::new(),
            rules: Rules::default(),
        }
    }

    #[test]
    fn few_of_many_routes_are_compared() {
        let routes: Vec<_> = (0..50)
            .map(|n| route("", &format!("/{}{n}/", (b'a' + n % 26) as char), ""))
            .chain([route("", "/", "")])
            .collect();
        let candidates = Candidates::new(&routes);
        let mut compared = 0;
        let found = candidates.first(b"e.test", b"/c2/x", |number| {
            compared += 1;
            routes[number].holds(b"e.test", b"/c2/x", b"GET")
        });
        assert_eq!((found, compared), (Some(2), 1));
        let mut compared = 0;
        candidates.first(b"e.test", b"/~", |_| {
            compared += 1;
            false
        });
        assert_eq!(compared, 1, "the one for every path");
    }

    proptest! {
        /// No more than a filter: what is found is what comparing all of them finds.
        #[test]
        fn the_first_route_that_fits_is_found(
            routes in prop::collection::vec(
                ("(a\\.t|b\\.t|\\*\\.t|)", "(/|/a|/ab|/b/|/\\*b|\\*a|)", "(|a|B|ab)"),
                0..80,
            ),
            host in "[ab]\\.t",
            path in "/[abAB]{0,3}(\\.[abAB]{1,2})?",
        ) {
            let routes: Vec<_> = routes.iter().map(|(h, p, e)| route(h, p, e)).collect();
            let holds = |number: usize| {
                let (host, path): (&[u8], &[u8]) = (host.as_bytes(), path.as_bytes());
                routes[number].holds(host, path, b"GET")
            };
            let found = Candidates::new(&routes).first(host.as_bytes(), path.as_bytes(), holds);
            prop_assert_eq!(found, (0..routes.len()).find(|&number| holds(number)));
        }
    }
}
