//! Several nodes: shields before an origin, and what happens when they fail.

use cache_core::upstream::Tier;
use http::Uri;

use super::origin::{Lying, Origin, Says};
use super::*;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const SHIELDED: &str =
    "HTTP/1.1 200 OK\r\ncache-status: s; hit; ttl=9\r\ncontent-length: 6\r\n\r\nshield";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

fn shield(name: &str, url: &str) -> ShieldConfig {
    ShieldConfig {
        endpoint: Endpoint {
            name: name.to_owned(),
            tier: Tier::Shield,
            url: url.parse::<Uri>().expect("a url"),
            ca: None,
            server_name: None,
            identity: None,
            http2: Http2Mode::Off,
            health_path: None,
        },
        origins: Vec::new(),
    }
}

/// An origin behind these shields, with a generous retry budget.
fn shielded(origin: &Lying, shields: &[(&str, &str)]) -> UpstreamConfig {
    let mut config = config(&origin.url);
    config.shields = shields
        .iter()
        .map(|(name, url)| shield(name, url))
        .collect();
    config.policy.retries.per_second = 100;
    config
}

async fn bodies(shard: &mut Shard, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    for n in 0..count {
        shard.get(&format!("/{n}"));
        let answer = shard.answer().await.expect("an answer");
        bodies.push(String::from_utf8(answer.body).expect("text"));
    }
    bodies
}

/// A port where nobody listens.
async fn nobody() -> String {
    Origin::bind().await.url()
}

#[tokio::test]
async fn a_shield_answers_and_the_origin_is_not_asked() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let shield = Lying::start(|_| Says::Bytes(SHIELDED.into())).await;
    let mut shard = Shard::new(shielded(&origin, &[("s", &shield.url)]));
    assert_eq!(bodies(&mut shard, 10).await, ["shield"; 10]);
    let stats = shard.stats();
    assert_eq!((stats.shield_answers, stats.shield_hits), (10, 10));
    assert_eq!((stats.shield_bytes, stats.bytes), (60, 60));
    assert_eq!(origin.requests(), 0);
    let nodes = shard.upstream.stats().nodes();
    assert_eq!((nodes[0].tier.as_str(), nodes[0].requests), ("shield", 10));
    assert_eq!((nodes[1].tier.as_str(), nodes[1].requests), ("origin", 0));
}

#[tokio::test]
async fn a_shield_that_is_down_costs_nothing_but_second_tries_and_then_nothing() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let shield = Lying::start(|_| Says::Bytes(SHIELDED.into())).await;
    let down = nobody().await;
    let shields = [("up", shield.url.as_str()), ("down", &down)];
    let mut shard = Shard::new(shielded(&origin, &shields));
    assert_eq!(bodies(&mut shard, 50).await, ["shield"; 50]);
    let nodes = shard.upstream.stats().nodes();
    assert_eq!((nodes[1].state.as_str(), nodes[1].failures), ("ejected", 5));
    assert_eq!(shard.stats().failed_over, 5);
    assert_eq!(origin.requests(), 0, "the other shield took them");
}

#[tokio::test]
async fn without_shields_left_the_origin_is_asked() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let (a, b) = (nobody().await, nobody().await);
    let mut shard = Shard::new(shielded(&origin, &[("a", &a), ("b", &b)]));
    assert_eq!(bodies(&mut shard, 40).await, ["hello"; 40]);
    assert_eq!(origin.requests(), 40);
    let states = shard.upstream.stats().nodes();
    assert!(states[..2].iter().all(|node| node.state != "up"));
}

#[tokio::test]
async fn a_shield_serves_only_the_origins_it_is_for() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let shield = Lying::start(|_| Says::Bytes(SHIELDED.into())).await;
    let mut config = shielded(&origin, &[("s", &shield.url)]);
    config.shields[0].origins = vec!["another".to_owned()];
    assert_eq!(bodies(&mut Shard::new(config), 3).await, ["hello"; 3]);
}

#[tokio::test]
async fn what_a_shield_says_of_its_origin_is_passed_on() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let failing = "HTTP/1.1 502 Bad Gateway\r\nproxy-status: s; error=connection_refused\r\ncontent-length: 0\r\n\r\n";
    let shield = Lying::start(move |_| Says::Bytes(failing.into())).await;
    let mut shard = Shard::new(shielded(&origin, &[("s", &shield.url)]));
    for _ in 0..20 {
        shard.get("/");
        assert_eq!(shard.answer().await.expect("an answer").status, 502);
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(shard.upstream.stats().nodes()[0].state, "up");
}

#[tokio::test]
async fn a_host_that_a_shield_does_not_know_is_asked_of_the_origin() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let misdirected = "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\n\r\n";
    let shield = Lying::start(move |_| Says::Bytes(misdirected.into())).await;
    let mut shard = Shard::new(shielded(&origin, &[("s", &shield.url)]));
    assert_eq!(bodies(&mut shard, 20).await, ["hello"; 20]);
    assert_eq!(shard.upstream.stats().nodes()[0].state, "up");
}

#[tokio::test]
async fn an_address_that_is_unwell_is_passed_over() {
    let well = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let unwell = Lying::start(|_| Says::Bytes(UNAVAILABLE.into())).await;
    let mut config = shielded(&well, &[]);
    config.origins[0]
        .urls
        .push(unwell.url.parse().expect("url"));
    let mut shard = Shard::new(config);
    assert_eq!(bodies(&mut shard, 40).await, ["hello"; 40]);
    assert_eq!(unwell.requests(), 5);
    assert_eq!(shard.upstream.stats().nodes()[1].state, "ejected");
}

#[tokio::test]
async fn what_changes_something_is_not_sent_twice() {
    let dying = || Lying::start(|_| Says::Close);
    let (a, b) = (dying().await, dying().await);
    let mut config = shielded(&a, &[]);
    config.origins[0].urls.push(b.url.parse().expect("url"));
    let mut shard = Shard::new(config);
    shard.start(Method::POST, "/", NO_LIMIT);
    let error = shard.failure().await;
    assert_eq!(error.kind, FetchErrorKind::ConnectionTerminated, "{error}");
    assert_eq!(a.requests() + b.requests(), 1);
    shard.get("/");
    shard.failure().await;
    assert_eq!(a.requests() + b.requests(), 3, "a GET goes to both");
}

#[tokio::test]
async fn what_was_never_sent_may_go_elsewhere_whatever_it_is() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let down = nobody().await;
    let mut shard = Shard::new(shielded(&origin, &[("down", &down)]));
    shard.start(Method::POST, "/", NO_LIMIT);
    assert_eq!(shard.answer().await.expect("an answer").body, b"hello");
}

#[tokio::test]
async fn past_the_budget_the_first_failure_stands() {
    let (a, b) = (nobody().await, nobody().await);
    let mut config = config(&a);
    config.origins[0].urls.push(b.parse().expect("url"));
    config.policy.retries.percent = 0;
    config.policy.retries.per_second = 0;
    let mut shard = Shard::new(config);
    shard.get("/");
    assert_eq!(
        shard.failure().await.kind,
        FetchErrorKind::ConnectionRefused
    );
    let stats = shard.stats();
    assert_eq!((stats.failed_over, stats.retries_refused), (0, 1));
}

#[tokio::test]
async fn an_origin_that_is_down_is_left_alone_and_tried_again() {
    let origin = Origin::bind().await;
    let url = origin.url();
    drop(origin);
    let mut config = config(&url);
    config.policy.breaker.open = Duration::from_millis(1);
    config.policy.breaker.max_open = Duration::from_millis(1);
    let mut shard = Shard::new(config);
    for _ in 0..10 {
        shard.get("/");
        assert_eq!(
            shard.failure().await.kind,
            FetchErrorKind::ConnectionRefused
        );
    }
    shard
        .until(|shard| shard.upstream.stats().nodes()[0].state == "half_open")
        .await;
    // The first trial fails, so what comes in the same moment is refused without being sent.
    let started: Vec<_> = (0..20).map(|_| shard.get("/")).collect();
    let mut kinds = Vec::new();
    for _ in started {
        kinds.push(shard.failure().await.kind);
    }
    assert!(kinds.contains(&FetchErrorKind::Unavailable), "{kinds:?}");
    assert!(shard.stats().failed["unavailable"] > 0);

    let back = Lying::start_on(&url, |_| Says::Bytes(HELLO.into())).await;
    let mut answered = 0;
    while answered < 3 {
        shard.get("/");
        match shard.answer().await {
            Ok(_) => answered += 1,
            Err(error) => assert_eq!(error.kind, FetchErrorKind::Unavailable, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(shard.upstream.stats().nodes()[0].state, "up");
    assert_eq!(back.requests(), 3);
}

#[tokio::test]
async fn a_slow_answer_is_asked_for_twice_and_the_loser_is_cancelled() {
    // Both are quick until the first request for /slow, which never is answered.
    let says = |request: &str| match request.contains("/slow") {
        true => Says::Nothing,
        false => Says::Bytes(HELLO.into()),
    };
    let silent = Lying::start(says).await;
    let quick = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let mut config = shielded(&silent, &[]);
    config.origins[0].urls.push(quick.url.parse().expect("url"));
    config.policy.hedges.budget.percent = 100;
    config.policy.hedges.min_delay = Duration::from_millis(1);
    let mut shard = Shard::new(config);
    bodies(&mut shard, 100).await;
    let before = shard.stats();
    for n in 0..20 {
        shard.get(&format!("/slow/{n}"));
        assert_eq!(shard.answer().await.expect("an answer").body, b"hello");
    }
    let stats = shard.stats();
    let asked = silent.requests_for("/slow");
    assert!(asked > 0, "none of 20 keys began there");
    assert!(stats.hedged - before.hedged >= asked, "{stats:?}");
    assert!(stats.hedges_won - before.hedges_won >= asked, "{stats:?}");
    assert_eq!(stats.failed_total(), 0);
    // Cancelled: their connections are closed, and nothing is held against the node.
    silent.closed(asked).await;
    assert_eq!(shard.upstream.stats().nodes()[0].state, "up");
}

#[tokio::test]
async fn probes_leave_out_a_shield_that_says_it_is_ill_and_bring_it_back() {
    let origin = Lying::start(|_| Says::Bytes(HELLO.into())).await;
    let ill = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_ill = ill.clone();
    let shield = Lying::start(move |request| {
        let ill = is_ill.load(std::sync::atomic::Ordering::SeqCst);
        match request.starts_with("GET /healthz ") && ill {
            true => Says::Bytes(UNAVAILABLE.into()),
            false => Says::Bytes(SHIELDED.into()),
        }
    })
    .await;
    let mut config = shielded(&origin, &[("s", &shield.url)]);
    config.shields[0].endpoint.health_path = Some("/healthz".to_owned());
    config.policy.health.interval = Duration::from_millis(5);
    let mut shard = Shard::new(config);
    shard.upstream.start_probes();
    let state = |shard: &Shard| shard.upstream.stats().nodes()[0].state.clone();
    shard.until(|shard| state(shard) == "unhealthy").await;
    assert_eq!(bodies(&mut shard, 3).await, ["hello"; 3]);
    ill.store(false, std::sync::atomic::Ordering::SeqCst);
    shard.until(|shard| state(shard) == "up").await;
    assert_eq!(bodies(&mut shard, 3).await, ["shield"; 3]);
    assert!(shard.upstream.stats().nodes()[0].probes_failed >= 3);
}

#[tokio::test]
async fn a_silent_node_fails_its_probes() {
    let origin = Lying::start(|_| Says::Nothing).await;
    let mut config = config(&origin.url);
    config.origins[0].health_path = Some("/".to_owned());
    config.policy.health.interval = Duration::from_millis(5);
    config.probe_timeout = Duration::from_millis(5);
    let shard = Shard::new(config);
    shard.upstream.start_probes();
    shard
        .until(|shard| shard.upstream.stats().nodes()[0].state == "unhealthy")
        .await;
}

#[tokio::test]
async fn a_flapping_origin_serves_what_it_can() {
    // Every third request dies.
    let origin = Lying::start_counting(|n, _| match n % 3 {
        0 => Says::Close,
        _ => Says::Bytes(HELLO.into()),
    })
    .await;
    let mut shard = Shard::new(config(&origin.url));
    let (mut ok, mut failed) = (0, 0);
    for n in 0..60 {
        shard.get(&format!("/{n}"));
        match shard.answer().await {
            Ok(answer) => {
                assert_eq!(answer.body, b"hello");
                ok += 1;
            }
            Err(_) => failed += 1,
        }
    }
    let stats = shard.stats();
    assert_eq!((stats.ok, stats.failed_total()), (ok, failed));
    assert_eq!(ok + failed, 60);
    assert!(ok >= 40, "{stats:?}");
    assert_eq!(shard.upstream.stats().nodes()[0].in_flight, 0);
}
