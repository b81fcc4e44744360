//! From the file's sections to the typed configuration.
//!
//! One function per section, in the order of the file. Each setting stands with its default, its
//! bounds and its reason in one place.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache_core::config::{Caching, Limits, Role};
use cache_core::purge::{DEFAULT_PREFIXES, DEFAULT_SLOTS, MAX_PREFIXES, MAX_SLOTS};
use cache_core::store::StoreConfig;
use hugepages::PagePolicy;

use super::kinds::{
    BACKEND, CLIENT_CACHE_CONTROL, CORES, Cores, DEFAULT_SOCKET, LOG_LEVEL, MAX_SHARDS,
    MIN_SHARD_RAM, PAGES, POWER_OF_TWO, ROLE, SECCOMP, SHARE, SIZE_U32, SIZE_USIZE, SOCKET_PATH,
    XDP_MODE,
};
use super::raw::{Problem, Reader, Section};
use super::typed::{
    AdminConfig, Backend, CompressConfig, Config, LogConfig, MemoryConfig, OriginConfig,
    PacketConfig, ServerConfig, TlsConfig, TlsFiles, XdpMode,
};
use super::units::{
    ADDRESS, ADDRESSES, ANY_ADDRESSES, BOOL, COUNT, COUNT_U32, DURATION, FIELD_NAMES, INTERFACE,
    NAMES, PATH, SIZE, TOKEN, show_list,
};
use super::{Machine, checks, origins, routes};
use crate::privileges::Seccomp;
use crate::upstream::UpstreamConfig;

/// Reads every section, then checks them against each other.
pub(super) fn read(
    mut reader: Reader<'_, '_>,
    path: &Path,
    machine: &Machine,
) -> Result<Config, Vec<Problem>> {
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    let server = reader.section("server", |s| read_server(s, machine));
    let packet = reader.section("packet", read_packet);
    let guard = reader.section("guard", |s| super::guard::read(s, &base));
    let tcp = reader.section("tcp", super::tcp::read);
    let mut tls = reader.section("tls", |s| read_tls(s, &base));
    let others = reader.sections("certificate", |s| read_certificate(s, &base));
    tls.others = others.into_iter().flatten().collect();
    let memory = reader.section("memory", read_memory);
    let (mut cache, max_object, compress) = reader.section("cache", read_cache);
    let tier = reader.section("tier", |s| super::tier::read(s, &base));
    let classes = reader.sections("class", routes::read_class);
    let classes: Vec<_> = classes.into_iter().flatten().collect();
    checks::classes(&mut reader, &classes);
    let class_bytes = classes.iter().map(|class| class.ram).collect();
    let class_names = classes.iter().map(|class| class.route.name.clone());
    let class_names = class_names.collect();
    cache.routes = routes::read_routes(&mut reader, classes);
    let found = reader.sections("origin", |s| origins::read_origin(s, &base));
    let shields = reader.sections("shield", |s| origins::read_shield(s, &base));
    let (bounds, http2) = reader.section("upstream", origins::read_upstream);
    let admin = reader.section("admin", |s| read_admin(s, &base));
    let limits = reader.section("limits", |s| read_limits(s, max_object));
    let log = reader.section("log", read_log);

    checks::origins(&mut reader, &found);
    checks::shields(&mut reader, &shields, &found);
    let origins: Vec<OriginConfig> = found.into_iter().filter_map(|f| f.origin).collect();
    if tls.names.is_empty() {
        tls.names = names_of(&origins);
    }
    let upstream = UpstreamConfig {
        origins: origins
            .iter()
            .map(|origin| origins::upstream_origin(origin, http2))
            .collect(),
        shields: shields
            .into_iter()
            .filter_map(|found| found.shield(http2))
            .collect(),
        node_name: server.name.clone(),
        ..bounds
    };
    let mut config = Config {
        path: path.to_owned(),
        server,
        packet,
        guard,
        tcp,
        tls,
        memory,
        cache,
        compress,
        tier,
        class_bytes,
        class_names,
        origins,
        upstream,
        admin,
        limits,
        log,
        settings: Vec::new(),
        warnings: Vec::new(),
    };
    checks::across(&mut reader, &config);
    config.settings = reader.finish()?;
    config.warnings = checks::warnings(&config, machine);
    Ok(config)
}

fn read_server(s: &mut Section<'_, '_, '_>, machine: &Machine) -> ServerConfig {
    let listen = s.setting(
        "listen",
        &ADDRESSES,
        vec![SocketAddr::from(([0, 0, 0, 0], 443))],
        "UDP addresses served over HTTP/3; 443 is where browsers ask",
    );
    let listen_tcp = s.optional(
        "listen_tcp",
        &ANY_ADDRESSES,
        "TCP addresses served over TLS with HTTP/2 and HTTP/1.1; unset: those of `listen`; []: none",
    );
    let listen_clear = s.setting(
        "listen_clear",
        &ANY_ADDRESSES,
        Vec::new(),
        "TCP addresses served over HTTP/1.1 without TLS, such as behind a load balancer",
    );
    let cores = s.setting(
        "cores",
        &CORES,
        Cores::Auto,
        "CPUs, one shard each; auto takes every CPU this process may run on",
    );
    let name = s.setting(
        "name",
        &TOKEN,
        "popcache".to_owned(),
        "how this node calls itself in Via and Cache-Status",
    );
    let cpus = match cores {
        Cores::Auto => machine.cpus.iter().copied().take(MAX_SHARDS).collect(),
        Cores::List(cpus) => cpus,
    };
    for cpu in &cpus {
        if !machine.cpus.contains(cpu) {
            let usable = show_list(&machine.cpus, usize::to_string);
            s.refuse(
                "cores",
                format!("cores: CPU {cpu} is not usable here (usable: {usable})"),
            );
        }
    }
    let role = s.setting(
        "role",
        &ROLE,
        Role::Edge,
        "edge serves users; shield serves edges, and passes on to them what is meant for caches",
    );
    let user = s.optional(
        "user",
        &TOKEN,
        "what root becomes once sockets, drives and the XDP program are open; unset: it stays root, without capabilities",
    );
    let seccomp = s.setting(
        "seccomp",
        &SECCOMP,
        Seccomp::On,
        "system calls that a node never makes fail or end it; log lets them pass and has the kernel log them",
    );
    let drain_limit = s.bounded(
        "drain_limit",
        &DURATION,
        Duration::from_secs(10),
        Duration::ZERO..=Duration::from_secs(600),
        "how long requests in flight may take to end at a stop; then connections are closed",
    );
    ServerConfig {
        listen,
        listen_tcp,
        listen_clear,
        cpus,
        name,
        role,
        user,
        seccomp,
        drain_limit,
    }
}

fn read_packet(s: &mut Section<'_, '_, '_>) -> PacketConfig {
    PacketConfig {
        backend: s.setting(
            "backend",
            &BACKEND,
            Backend::Auto,
            "auto is AF_XDP where the driver does zero-copy, else UDP with segmentation offload",
        ),
        interface: s.optional(
            "interface",
            &INTERFACE,
            "the XDP program is attached here; unset: no XDP, and the backend is UDP",
        ),
        xdp_mode: s.setting(
            "xdp_mode",
            &XDP_MODE,
            XdpMode::Native,
            "native runs in the driver; skb works on every driver and is slower",
        ),
        pin_dir: s.setting(
            "pin_dir",
            &PATH,
            PathBuf::from("/sys/fs/bpf/popcache"),
            "bpffs directory of the pinned link and maps, so that a restart does not detach",
        ),
        queue_depth: s.bounded(
            "queue_depth",
            &POWER_OF_TWO,
            4096,
            64..=32_768,
            "AF_XDP ring entries a queue; 4096 frames ride out 4 ms at a million packets a second",
        ),
        spin: s.bounded(
            "spin",
            &DURATION,
            Duration::from_micros(50),
            Duration::ZERO..=Duration::from_millis(100),
            "busy-poll after the last packet before sleeping; 50us saves most wake-ups, idle stays below 1 % of a core",
        ),
    }
}

fn read_tls(s: &mut Section<'_, '_, '_>, base: &Path) -> TlsConfig {
    let certificate = s.optional(
        "certificate",
        &PATH,
        "PEM file with the chain, leaf first; unset: self-signed for `names`",
    );
    let key = s.optional("key", &PATH, "PEM file with the private key of the leaf");
    let names = s.optional(
        "names",
        &NAMES,
        "host names of the self-signed certificate; unset: those of the origins",
    );
    let early_data = s.setting(
        "early_data",
        &BOOL,
        true,
        "take GET and HEAD in a returning client's first flight over QUIC (0-RTT), and answer what memory has; the rest waits for the handshake",
    );
    let max_sessions = s.bounded(
        "max_sessions",
        &COUNT,
        65_536,
        1_024..=1 << 24,
        "sessions of the node that clients may resume over QUIC, each once; past it the oldest makes way",
    );
    match (&certificate, &key) {
        (Some(_), None) if s.span("key").is_none() => {
            s.refuse(
                "certificate",
                "certificate without `key`: set both, or neither",
            );
        }
        (None, Some(_)) if s.span("certificate").is_none() => {
            s.refuse("key", "key without `certificate`: set both, or neither");
        }
        _ => {}
    }
    TlsConfig {
        files: certificate.zip(key).map(|(certificate, key)| TlsFiles {
            certificate: base.join(certificate),
            key: base.join(key),
        }),
        others: Vec::new(),
        names: names.unwrap_or_default(),
        early_data,
        max_sessions,
    }
}

fn read_certificate(s: &mut Section<'_, '_, '_>, base: &Path) -> Option<TlsFiles> {
    let certificate = s.required(
        "certificate",
        &PATH,
        "PEM file with the chain, leaf first, for clients that ask for one of its names",
    );
    let key = s.required("key", &PATH, "PEM file with the private key of the leaf");
    Some(TlsFiles {
        certificate: base.join(certificate?),
        key: base.join(key?),
    })
}

fn read_memory(s: &mut Section<'_, '_, '_>) -> MemoryConfig {
    MemoryConfig {
        ram: s.bounded(
            "ram",
            &SIZE,
            256 << 20,
            MIN_SHARD_RAM..=1 << 44,
            "bytes of all arenas together, shared evenly by the shards",
        ),
        pages: s.setting(
            "pages",
            &PAGES,
            PagePolicy::Auto,
            "what backs the arenas; auto takes the largest pages to be had and says which",
        ),
        large_share: s.bounded(
            "large_share",
            &SHARE,
            StoreConfig::default().large_share,
            0.1..=0.9,
            "part of a shard's memory that bodies above 64 KiB may take; the largest kept is half of it",
        ),
        mean_object: s.bounded(
            "mean_object",
            &SIZE,
            StoreConfig::default().mean_object,
            256..=1 << 20,
            "bytes of an object up to 64 KiB on average: the index has entries for as many as fit",
        ),
        pinned: s.bounded(
            "pinned",
            &SIZE,
            StoreConfig::default().pinned_bytes,
            0..=1 << 42,
            "bytes that pinned objects may take, shared evenly by the shards; a quarter of a shard's memory of a kind at most",
        ),
        max_pins: s.bounded(
            "max_pins",
            &COUNT_U32,
            StoreConfig::default().max_pins,
            0..=16_384,
            "URLs that may be pinned in a shard, their objects there or not",
        ),
        purge_slots: s.bounded(
            "purge_slots",
            &COUNT_U32,
            DEFAULT_SLOTS,
            1_024..=MAX_SLOTS,
            "surrogate keys told apart by purges; a tier has 65536 at most, and keeps those it was formatted with",
        ),
        purge_prefixes: s.bounded(
            "purge_prefixes",
            &COUNT,
            DEFAULT_PREFIXES,
            1..=MAX_PREFIXES,
            "prefixes whose purges are remembered; past it the oldest becomes a purge of everything before it",
        ),
    }
}

fn read_cache(s: &mut Section<'_, '_, '_>) -> (Caching, u64, CompressConfig) {
    let d = Caching::default();
    let cache = Caching {
        default_ttl: s.setting(
            "default_ttl",
            &DURATION,
            d.default_ttl,
            "lifetime of a response that names none; 0s: it is not kept",
        ),
        heuristic_percent: s.bounded(
            "heuristic_percent",
            &COUNT_U32,
            d.heuristic_percent,
            0..=100,
            "lifetime of a response that names none, as a part of the time since its Last-Modified; RFC 9111 names 10",
        ),
        heuristic_max: s.setting(
            "heuristic_max",
            &DURATION,
            d.heuristic_max,
            "no such lifetime is longer",
        ),
        stale_if_error: s.setting(
            "stale_if_error",
            &DURATION,
            d.stale_if_error,
            "how long a stale response that does not forbid it is served while its origin fails; off, since origins can ask for it",
        ),
        targeted_fields: s.setting(
            "targeted_fields",
            &FIELD_NAMES,
            d.targeted_fields,
            "response fields that count instead of Cache-Control (RFC 9213), the first one first",
        ),
        device: d.device,
        store_set_cookie: s.setting(
            "store_set_cookie",
            &BOOL,
            d.store_set_cookie,
            "keep responses with Set-Cookie that name a lifetime; off, since a cookie is mostly meant for one client",
        ),
        client_cache_control: s.setting(
            "client_cache_control",
            &CLIENT_CACHE_CONTROL,
            d.client_cache_control,
            "how far Cache-Control of requests counts; harmless: only what cannot make a stranger's request reach the origin",
        ),
        routes: d.routes,
        slice_size: s.bounded(
            "slice_size",
            &SIZE_U32,
            d.slice_size,
            0..=64 << 20,
            "bytes of a slice of a large object; 0: nothing is cut into slices",
        ),
        slice_above: s.setting(
            "slice_above",
            &SIZE,
            d.slice_above,
            "a longer response is fetched in slices, where its origin offers ranges; below it one fetch costs less than many",
        ),
        slices_ahead: s.bounded(
            "slices_ahead",
            &COUNT_U32,
            d.slices_ahead,
            0..=64,
            "slices fetched ahead of the one that a client has come to",
        ),
    };
    let max_object = s.bounded(
        "max_object",
        &SIZE,
        Limits::default().max_object,
        1..=1 << 30,
        "largest object kept; a larger one is streamed through",
    );
    let compress = CompressConfig {
        threads: s.bounded(
            "compress_threads",
            &COUNT,
            1,
            0..=64,
            "responses of classes with `compress` that are compressed at a time; past it they are kept as they came",
        ),
        max: s.bounded(
            "compress_max",
            &SIZE,
            1 << 20,
            1 << 10..=1 << 24,
            "largest body compressed, no larger than limits.fetch_window: it is gathered first",
        ),
    };
    (cache, max_object, compress)
}

fn read_admin(s: &mut Section<'_, '_, '_>, base: &Path) -> AdminConfig {
    AdminConfig {
        socket: base.join(s.setting(
            "socket",
            &SOCKET_PATH,
            PathBuf::from(DEFAULT_SOCKET),
            "the admin API's Unix socket, mode 0660: its file permissions are its credential",
        )),
        tcp: s.optional(
            "tcp",
            &ADDRESS,
            "the admin API over TCP as well, with a bearer token; unset: no TCP",
        ),
        token_file: s
            .optional(
                "token_file",
                &PATH,
                "file with the bearer token of `tcp`, not readable by others",
            )
            .map(|path| base.join(path)),
    }
}

#[allow(
    clippy::needless_update,
    reason = "a bound that is new in the core must not break this crate; a test asks for its key"
)]
fn read_limits(s: &mut Section<'_, '_, '_>, max_object: u64) -> Limits {
    let d = Limits::default();
    let seconds = |n| Duration::from_secs(n);
    Limits {
        max_connections: s.bounded(
            "max_connections",
            &COUNT,
            d.max_connections,
            1..=1 << 24,
            "QUIC connections of a shard; past it new ones are refused",
        ),
        retry_above: s.bounded(
            "retry_above",
            &COUNT,
            d.retry_above,
            0..=1 << 24,
            "handshakes of a shard at a time; past it clients must show their address first (Retry): one round trip more, and no state for a spoofed flood",
        ),
        max_arrivals: s.bounded(
            "max_arrivals",
            &COUNT,
            d.max_arrivals,
            1..=1 << 24,
            "new clients of a shard that wait for their handshake to begin, while others are served; past it they are refused",
        ),
        max_streams_per_connection: s.bounded(
            "max_streams_per_connection",
            &COUNT_U32,
            d.max_streams_per_connection,
            1..=65_536,
            "concurrent requests of one connection; browsers keep below 128",
        ),
        max_early_waiting: s.bounded(
            "max_early_waiting",
            &COUNT,
            d.max_early_waiting,
            0..=1 << 20,
            "requests of a shard that came in early data (0-RTT) and wait for their handshake; past it 425",
        ),
        idle_timeout: s.bounded(
            "idle_timeout",
            &DURATION,
            d.idle_timeout,
            seconds(1)..=seconds(3600),
            "a connection without traffic is closed after this",
        ),
        tcp_answer_window: s.bounded(
            "tcp_answer_window",
            &SIZE_U32,
            d.tcp_answer_window,
            4 << 10..=64 << 20,
            "body bytes of one answer over HTTP/1.1 or HTTP/2 handed to its connection ahead of the client",
        ),
        send_window: s.bounded(
            "send_window",
            &SIZE,
            d.send_window,
            4 << 10..=1 << 30,
            "unacknowledged response bytes of a connection; 2 MiB fill 160 Mbit/s at 100 ms",
        ),
        max_field_section: s.bounded(
            "max_field_section",
            &SIZE_USIZE,
            d.max_field_section,
            1 << 10..=1 << 20,
            "bytes of a request's header section once decoded (RFC 9114 section 4.2.2)",
        ),
        max_target: s.bounded(
            "max_target",
            &SIZE_USIZE,
            d.max_target,
            64..=64 << 10,
            "bytes of a request's path and query; past it 414",
        ),
        max_flights: s.bounded(
            "max_flights",
            &COUNT,
            d.max_flights,
            1..=1 << 20,
            "objects a shard fetches at a time; past it 503 with Retry-After",
        ),
        max_waiters: s.bounded(
            "max_waiters",
            &COUNT,
            d.max_waiters,
            1..=1 << 24,
            "requests of a shard that wait for a fetch; past it 503 with Retry-After",
        ),
        max_passes: s.bounded(
            "max_passes",
            &COUNT,
            d.max_passes,
            1..=1 << 20,
            "uncollapsed fetches of a shard (uncacheable answers) at a time",
        ),
        max_kept_pass: s.bounded(
            "max_kept_pass",
            &SIZE,
            d.max_kept_pass,
            0..=1 << 30,
            "bytes of an answer to a request with Authorization, or to POST, that is kept where its route says so; a longer one is not",
        ),
        max_varying: s.bounded(
            "max_varying",
            &COUNT,
            d.max_varying,
            1..=1 << 24,
            "resources of a shard known to have variants (Vary); past it those of the oldest are forgotten",
        ),
        max_variants: s.bounded(
            "max_variants",
            &COUNT_U32,
            d.max_variants,
            1..=1 << 20,
            "variants of one resource; past it all of them are forgotten",
        ),
        max_sliced: s.setting(
            "max_sliced",
            &SIZE,
            d.max_sliced,
            "largest object kept in slices; a larger one is streamed through",
        ),
        max_slice_fetches: s.bounded(
            "max_slice_fetches",
            &COUNT,
            d.max_slice_fetches,
            1..=1 << 16,
            "slices of large objects that a shard fetches at a time; more wait for their turn",
        ),
        slice_wait: s.bounded(
            "slice_wait",
            &DURATION,
            d.slice_wait,
            Duration::from_millis(100)..=seconds(3600),
            "how long a slice may wait for its turn; past it 503 with Retry-After, or the answer is cut off",
        ),
        max_ranges: s.bounded(
            "max_ranges",
            &COUNT,
            d.max_ranges,
            0..=1 << 10,
            "ranges of one request; with more it is answered whole",
        ),
        max_request_body: s.bounded(
            "max_request_body",
            &SIZE,
            d.max_request_body,
            0..=1 << 40,
            "bytes of the body of a request that is passed on; past it 413",
        ),
        upload_window: s.bounded(
            "upload_window",
            &SIZE_U32,
            d.upload_window,
            16 << 10..=64 << 20,
            "body bytes of a request between its client and its origin",
        ),
        max_request_bodies: s.bounded(
            "max_request_bodies",
            &COUNT,
            d.max_request_bodies,
            1..=1 << 20,
            "requests of a shard that are passed on with a body at a time; past it 503 with Retry-After",
        ),
        max_object,
        max_heap_fill: s.bounded(
            "max_heap_fill",
            &SIZE,
            d.max_heap_fill,
            0..=1 << 40,
            "body bytes of a shard that found no room in the arena, together; past half of it they come as slowly as they are read, past it a fetch fails",
        ),
        window_patience: s.bounded(
            "window_patience",
            &DURATION,
            d.window_patience,
            Duration::from_millis(100)..=seconds(3600),
            "how long a client may take nothing of a body that waits for it; then it is cut off",
        ),
        max_copied_out: s.bounded(
            "max_copied_out",
            &SIZE,
            d.max_copied_out,
            0..=1 << 40,
            "bytes copied out of the arena of a shard for clients that hold up its reuse; past it their answers are cut off",
        ),
        fetch_window: s.bounded(
            "fetch_window",
            &SIZE_U32,
            d.fetch_window,
            64 << 10..=1 << 30,
            "body bytes a fetch may deliver ahead of their consumption",
        ),
        max_lane_backlog: s.bounded(
            "max_lane_backlog",
            &COUNT,
            d.max_lane_backlog,
            64..=1 << 24,
            "messages to one other shard that wait for room in its lane",
        ),
        uncacheable_ttl: s.bounded(
            "uncacheable_ttl",
            &DURATION,
            d.uncacheable_ttl,
            Duration::ZERO..=seconds(3600),
            "how long a key stays marked uncacheable, so that its requests do not queue",
        ),
        max_uncacheable: s.bounded(
            "max_uncacheable",
            &COUNT,
            d.max_uncacheable,
            1..=1 << 24,
            "keys marked uncacheable in a shard",
        ),
        retry_after: s.bounded(
            "retry_after",
            &COUNT_U32,
            d.retry_after,
            0..=86_400,
            "seconds in the Retry-After of a 503 of our own",
        ),
        ..d
    }
}

fn read_log(s: &mut Section<'_, '_, '_>) -> LogConfig {
    LogConfig {
        level: s.setting(
            "level",
            &LOG_LEVEL,
            "info".to_owned(),
            "error, warn, info, debug, trace or a filter; POPCACHE_LOG overrides it",
        ),
    }
}

/// The host names that a self-signed certificate is made for when none are configured.
fn names_of(origins: &[OriginConfig]) -> Vec<String> {
    let mut names: Vec<String> = origins
        .iter()
        .flat_map(|origin| origin.hosts.iter())
        .filter(|host| *host != "*")
        .cloned()
        .collect();
    if names.is_empty() {
        names.push("localhost".to_owned());
    }
    names
}
