//! From a fetch to the head of an answer: which node, which connection, and when to ask another.

use std::pin::pin;
use std::sync::Arc;

use cache_core::io::FetchError;
use cache_core::upstream::{NodeId, Outcome, Tier};
use http::{HeaderName, Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::{self, Broken};
use super::fetch::Fetch;
use super::fleet::Going;
use super::interim::Interim;
use super::lease::{Body, Lease};
use super::pool::{Freshness, Pool};
use super::stats::count;
use super::upload::Upload;

/// The head of an answer, and whose it is.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) lease: Lease,
    pub(super) going: Going,
    verdict: Verdict,
}

/// What an answer says of the node that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// 502, 503 or 504 of its own.
    Unwell,
    /// 421 of a shield that does not serve this host.
    Misdirected,
}

/// Why there is no answer of a node.
pub(super) struct Failure {
    error: FetchError,
    /// It may have seen the request.
    sent: bool,
}

impl Answer {
    /// What it teaches, now that it has come to its end.
    pub(super) fn outcome(&self) -> Outcome {
        match self.verdict {
            Verdict::Good | Verdict::Misdirected => Outcome::Ok,
            Verdict::Unwell => Outcome::Unwell,
        }
    }
}

type Got = Result<Answer, Failure>;

impl Fetch {
    /// Gets the response head: from the key's node, or from others if that may be.
    pub(super) async fn ask(&self) -> Result<Answer, FetchError> {
        let mut tried = Vec::new();
        let first = self.fleet.pick(self.route, self.key, &tried);
        let mut going = first.ok_or_else(|| self.place.unavailable())?;
        let mut attempts = 1;
        loop {
            tried.push(going.node);
            let got = self.attempt_and_hedge(going, &mut tried).await;
            if !self.is_worth_another(&got) {
                return got.map_err(|failure| failure.error);
            }
            let next = self.fleet.pick(self.route, self.key, &tried);
            let next = next.filter(|_| self.fleet.may_retry(self.route, attempts));
            let Some(next) = next else {
                return got.map_err(|failure| failure.error);
            };
            count(&self.stats.failed_over);
            attempts += 1;
            give_up(got);
            going = next;
        }
    }

    /// Asks a node, and a second one as well if the first takes unusually long.
    async fn attempt_and_hedge(&self, going: Going, tried: &mut Vec<NodeId>) -> Got {
        let after = match tried.len() {
            1 if self.may_hedge => self.fleet.hedge_after(going.node),
            _ => None,
        };
        let tier = going.node().tier;
        let mut first = pin!(self.attempt(going));
        let Some(after) = after else {
            return first.await;
        };
        if let Ok(got) = timeout(after, first.as_mut()).await {
            return got;
        }
        let second = self.fleet.pick_beside((self.route, tier), self.key, tried);
        let Some(second) = second.filter(|_| self.fleet.may_hedge(self.route)) else {
            return first.await;
        };
        count(&self.stats.hedged);
        tried.push(second.node);
        let mut second = pin!(self.attempt(second));
        // The one that is not returned is dropped here: its stream is reset or its connection closed.
        tokio::select! {
            got = &mut first => match self.is_worth_another(&got) {
                false => got,
                true => {
                    give_up(got);
                    second.await
                }
            },
            got = &mut second => match self.is_worth_another(&got) {
                false => {
                    count(&self.stats.hedges_won);
                    got
                }
                true => {
                    give_up(got);
                    first.await
                }
            },
        }
    }

    async fn attempt(&self, going: Going) -> Got {
        let began = Instant::now();
        let node = going.node();
        count(&node.stats.requests);
        let mut sent = false;
        match self.exchange(&node.pool, &mut sent).await {
            Ok((response, lease)) => {
                going.answered(began.elapsed());
                let verdict = verdict(node.tier, &response);
                Ok(Answer {
                    response,
                    lease,
                    going,
                    verdict,
                })
            }
            Err(error) => {
                tracing::debug!(%error, "a node did not answer");
                going.failed(&error);
                Err(Failure { error, sent })
            }
        }
    }

    /// Gets the head over a connection of the node: over a second one, where a pooled one turned out
    /// closed.
    async fn exchange(
        &self,
        pool: &Arc<Pool>,
        sent: &mut bool,
    ) -> Result<(Response<Body>, Lease), FetchError> {
        let mut lease = pool.checkout(Freshness::Any).await?;
        *sent = true;
        let error = match self.send(&mut lease).await? {
            Ok(response) => return Ok((response, lease)),
            Err(error) => error,
        };
        let may_repeat = self.outgoing.method().is_safe() && self.outgoing.is_repeatable();
        let again = lease.reused && may_repeat && failure::may_retry(&error);
        if !failure::stream_only(&error) {
            lease.discard();
        }
        if !again {
            return Err(pool.dialer.place.before_head(&error));
        }
        // Its place may be the one that the second connection needs.
        drop(lease);
        tracing::debug!(%error, "a pooled connection did not take the request, asking again");
        count(&self.stats.retried);
        let mut lease = pool.checkout(Freshness::New).await?;
        match self.send(&mut lease).await? {
            Ok(response) => Ok((response, lease)),
            Err(error) => Err(pool.dialer.place.before_head(&error)),
        }
    }

    async fn send(&self, lease: &mut Lease) -> Result<Result<Response<Body>, Broken>, FetchError> {
        let dialer = &lease.pool.dialer;
        let request = self.outgoing.request(lease.form(), &dialer.scheme);
        let place = dialer.place.clone();
        let limit = self.timeouts.first_byte;
        let interim = Arc::new(self.interim());
        let mut response = pin!(lease.send(request, &interim));
        let mut since = Instant::now();
        loop {
            let response = tokio::select! {
                response = timeout_at(since + limit, response.as_mut()) => response,
                () = interim.flood() => return Err(place.too_many_interim(interim.max)),
            };
            if interim.is_flooded() {
                // The final one came along.
                return Err(place.too_many_interim(interim.max));
            }
            if let Ok(response) = response {
                return Ok(response);
            }
            // A body that is on its way is given time as long as it moves.
            let upload = self.outgoing.upload();
            match upload.map(Upload::moved).filter(|moved| *moved > since) {
                Some(moved) => since = moved,
                None if upload.is_some_and(Upload::is_starved) => {
                    return Err(place.request_stalled(limit));
                }
                None => return Err(place.head_timeout(limit)),
            }
        }
    }

    fn interim(&self) -> Interim {
        let told = (self.id, self.events.clone());
        Interim::new(self.max_interim, self.early_hints.then_some(told))
    }

    /// Whether another node could do better, and the request may be sent twice: it was never sent, or
    /// sending it again means the same (RFC 9110 section 9.2.2).
    fn is_worth_another(&self, got: &Got) -> bool {
        let idempotent = self.outgoing.method().is_idempotent() && self.outgoing.is_repeatable();
        match got {
            Ok(answer) => match answer.verdict {
                Verdict::Good => false,
                Verdict::Unwell => idempotent,
                // It did not look at the request any further.
                Verdict::Misdirected => self.outgoing.is_repeatable(),
            },
            Err(failure) => !failure.sent || idempotent,
        }
    }
}

/// Lets an answer go whose place another one takes.
fn give_up(got: Got) {
    if let Ok(answer) = got {
        let outcome = answer.outcome();
        answer.going.end(outcome);
    }
}

/// A shield that names itself in Cache-Status or Proxy-Status passes on what its origin said, or did
/// not say: another one would come to the same, and the origin is not to be asked past it.
fn verdict<B>(tier: Tier, response: &Response<B>) -> Verdict {
    const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
    const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
    let headers = response.headers();
    let passed_on = headers.contains_key(CACHE_STATUS) || headers.contains_key(PROXY_STATUS);
    match (response.status(), tier) {
        (StatusCode::MISDIRECTED_REQUEST, Tier::Shield) => Verdict::Misdirected,
        (
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
            _,
        ) if tier == Tier::Origin || !passed_on => Verdict::Unwell,
        _ => Verdict::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shield_is_not_blamed_for_its_origin() {
        let judge = |tier, status: u16, field: Option<&'static str>| {
            let mut response = Response::builder().status(status);
            if let Some(field) = field {
                response = response.header(field, "shield; fwd=uri-miss");
            }
            verdict(tier, &response.body(()).expect("a head"))
        };
        assert_eq!(
            judge(Tier::Shield, 503, Some("cache-status")),
            Verdict::Good
        );
        assert_eq!(
            judge(Tier::Shield, 504, Some("proxy-status")),
            Verdict::Good
        );
        assert_eq!(judge(Tier::Shield, 502, None), Verdict::Unwell);
        assert_eq!(
            judge(Tier::Origin, 502, Some("cache-status")),
            Verdict::Unwell
        );
        assert_eq!(judge(Tier::Origin, 500, None), Verdict::Good);
        assert_eq!(
            judge(Tier::Shield, 421, Some("cache-status")),
            Verdict::Misdirected
        );
        assert_eq!(judge(Tier::Origin, 421, None), Verdict::Good);
    }
}
