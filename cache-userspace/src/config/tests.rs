//! Bad configurations, each with the line and the words that an operator gets.

use std::path::Path;
use std::time::Duration;

use super::*;

fn machine() -> Machine {
    Machine {
        cpus: vec![0, 1],
        memory: 64 << 30,
    }
}

const ORIGIN: &str =
    "[[origin]]\nname = \"demo\"\nhosts = \"edge.test\"\nurl = \"http://127.0.0.1:8080\"\n";

fn parse_with_origin(text: &str) -> Result<Config, ConfigError> {
    let text = format!("{text}\n{ORIGIN}");
    parse(&text, Path::new("/etc/popcache/popcache.toml"), &machine())
}

fn problems(text: &str) -> Vec<Problem> {
    match parse(text, Path::new("popcache.toml"), &machine()) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems(),
    }
}

/// Each configuration (an origin is appended) has exactly one problem, on this line, and its text
/// holds these words.
#[test]
fn one_problem_each() {
    for (text, line, words) in [
        (
            "[server]\nlisen = \"1.2.3.4:443\"",
            2,
            "unknown key `lisen` in [server] (did you mean `listen`?)",
        ),
        ("[server]\nram = \"1 GiB\"", 2, "it belongs in [memory]"),
        (
            "[server]\nxyzzy = 1",
            2,
            "keys here are listen, listen_tcp, listen_clear, cores, name",
        ),
        ("[sever]\nname = \"a\"", 1, "did you mean [server]?"),
        ("listen = \"1.2.3.4:443\"", 1, "it belongs in [server]"),
        (
            "[cache]\nmax-object = \"1 MiB\"",
            2,
            "did you mean `max_object`?",
        ),
        (
            "[limits]\nmax_object = \"1 MiB\"",
            2,
            "it belongs in [cache]",
        ),
        ("server = 1", 1, "write [server] on a line of its own"),
        (
            "[server]\nlisten = 443",
            2,
            "expected an address such as \"192.0.2.1:443\", found the number 443",
        ),
        ("[server]\nlisten = \"1.2.3.4\"", 2, "the port is missing"),
        (
            "[server]\nlisten = \"edge.test:443\"",
            2,
            "is not an address",
        ),
        ("[server]\nlisten = \"1.2.3.4:0\"", 2, "port 0"),
        ("[server]\nlisten = []", 2, "the list is empty"),
        (
            "[server]\nlisten = [\n  \"1.2.3.4:443\",\n  \"bad\",\n]",
            4,
            "\"bad\" is not an address",
        ),
        (
            "[server]\nlisten = [\"1.2.3.4:443\", \"1.2.3.4:443\"]",
            2,
            "listed twice",
        ),
        ("[server]\ncores = [0, 0]", 2, "CPU 0 is listed twice"),
        (
            "[server]\ncores = [0, 7]",
            2,
            "CPU 7 is not usable here (usable: [0, 1])",
        ),
        ("[server]\ncores = []", 2, "name at least one CPU"),
        ("[server]\ncores = \"all\"", 2, "\"all\" is not one of auto"),
        ("[server]\ncores = [-1]", 2, "-1 is out of range"),
        (
            "[server]\nname = \"pop cache\"",
            2,
            "' ' cannot stand in a name",
        ),
        (
            "[packet]\nbackend = \"afxdp\"",
            2,
            "did you mean \"af_xdp\"?",
        ),
        ("[packet]\nbackend = \"af_xdp\"", 2, "needs `interface`"),
        (
            "[packet]\ninterface = \"a-name-that-is-too-long\"",
            2,
            "1 to 15 characters",
        ),
        (
            "[packet]\nqueue_depth = 5000",
            2,
            "5000 is not a power of two: the nearest is 8192",
        ),
        (
            "[packet]\nqueue_depth = 32",
            2,
            "must be between 64 and 32768",
        ),
        (
            "[packet]\nspin = 50",
            2,
            "a duration needs a unit: write \"50s\" or \"50ms\"",
        ),
        (
            "[packet]\nspin = \"50 sec\"",
            2,
            "\"sec\" is not a unit of time",
        ),
        (
            "[packet]\nspin = \"10s\"",
            2,
            "between \"0s\" and \"100ms\"",
        ),
        (
            "[tier]\ndevices = [\"a\", \"b\", \"a\"]",
            2,
            "/a is listed twice",
        ),
        ("[tier]\ndevice = \"a\"", 2, "did you mean `devices`?"),
        (
            "[tier]\nsize = \"64 MiB\"\ndevices = \"a\"",
            2,
            "less than 4 segments of 16 MiB for each of 2 shards (set size to 128 MiB or more)",
        ),
        ("[tier]\nsize = \"1 MiB\"", 2, "size must be between"),
        ("[tier]\nsegment = \"1500 KiB\"", 2, "a power of two"),
        (
            "[tier]\nwrite_limit = \"64 MiB\"",
            2,
            "is not a rate such as \"64 MiB/s\"",
        ),
        (
            "[tier]\ndrive_writes_per_day = \"one\"",
            2,
            "expected a number such as 1.0",
        ),
        ("[tier]\ndiscard = \"autom\"", 2, "did you mean \"auto\"?"),
        (
            "[tls]\ncertificate = \"a.pem\"",
            2,
            "certificate without `key`",
        ),
        ("[tls]\nkey = \"a.pem\"", 2, "key without `certificate`"),
        (
            "[tls]\nkey = \"a.pem\"\ncertificate = 5",
            3,
            "expected a file path, found the number 5",
        ),
        (
            "[tls]\nnames = \"https://edge.test\"",
            2,
            "leave out the scheme",
        ),
        ("[tls]\nnames = \"*\"", 2, "not the name of one host"),
        ("[memory]\nram = \"lots\"", 2, "\"lots\" is not a size"),
        ("[memory]\nram = \"1.5 GiB\"", 2, "write a whole number"),
        (
            "[memory]\nram = \"256 MiBs\"",
            2,
            "\"MiBs\" is not a unit of size",
        ),
        ("[memory]\nram = 1.5", 2, "found the number 1.5"),
        ("[memory]\nram = -5", 2, "out of range"),
        (
            "[memory]\nram = \"12 MiB\"",
            2,
            "12 MiB for 2 shards is 6 MiB each; a shard needs 8 MiB",
        ),
        (
            "[memory]\npages = \"4k\"",
            2,
            "is not one of auto, 1g, 2m, thp, plain",
        ),
        ("[memory]\nlarge_share = 2.0", 2, "between 0.1 and 0.9"),
        ("[memory]\nlarge_share = \"half\"", 2, "such as 0.5"),
        (
            "[memory]\npages = \"1g\"",
            2,
            "not whole pages of 1 GiB (set ram to 1 GiB",
        ),
        ("[cache]\nmax_object = 0", 2, "between \"1 B\""),
        (
            "[upstream]\nhttp2 = \"yes\"",
            2,
            "expected true or false, found the string \"yes\"",
        ),
        ("[upstream]\nmax_connections = 0", 2, "between 1 and 65536"),
        (
            "[upstream]\ntotal_timeout = \"1s\"",
            2,
            "total_timeout is shorter than first_byte_timeout",
        ),
        (
            "[admin]\ntcp = \"127.0.0.1:9900\"",
            2,
            "tcp without `token_file`",
        ),
        ("[admin]\nsocket = \"\"", 2, "a path cannot be empty"),
        ("[limits]\nretry_after = 99999", 2, "between 0 and 86400"),
        ("[limits]\nmax_waiter = 5", 2, "did you mean `max_waiters`?"),
        ("[log]\nlevel = \"inf\"", 2, "did you mean \"info\"?"),
        ("[log]\nlevel = \"cache_core=loud\"", 2, "not a log filter"),
    ] {
        let found = parse_with_origin(text)
            .err()
            .map_or(Vec::new(), |e| e.problems());
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert_eq!(found[0].line, Some(line), "{text}\n{}", found[0]);
        assert!(found[0].to_string().contains(words), "{text}\n{}", found[0]);
    }
}

#[test]
fn origins_are_checked_one_by_one_and_together() {
    let origin = |name: &str, hosts: &str, url: &str| {
        format!("[[origin]]\nname = \"{name}\"\nhosts = {hosts}\nurl = \"{url}\"\n")
    };
    let good = origin("a", "[\"one.test\"]", "http://127.0.0.1:1");
    for (text, line, words) in [
        (String::new(), None, "no [[origin]]"),
        (
            "[origin]\nname = \"a\"\n".to_owned(),
            Some(1),
            "double brackets",
        ),
        (
            format!("{good}[[origin]]\nname = \"b\"\nhosts = \"b.test\"\n"),
            Some(5),
            "[[origin]] needs `url`",
        ),
        (
            good.clone() + &origin("b", "\"ONE.test\"", "http://h"),
            Some(7),
            "already served by origin \"a\"",
        ),
        (
            good.clone() + &origin("a", "\"two.test\"", "http://h"),
            Some(5),
            "defined twice",
        ),
        (
            origin("a", "[\"x.test\", \"x.test\"]", "http://h"),
            Some(3),
            "listed twice",
        ),
        (
            origin("a", "\"*.test\"", "http://h"),
            Some(3),
            "a `*` stands alone",
        ),
        (
            origin("a", "\"x.test:443\"", "http://h"),
            Some(3),
            "leave out the port",
        ),
        (
            origin("a", "\"x.test\"", "ftp://h"),
            Some(4),
            "the scheme must be",
        ),
        (origin("a", "\"x.test\"", "10.0.0.1:80"), Some(4), "url:"),
        (
            origin("a", "\"x.test\"", "http://h/path"),
            Some(4),
            "a path here has no effect",
        ),
        (
            origin("a", "\"x.test\"", "http://u:p@h"),
            Some(4),
            "credentials",
        ),
        (
            format!("{good}ca = \"ca.pem\"\n"),
            Some(5),
            "the url is http",
        ),
        (
            format!("{good}hots = \"x\"\n"),
            Some(5),
            "did you mean `hosts`?",
        ),
    ] {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert_eq!(found[0].line, line, "{text}\n{}", found[0]);
        assert!(found[0].to_string().contains(words), "{text}\n{}", found[0]);
    }
}

#[test]
fn all_problems_come_together_in_the_order_of_the_file() {
    let text = "\
[server]
lisen = 1
name = \"\"
[memory]
ram = \"x\"
[nonsense]
[[origin]]
name = \"a\"
";
    let lines: Vec<_> = problems(text).iter().map(|p| p.line).collect();
    assert_eq!(
        lines,
        [Some(2), Some(3), Some(5), Some(6), Some(7), Some(7)]
    );
}

#[test]
fn columns_count_characters_and_point_at_the_culprit() {
    let found = problems(&format!(
        "[server]\nname = \"é\" # ü\n[memory]\n  ram = \"é\"\n{ORIGIN}"
    ));
    let places: Vec<_> = found.iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(Some(2), Some(8)), (Some(4), Some(9))]);
}

#[test]
fn syntax_errors_have_lines() {
    for (text, line) in [
        ("[server\nname = \"a\"\n", 1),
        ("[server]\nname = \n", 2),
        ("[server]\nname = \"a\nlisten = \"b\"\n", 2),
        ("[server]\nname = \"a\"\nname = \"b\"\n", 3),
        ("[server]\n[memory]\n[server]\n", 3),
    ] {
        let found = problems(text);
        assert_eq!(
            found.first().and_then(|p| p.line),
            Some(line),
            "{text}\n{found:#?}"
        );
    }
}

#[test]
fn the_error_lists_file_and_problems() {
    let error = parse("[server]\nlisen = 1\n", Path::new("p.toml"), &machine()).expect_err("bad");
    assert_eq!(
        error.to_string(),
        "p.toml has 2 problems:\n  \
         line 2, column 1: unknown key `lisen` in [server] (did you mean `listen`?)\n  \
         no [[origin]]: there is nothing to serve \
         (add one: [[origin]] with name, hosts and url)"
    );
}

#[test]
fn a_small_file_gives_the_documented_defaults() {
    let config = parse_with_origin("").expect("good");
    assert_eq!(
        config.server.listen,
        ["0.0.0.0:443".parse().expect("address")]
    );
    assert_eq!(config.server.cpus, [0, 1]);
    assert_eq!(config.packet.backend, Backend::Auto);
    assert_eq!(config.memory.ram, 256 << 20);
    assert_eq!(config.tls.names, ["edge.test"]);
    assert_eq!(config.admin.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.upstream.origins.len(), 1);
    assert_eq!(config.routes()[0].hosts, ["edge.test"]);
    assert_eq!(
        format!("{:?}", config.limits),
        format!("{:?}", cache_core::config::Limits::default())
    );
    assert!(
        config
            .settings
            .iter()
            .filter(|s| s.section != "origin")
            .all(|s| !matches!(s.source, explain::Source::Line(_)))
    );
}

#[test]
fn values_reach_where_they_are_used() {
    let config = parse_with_origin(
        "[server]\nlisten = \"[::1]:4433\"\ncores = [1]\nname = \"edge-7\"\n\
         [cache]\nmax_object = \"1 MiB\"\n[upstream]\nhttp2 = true\nmax_fetches = 7\n\
         [limits]\nmax_waiters = 9\nsend_window = 65536\n\
         [tls]\ncertificate = \"tls/c.pem\"\nkey = \"/k.pem\"\n",
    )
    .expect("good");
    assert_eq!(config.server.cpus, [1]);
    assert_eq!(config.limits.max_object, 1 << 20);
    assert_eq!(config.limits.max_waiters, 9);
    assert_eq!(config.limits.send_window, 65_536);
    assert_eq!(config.upstream.node_name, "edge-7");
    assert_eq!(config.upstream.max_fetches, 7);
    assert_eq!(
        config.upstream.origins[0].http2,
        crate::upstream::Http2Mode::Negotiate
    );
    let files = config.tls.files.as_ref().expect("files");
    assert_eq!(files.certificate, Path::new("/etc/popcache/tls/c.pem"));
    assert_eq!(files.key, Path::new("/k.pem"));
    assert_eq!(config.line_of("limits", "max_waiters"), Some(11));
    assert_eq!(config.line_of("limits", "max_flights"), None);
}

#[test]
fn classes_have_paths_and_a_budget() {
    let class = |name: &str, paths: &str, ram: &str| {
        format!("[[class]]\nname = \"{name}\"\npaths = {paths}\nram = \"{ram}\"\n")
    };
    let two = class("a", "[\"/a/\", \"/b/\"]", "1 MiB") + &class("c", "\"/c/\"", "0 B");
    let config = parse_with_origin(&two).expect("good");
    assert_eq!(config.class_bytes, [1 << 20, 0]);
    let class = |key: &[u8]| {
        let routes = &config.cache.routes;
        routes.rules(routes.find(key, b"GET")).class
    };
    assert_eq!([class(b"e/b/1"), class(b"e/c/1"), class(b"e/d")], [1, 2, 0]);
    let class = |name: &str, paths: &str, ram: &str| {
        format!("[[class]]\nname = \"{name}\"\npaths = {paths}\nram = \"{ram}\"\n")
    };
    for (text, said) in [
        (class("a", "\"a/\"", "1 MiB"), "does not begin with `/`"),
        (two.clone() + &class("a", "\"/d\"", "1 B"), "defined twice"),
        ("[[class]]\npaths = \"/a\"\n".to_owned(), "needs `name`"),
    ] {
        let error = parse_with_origin(&text).expect_err("refused").to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn routes_have_the_rules_of_their_class_with_their_own_changes() {
    let text = "[[class]]\nname = \"mine\"\nram = \"1 MiB\"\ndefault_ttl = \"9s\"\nmax_ttl = \"1m\"\n\
        [[route]]\nname = \"a\"\nhosts = \"*.e.test\"\nextensions = [\"m3u8\"]\nclass = \"mine\"\nmax_ttl = \"2m\"\n\
        query_drop = [\"utm_*\"]\nuser_agents = [\"mobile: Android|iPhone\"]\n\
        [[route]]\nname = \"b\"\npaths = \"/b/*/c\"\nclass = \"segment\"\nmethods = \"GET\"\n";
    let routes = parse_with_origin(text).expect("good").cache.routes;
    let rules = |key: &[u8]| routes.rules(routes.find(key, b"GET"));
    let a = rules(b"x.e.test/l.m3u8");
    assert_eq!((a.class, a.class_name.as_str()), (1, "mine"));
    assert_eq!(a.default_ttl, Some(Duration::from_secs(9)));
    assert_eq!(a.max_ttl, Duration::from_secs(120));
    assert_eq!(a.key.user_agents[0].words, ["Android", "iPhone"]);
    let key = routes.key_of_url("https://x.e.test/l.m3u8?utm_id=1&b=2");
    assert_eq!(key, Ok(b"x.e.test/l.m3u8?b=2".to_vec()));
    let b = rules(b"y/b/1/c");
    assert_eq!((b.class, b.class_name.as_str()), (0, "segment"));
    assert_eq!(rules(b"y/").class_name, "other");
}

#[test]
fn what_a_route_cannot_mean_is_refused() {
    let route = |more: &str| format!("[[route]]\nname = \"a\"\n{more}\n");
    for (text, said) in [
        (route("class = \"segmnt\""), "did you mean \"segment\"?"),
        (route("class = \"nothing\""), "add a [[class]]"),
        (
            route("query_keep = \"a\"\nquery_drop = \"b\""),
            "set one of the two",
        ),
        (
            route("min_ttl = \"2s\"\nmax_ttl = \"1s\""),
            "longer than max_ttl",
        ),
        (route("strip_segments = \"*\""), "would strip every segment"),
        (route("strip_segments = \"a/b\""), "between two of them"),
        (route("extensions = \".m3u8\""), "'.' cannot stand in"),
        (route("encodings = \"deflate\""), "none of br, zstd, gzip"),
        (route("accept = \"image\""), "a media type"),
        (route("hosts = \"a.*.test\""), "`*.` and its end"),
        (route("user_agents = \"mobile\""), "mobile: Android|iPhone"),
        (route("methods = \"get\""), "cannot stand in a method"),
        (route("paths = \"x\""), "does not begin with `/`"),
        (route("ttl = \"1s\""), "unknown key `ttl`"),
    ] {
        let error = parse_with_origin(&text).expect_err("refused").to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn every_limit_of_the_core_has_a_key() {
    let shown = format!("{:#?}", cache_core::config::Limits::default());
    let config = parse_with_origin("").expect("good");
    for line in shown.lines().filter(|line| line.starts_with("    ")) {
        let field = line.trim().split(':').next().unwrap_or_default();
        let section = if field == "max_object" {
            "cache"
        } else {
            "limits"
        };
        assert!(
            config
                .settings
                .iter()
                .any(|s| s.section == section && s.key == field),
            "{field} cannot be configured"
        );
    }
}

#[test]
fn the_explanation_is_a_configuration_with_the_same_effect() {
    let config =
        parse_with_origin("[memory]\nram = \"1 GiB\"\n[packet]\nspin = \"1ms\"").expect("good");
    let text = explain::text(&config);
    let again =
        parse(&text, Path::new("/etc/popcache/popcache.toml"), &machine()).expect("reads back");
    let values = |c: &Config| {
        c.settings
            .iter()
            .map(|s| (s.section, s.key, s.value.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&config));
    assert!(text.contains("line 2: bytes of all arenas"), "{text}");
}

/// `deploy/popcache.toml` names every key; what it shows as a default is the default.
#[test]
fn the_shipped_file_is_complete_and_true() {
    let shipped = include_str!("../../../deploy/popcache.toml");
    let path = Path::new("/etc/popcache/popcache.toml");
    parse(shipped, path, &machine()).expect("parses as shipped");

    let is_setting = |line: &&str| {
        let rest = line.strip_prefix('#').unwrap_or(line);
        rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ")
    };
    let all: Vec<&str> = shipped
        .lines()
        .map(|line| {
            if is_setting(&line) {
                line.trim_start_matches('#')
            } else {
                line
            }
        })
        .collect();
    let everything = parse(&all.join("\n"), path, &machine()).expect("parses with every key set");
    let defaults = parse_with_origin("").expect("good");
    for setting in &everything.settings {
        let name = format!("[{}] {}", setting.section, setting.key);
        assert!(
            matches!(setting.source, explain::Source::Line(_)),
            "{name} is not in the file"
        );
        let default = defaults
            .settings
            .iter()
            .find(|d| (d.section, d.key) == (setting.section, setting.key))
            .expect("same keys");
        if default.source == explain::Source::Default {
            assert_eq!(setting.value, default.value, "{name}");
        }
    }
}

#[test]
fn warnings_name_what_is_probably_not_meant() {
    let config = parse_with_origin(
        "[admin]\ntcp = \"192.0.2.1:9900\"\ntoken_file = \"t\"\n[cache]\nmax_object = \"200 MiB\"",
    )
    .expect("good");
    for words in [
        "self-signed",
        "no XDP program",
        "unencrypted",
        "objects up to about 32 MiB",
    ] {
        assert!(
            config.warnings.iter().any(|w| w.contains(words)),
            "{words}: {:?}",
            config.warnings
        );
    }
    let small = Machine {
        cpus: vec![0, 1],
        memory: 1 << 30,
    };
    let config = parse(ORIGIN, Path::new("p.toml"), &small).expect("good");
    assert!(
        config
            .warnings
            .iter()
            .any(|w| w.contains("at every bound at once"))
    );
}

#[test]
fn tcp_counts_as_memory_where_it_is_listened_for() {
    let of = |text: &str| {
        let config = parse_with_origin(text).expect("good");
        (
            config.server.cpus.len() as u64,
            explain::MemoryUse::of(&config),
        )
    };
    let (shards, with) = of("[tcp]\nmax_connections = 100");
    let (_, without) = of("[server]\nlisten_tcp = []\n[tcp]\nmax_connections = 100");
    assert_eq!(with.tcp_connections, shards * 100 * (128 << 10));
    assert_eq!(without.tcp_connections, 0);
    assert_eq!(with.total() - without.total(), with.tcp_connections);
    let (_, clear) = of("[server]\nlisten_tcp = []\nlisten_clear = \"127.0.0.1:80\"");
    assert!(clear.tcp_connections > 0);
}

#[test]
fn load_looks_at_the_files_that_are_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("popcache.toml");
    let token = dir.path().join("token");
    std::fs::write(&token, "a-token-that-is-long-enough").expect("write");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let text = format!(
        "[admin]\ntcp = \"127.0.0.1:9900\"\ntoken_file = \"token\"\n\
         [tls]\ncertificate = \"none.pem\"\nkey = \"none.pem\"\n{ORIGIN}"
    );
    std::fs::write(&path, text).expect("write");
    let found = load(&path, &machine()).expect_err("bad files").problems();
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 2, "{shown:?}");
    assert!(
        shown[0].starts_with("line 3: token_file:") && shown[0].contains("chmod 600"),
        "{shown:?}"
    );
    assert!(
        shown[1].starts_with("line 5:") && shown[1].contains("none.pem"),
        "{shown:?}"
    );

    let missing = load(&dir.path().join("missing.toml"), &machine()).expect_err("no file");
    assert!(missing.to_string().contains("cannot read"), "{missing}");
}
