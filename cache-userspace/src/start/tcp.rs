//! TCP listeners of all shards, opened before the shards start.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use cache_core::config::Role;
use http::HeaderValue;

use crate::config::{Config, ServerConfig};
use crate::rt::tcp::{Listener, listen_group};
use crate::tcp::stats::TcpStats;
use crate::tcp::{SharedBounds, TcpBounds, TcpPlan};

/// How long clients may remember that there is HTTP/3, in seconds.
const ALT_SVC_AGE: u32 = 86_400;

/// The kernel's setting for SYN cookies, of the namespace that we are in.
const SYN_COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// What the shards will listen on, given out in their order.
pub struct Doors {
    shards: std::vec::IntoIter<(Vec<Listener>, Vec<Listener>)>,
    tls: Arc<rustls::ServerConfig>,
    bounds: TcpBounds,
    shared: SharedBounds,
    alt_svc: Option<HeaderValue>,
}

impl Doors {
    /// Of listeners that are there.
    ///
    /// # Errors
    /// No Alt-Svc can be made of the addresses.
    pub fn on(
        config: &Config,
        udp: &[SocketAddr],
        tls: Arc<rustls::ServerConfig>,
        (secure, clear): (Groups, Groups),
    ) -> anyhow::Result<Self> {
        let shards: Vec<_> = secure.into_iter().zip(clear).collect();
        if shards
            .iter()
            .any(|(secure, clear)| !secure.is_empty() || !clear.is_empty())
        {
            expect_syn_cookies();
        }
        let limits = &config.limits;
        Ok(Self {
            shards: shards.into_iter(),
            tls,
            bounds: config.tcp.clone(),
            shared: SharedBounds {
                max_streams: limits.max_streams_per_connection,
                max_field_section: limits.max_field_section,
                max_request_body: limits.max_request_body,
                upload_window: limits.upload_window,
                max_request_bodies: limits.max_request_bodies,
            },
            // Edges come by TCP and have nowhere better to go.
            alt_svc: match config.server.role {
                Role::Edge => alt_svc(udp)?,
                Role::Shield => None,
            },
        })
    }

    /// The ports that are listened on.
    pub fn ports(&self) -> Vec<u16> {
        let shards = self.shards.as_slice().iter();
        let listeners = shards.flat_map(|(secure, clear)| secure.iter().chain(clear));
        listeners
            .map(|listener| listener.address().port())
            .collect()
    }

    /// What the next shard listens on.
    pub fn next(&mut self, stats: Arc<TcpStats>) -> TcpPlan {
        let (secure, clear) = self.shards.next().unwrap_or_default();
        TcpPlan {
            secure,
            clear,
            tls: Arc::clone(&self.tls),
            bounds: self.bounds.clone(),
            shared: self.shared.clone(),
            alt_svc: self.alt_svc.clone(),
            stats,
        }
    }
}

/// Spoofed SYNs look like any others, to the guard too: what keeps them from filling the queues of half-open
/// connections is the kernel's.
fn expect_syn_cookies() {
    let setting = std::fs::read_to_string(SYN_COOKIES).unwrap_or_default();
    if setting.trim() == "0" {
        tracing::warn!(
            "SYN cookies are off: a flood of spoofed SYNs keeps clients from TCP; `sysctl net.ipv4.tcp_syncookies=1`"
        );
    }
}

/// For TLS and without it. `udp`: the addresses of HTTP/3, which TLS over TCP has too unless it is told
/// others.
///
/// # Errors
/// An address cannot be listened on.
pub fn listeners(
    server: &ServerConfig,
    udp: &[SocketAddr],
    shards: u8,
) -> anyhow::Result<(Groups, Groups)> {
    let secure = server.listen_tcp.as_deref().unwrap_or(udp);
    let secure = groups(secure, shards).context("server.listen_tcp")?;
    let clear = groups(&server.listen_clear, shards).context("server.listen_clear")?;
    Ok((secure, clear))
}

/// By shard, then by address.
type Groups = Vec<Vec<Listener>>;

fn groups(addresses: &[SocketAddr], shards: u8) -> anyhow::Result<Groups> {
    let mut all: Vec<Vec<Listener>> = (0..shards).map(|_| Vec::new()).collect();
    for &address in addresses {
        for (shard, listener) in all.iter_mut().zip(listen_group(address, shards)?) {
            tracing::info!(address = %listener.address(), "listening (TCP)");
            shard.push(listener);
        }
    }
    Ok(all)
}

/// RFC 7838: HTTP/3 is at the same host, at each port that it is listened for on.
fn alt_svc(udp: &[SocketAddr]) -> anyhow::Result<Option<HeaderValue>> {
    let mut ports: Vec<u16> = udp.iter().map(SocketAddr::port).collect();
    ports.dedup();
    let all: Vec<String> = ports
        .iter()
        .map(|port| format!("h3=\":{port}\"; ma={ALT_SVC_AGE}"))
        .collect();
    match all.is_empty() {
        true => Ok(None),
        false => Ok(Some(all.join(", ").parse()?)),
    }
}
