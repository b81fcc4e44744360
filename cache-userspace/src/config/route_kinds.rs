//! Kinds of values of `[[class]]` and `[[route]]`.

use cache_core::http::key_rules::UserAgents;
use cache_core::http::pattern::Pattern;
use http::Method;

use super::units::{Invalid, Kind, Node, one_or_more, quote, show_list, text};

fn show_patterns(patterns: &[Pattern]) -> String {
    show_list(patterns, |pattern| quote(pattern.text()))
}

fn show_texts(texts: &[String]) -> String {
    show_list(texts, |text| quote(text))
}

fn pattern(node: &Node<'_>, found: &str) -> Result<Pattern, Invalid> {
    Pattern::new(found).ok_or_else(|| {
        let most = Pattern::MAX;
        Invalid::new(node, format!("a pattern has 1 to {most} bytes"))
    })
}

/// Text of which every character may be one of these.
fn made_of(node: &Node<'_>, what: &str, may: fn(char) -> bool) -> Result<String, Invalid> {
    let found = text(node, what)?;
    match found.chars().find(|&c| !may(c)) {
        _ if found.is_empty() => Err(Invalid::expected(what, node)),
        None => Ok(found.to_owned()),
        Some(c) => Err(Invalid::new(node, format!("{c:?} cannot stand in {what}"))),
    }
}

pub const PATH_PATTERNS: Kind<Vec<Pattern>> = Kind {
    parse: |node| one_or_more(node, "the beginning of a URL path", path_pattern),
    show: |patterns| show_patterns(patterns),
};

fn path_pattern(node: &Node<'_>) -> Result<Pattern, Invalid> {
    match text(node, "the beginning of a URL path such as \"/emotes/\"")? {
        path if path.starts_with(['/', '*']) => pattern(node, path),
        path => Err(Invalid::new(
            node,
            format!("{path:?} does not begin with `/`, as the paths of URLs do"),
        )),
    }
}

pub const SEGMENTS: Kind<Vec<Pattern>> = Kind {
    parse: |node| one_or_more(node, "a segment of a path", segment),
    show: |patterns| show_patterns(patterns),
};

fn segment(node: &Node<'_>) -> Result<Pattern, Invalid> {
    match text(node, "a segment of a path such as \"token=*\"")? {
        found if found.contains('/') => Err(Invalid::new(
            node,
            format!("{found:?} has a `/`: give what stands between two of them"),
        )),
        found if found.bytes().all(|b| b == b'*') => Err(Invalid::new(
            node,
            format!("{found:?} would strip every segment"),
        )),
        found => pattern(node, found),
    }
}

pub const PARAMETERS: Kind<Vec<Pattern>> = Kind {
    parse: |node| {
        one_or_more(node, "a parameter's name", |node| {
            pattern(node, text(node, "a parameter's name such as \"utm_*\"")?)
        })
    },
    show: |patterns| show_patterns(patterns),
};

pub const HOST_PATTERNS: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "a host name", host_pattern),
    show: |texts| show_texts(texts),
};

fn host_pattern(node: &Node<'_>) -> Result<String, Invalid> {
    let what = "a host name";
    let may = |c: char| c.is_ascii_alphanumeric() || "-._*[]:".contains(c);
    let found = made_of(node, what, may)?.to_ascii_lowercase();
    let rest = found.strip_prefix("*.").unwrap_or(&found);
    if rest.contains('*') || (rest.contains(':') && !rest.starts_with('[')) {
        let message = format!("{found:?}: write a host name without port, or `*.` and its end");
        return Err(Invalid::new(node, message));
    }
    Ok(found)
}

pub const EXTENSIONS: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "an extension", extension),
    show: |texts| show_texts(texts),
};

fn extension(node: &Node<'_>) -> Result<String, Invalid> {
    let may = |c: char| c.is_ascii_alphanumeric() || "-_~".contains(c);
    made_of(node, "an extension such as \"m3u8\", without its dot", may)
}

pub const METHODS: Kind<Vec<Method>> = Kind {
    parse: |node| one_or_more(node, "a method", method),
    show: |methods| show_list(methods, |method| quote(method.as_str())),
};

fn method(node: &Node<'_>) -> Result<Method, Invalid> {
    let may = |c: char| c.is_ascii_uppercase() || c == '-';
    let found = made_of(node, "a method such as \"GET\"", may)?;
    Method::from_bytes(found.as_bytes()).map_err(|_| Invalid::expected("a method", node))
}

pub const MEDIA_TYPES: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "a media type", media_type),
    show: |texts| show_texts(texts),
};

fn media_type(node: &Node<'_>) -> Result<String, Invalid> {
    let what = "a media type such as \"image/avif\"";
    let may = |c: char| c.is_ascii_alphanumeric() || "!#$&^_.+-/".contains(c);
    let found = made_of(node, what, may)?;
    match found.split('/').count() {
        2 => Ok(found),
        _ => Err(Invalid::expected(what, node)),
    }
}

const KNOWN_CODINGS: [&str; 3] = ["br", "zstd", "gzip"];

pub const CODINGS: Kind<Vec<String>> = Kind {
    parse: |node| one_or_more(node, "a content coding", coding),
    show: |texts| show_texts(texts),
};

fn coding(node: &Node<'_>) -> Result<String, Invalid> {
    let found = text(node, "a content coding")?;
    match KNOWN_CODINGS.contains(&found) {
        true => Ok(found.to_owned()),
        false => Err(Invalid::new(
            node,
            format!("{found:?} is none of br, zstd, gzip"),
        )),
    }
}

pub const USER_AGENTS: Kind<Vec<UserAgents>> = Kind {
    parse: |node| one_or_more(node, "a bucket of User-Agents", user_agents),
    show: |buckets| {
        show_list(buckets, |bucket| {
            quote(&format!("{}: {}", bucket.name, bucket.words.join("|")))
        })
    },
};

fn user_agents(node: &Node<'_>) -> Result<UserAgents, Invalid> {
    let what = "a bucket such as \"mobile: Android|iPhone\"";
    let found = text(node, what)?;
    let Some((name, words)) = found.split_once(':') else {
        return Err(Invalid::expected(what, node));
    };
    let words: Vec<String> = words.trim().split('|').map(str::to_owned).collect();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !plain || words.iter().any(String::is_empty) {
        return Err(Invalid::expected(what, node));
    }
    Ok(UserAgents {
        name: name.to_owned(),
        words,
    })
}
