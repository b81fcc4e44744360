//! The classes of a video platform's objects, with what holds for each unless the operator says
//! otherwise. A request is of one of them only where a route says so.
//!
//! | class | what changes how fast | urgency |
//! |---|---|---|
//! | metadata | status and discovery JSON, polled by every client: seconds | 2 |
//! | playlist | lists of segments: once a segment while live | 1: a player stalls without it |
//! | segment | never, but is asked for before it exists | 3, as of everything else |
//! | thumbnail | a frame of a live picture: minutes | 4 |
//! | emote | pictures of a chat: weeks | 2: small, and waited for by a reader's eye |

use std::time::Duration;

use super::key_rules::KeyRules;
use super::routes::{NO_BOUND, Rules};

/// Names of the classes that are known without being configured.
pub const NAMES: [&str; 5] = ["metadata", "playlist", "segment", "thumbnail", "emote"];

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// JSON and playlists repeat themselves: a fifth of the bytes or less is left.
fn text() -> Rules {
    Rules {
        compress: true,
        key: KeyRules {
            codings: vec!["br".to_owned(), "gzip".to_owned()],
            ..KeyRules::default()
        },
        ..Rules::default()
    }
}

/// What holds for a class of this name: of its own, or what holds for every other.
pub fn rules(name: &str) -> Rules {
    let rules = match name {
        // Polled by all clients every few seconds: a second or two of age is invisible, and saves
        // nearly every question. An outage of the origin is bridged for a minute.
        "metadata" => Rules {
            default_ttl: Some(seconds(2)),
            negative_ttl: Some(seconds(1)),
            error_ttl: seconds(1),
            negative_max: seconds(10),
            stale_while_revalidate: seconds(5),
            stale_if_error: Some(seconds(60)),
            urgency: 2,
            max_variants: 16,
            ..text()
        },
        // Older than half a segment it stalls players, so the window is short; an ended stream's
        // last list is better than none, for as long as players have buffers.
        "playlist" => Rules {
            default_ttl: Some(seconds(1)),
            negative_ttl: Some(seconds(1)),
            error_ttl: seconds(1),
            negative_max: seconds(2),
            stale_while_revalidate: seconds(1),
            stale_if_error: Some(seconds(10)),
            urgency: 1,
            max_variants: 8,
            ..text()
        },
        // Never changes: kept for an hour, in which a live one has long been forgotten. Players ask
        // for it before it is there, so a 404 is forgotten at once. One coding, few variants.
        "segment" => Rules {
            default_ttl: Some(seconds(3600)),
            negative_ttl: Some(seconds(1)),
            error_ttl: seconds(1),
            negative_max: seconds(2),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Some(seconds(3600)),
            max_variants: 4,
            ..Rules::default()
        },
        // A new picture every few minutes under one name; an old one harms nobody.
        "thumbnail" => Rules {
            default_ttl: Some(seconds(60)),
            negative_ttl: Some(seconds(10)),
            error_ttl: seconds(1),
            negative_max: seconds(60),
            stale_while_revalidate: seconds(300),
            stale_if_error: Some(seconds(86_400)),
            urgency: 4,
            max_variants: 16,
            ..Rules::default()
        },
        // Names change with content. A missing one stays missing for a while, and is asked for by a
        // whole chat at once.
        "emote" => Rules {
            default_ttl: Some(seconds(86_400)),
            negative_ttl: Some(seconds(60)),
            error_ttl: seconds(2),
            negative_max: seconds(300),
            stale_while_revalidate: seconds(86_400),
            stale_if_error: Some(seconds(604_800)),
            urgency: 2,
            max_variants: 16,
            ..Rules::default()
        },
        _ => Rules {
            negative_max: NO_BOUND,
            ..Rules::default()
        },
    };
    Rules {
        class_name: name.to_owned(),
        ..rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_bounds_its_errors_and_its_windows() {
        for name in NAMES {
            let rules = rules(name);
            assert_eq!(rules.class_name, name);
            let ttl = rules.default_ttl.unwrap();
            assert!(rules.negative_max <= seconds(300) && rules.error_ttl <= rules.negative_max);
            assert!(rules.negative_ttl.is_some_and(|negative| negative <= ttl));
            assert!(rules.stale_if_error.unwrap() >= rules.stale_while_revalidate);
        }
        assert!(rules("emote").urgency < rules("segment").urgency);
        let other = rules("mine");
        assert_eq!((other.default_ttl, other.error_ttl), (None, Duration::ZERO));
    }
}
