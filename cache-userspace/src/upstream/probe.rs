//! Active checks: a request now and then to each node that has a health path.
//!
//! Over a connection of its own each, so that a node that accepts no more connections is found out
//! while pooled ones still work.

use std::sync::Arc;
use std::time::Duration;

use cache_core::upstream::NodeId;
use http::{Request, StatusCode, Uri, header};
use tokio::time::{sleep_until, timeout};

use super::connect::{Dialer, Sender};
use super::failure::Broken;
use super::fleet::{Fleet, Node};
use super::http1;
use super::interim::Interim;
use super::upload::Sending;

/// Probes for as long as it is polled.
pub(super) async fn run(fleet: Arc<Fleet>, limit: Duration) {
    loop {
        let due = async {
            match fleet.next_probe() {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = fleet.probed.notified() => continue,
        }
        for id in fleet.probes_due() {
            let fleet = fleet.clone();
            tokio::spawn(async move { probe(&fleet, id, limit).await });
        }
    }
}

async fn probe(fleet: &Fleet, id: NodeId, limit: Duration) {
    let Node {
        name,
        tier,
        pool,
        health_path,
        ..
    } = fleet.node(id);
    let Some(path) = health_path else { return };
    let (tier, node) = (tier.name(), name);
    let ok = match timeout(limit, ask(&pool.dialer, path)).await {
        Ok(Ok(status)) => {
            tracing::debug!(tier, node, %status, "probed");
            !status.is_server_error()
        }
        Ok(Err(error)) => {
            tracing::debug!(tier, node, error, "probe failed");
            false
        }
        Err(_) => {
            tracing::debug!(tier, node, ?limit, "no answer to a probe in time");
            false
        }
    };
    fleet.probed(id, ok);
}

async fn ask(dialer: &Dialer, path: &str) -> Result<StatusCode, String> {
    let (sender, driver) = dialer.dial().await.map_err(|error| error.detail)?;
    let request = request(dialer, &sender, path)?;
    // As many as come in the time that there is.
    let interim = Arc::new(Interim::new(u32::MAX, None));
    let response = async {
        match sender {
            Sender::Http1(mut sender) => {
                Ok(http1::send(&mut sender, request, &interim).await?.status())
            }
            Sender::Http2(mut sender) => Ok(sender.send(request, &interim).await?.status()),
        }
    };
    // An answer may come in the same moment as the end of its connection.
    tokio::select! {
        biased;
        response = response => response,
        ended = driver => Err(match ended {
            Ok(()) => return Err("the connection ended without an answer".to_owned()),
            Err(error) => error,
        }),
    }
    .map_err(|error: Broken| error.to_string())
}

fn request(dialer: &Dialer, sender: &Sender, path: &str) -> Result<Request<Sending>, String> {
    let authority = dialer.authority();
    let uri = match sender {
        Sender::Http1(_) => path.parse::<Uri>(),
        Sender::Http2(_) => format!("{}://{authority}{path}", dialer.scheme).parse(),
    };
    let request = Request::builder()
        .uri(uri.map_err(|error| error.to_string())?)
        .header(header::USER_AGENT, "popcache-probe");
    let request = match sender {
        Sender::Http1(_) => request.header(header::HOST, authority),
        Sender::Http2(_) => request,
    };
    request
        .body(Sending::Whole(bytes::Bytes::new()))
        .map_err(|error| error.to_string())
}
