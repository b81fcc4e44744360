//! What `POST /v1/purge`, `/v1/pin` and `/v1/unpin` are sent.

use serde::{Deserialize, Serialize};

use crate::node::PurgeOrder;

/// URLs, tags or prefixes in one request.
pub const MAX_NAMED: usize = 256;

pub(super) const PURGE_HINT: &str = concat!(
    r#"send one of {"url": "https://host/path"}, {"tag": "key"}, {"prefix": "https://host/path"} "#,
    r#"and {"all": true}; a list where there is a string purges several, "soft": true makes stale"#
);

pub(super) const PIN_HINT: &str = r#"send {"url": "https://host/path"}"#;

pub(super) const EXPLAIN_HINT: &str =
    r#"send {"url": "https://host/path", "method": "GET", "headers": ["Name: value"]}"#;

/// The body of a request to pin or unpin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    pub url: String,
}

/// The body of a purge, as it is written; exactly one of the first four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<OneOrMore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<OneOrMore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<OneOrMore>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub soft: bool,
}

/// `"a"` or `["a", "b"]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings was expected")]
pub enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl PurgeRequest {
    /// What is asked for.
    ///
    /// # Errors
    /// Nothing, several things or too many are.
    pub fn order(self) -> Result<PurgeOrder, String> {
        let everything = self.all.then_some(PurgeOrder::Everything);
        let named = [
            self.url.map(|urls| PurgeOrder::Urls(urls.list())),
            self.tag.map(|tags| PurgeOrder::Tags(tags.list())),
            self.prefix.map(|list| PurgeOrder::Prefixes(list.list())),
            everything,
        ];
        let mut named = named.into_iter().flatten();
        let (Some(order), None) = (named.next(), named.next()) else {
            return Err(
                "say what to purge: a url, a tag, a prefix, or all, one of them".to_owned(),
            );
        };
        match count(&order) {
            0 => Err("say what to purge: the list is empty".to_owned()),
            1..=MAX_NAMED => Ok(order),
            many => Err(format!(
                "{many} named; one request takes at most {MAX_NAMED}"
            )),
        }
    }
}

impl From<(PurgeOrder, bool)> for PurgeRequest {
    fn from((order, soft): (PurgeOrder, bool)) -> Self {
        let request = Self {
            soft,
            ..Self::default()
        };
        let more = |list| Some(OneOrMore::More(list));
        match order {
            PurgeOrder::Urls(urls) => Self {
                url: more(urls),
                ..request
            },
            PurgeOrder::Tags(tags) => Self {
                tag: more(tags),
                ..request
            },
            PurgeOrder::Prefixes(prefixes) => Self {
                prefix: more(prefixes),
                ..request
            },
            PurgeOrder::Everything => Self {
                all: true,
                ..request
            },
        }
    }
}

impl OneOrMore {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

fn count(order: &PurgeOrder) -> usize {
    match order {
        PurgeOrder::Urls(list) | PurgeOrder::Tags(list) | PurgeOrder::Prefixes(list) => list.len(),
        PurgeOrder::Everything => 1,
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Result<PurgeOrder, String> {
        let request: PurgeRequest =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        request.order()
    }

    #[test]
    fn each_kind_may_be_named_once_or_several_times() {
        let strings = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            order(r#"{"url": "u"}"#),
            Ok(PurgeOrder::Urls(strings(&["u"])))
        );
        let tags = order(r#"{"tag": ["a", "b"], "soft": true}"#);
        assert_eq!(tags, Ok(PurgeOrder::Tags(strings(&["a", "b"]))));
        let prefixes = order(r#"{"prefix": "p"}"#);
        assert_eq!(prefixes, Ok(PurgeOrder::Prefixes(strings(&["p"]))));
        assert_eq!(order(r#"{"all": true}"#), Ok(PurgeOrder::Everything));
    }

    #[test]
    fn what_is_not_one_thing_is_refused() {
        for (json, says) in [
            ("{}", "say what to purge"),
            (r#"{"soft": true}"#, "say what to purge"),
            (r#"{"url": "u", "tag": "t"}"#, "one of them"),
            (r#"{"tag": []}"#, "the list is empty"),
            (r#"{"tag": 5}"#, "a string or a list"),
            (r#"{"tags": "t"}"#, "unknown field"),
        ] {
            let why = order(json).expect_err(json);
            assert!(why.contains(says), "{json}: {why}");
        }
        let many = vec!["t".to_owned(); MAX_NAMED + 1];
        let request = PurgeRequest::from((PurgeOrder::Tags(many), false));
        assert!(
            request
                .order()
                .is_err_and(|why| why.contains("at most 256"))
        );
    }

    #[test]
    fn what_the_client_writes_the_server_reads() {
        for order in [
            PurgeOrder::Everything,
            PurgeOrder::Urls(vec!["https://edge.test/".to_owned()]),
            PurgeOrder::Tags(vec!["a".to_owned(), "b".to_owned()]),
            PurgeOrder::Prefixes(vec!["https://edge.test/a".to_owned()]),
        ] {
            let written = PurgeRequest::from((order.clone(), true));
            let text = serde_json::to_string(&written).expect("JSON");
            let read: PurgeRequest = serde_json::from_str(&text).expect("the same");
            assert!(read.soft);
            assert_eq!(read.order(), Ok(order));
        }
    }
}
