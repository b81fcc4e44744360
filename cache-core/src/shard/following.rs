//! Answers that follow a flight: its head, its pieces as they arrive, and what becomes of the request when
//! it has none for it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use quinn_proto::StreamId;

use super::Shard;
use super::answers::{Answered, SMALL_BODY, Step, data_header};
use super::requests::Miss;
use super::shapes::{self, Shape, Whole, Wish};
use super::slices::Object;
use crate::conn::client::Client;
use crate::conn::h3::head::Dynamic;
use crate::conn::stream::{PassRequest, Response, Source, Taken};
use crate::flight::{FlightHead, Local, Outcome, Subscriber, Ticket, Waiter};
use crate::http::cache_control::RequestDirectives;
use crate::http::cache_status::{self, CacheStatus, Forward};
use crate::http::slices::SLICED;
use crate::http::vary;
use crate::io::{FetchErrorKind, Now, Outbox};

/// Times a request looks again for an object that its owner has said to be there.
pub(super) const MAX_ATTEMPTS: u8 = 2;

impl Shard {
    pub(super) fn step_flight(&mut self, waiter: Waiter, response: &mut Response) -> Step {
        let Source::Flight(following) = &mut response.source else {
            return Step::Finish;
        };
        let ticket = following.ticket;
        let Some(flight) = self.locals.get(ticket) else {
            return Step::Abort;
        };
        if let Some(taken) = &mut following.taken {
            return match next_piece(flight, taken, &mut response.rest) {
                Next::Some => {
                    let piece = taken.cursor.piece;
                    self.locals.moved(ticket, &mut following.at, piece);
                    Step::Write
                }
                Next::None => self.starve(waiter, response),
                Next::Over(outcome) => {
                    self.locals.unfollow(ticket, following.at);
                    match outcome {
                        Outcome::Complete => Step::Finish,
                        _ => Step::Abort,
                    }
                }
            };
        }
        if flight.head.is_none()
            && flight.outcome.is_none()
            && let Some(hints) = flight.hints.get(following.hinted)
        {
            following.hinted += 1;
            response.rest.push_back(hints.clone());
            return Step::Write;
        }
        // A note of a large object is nothing to answer with: it is looked for once it is kept.
        let is_answer = |head: &&Arc<FlightHead>| head.meta.flags & SLICED == 0;
        let Some(head) = flight.head.as_ref().filter(is_answer) else {
            return match flight.outcome {
                Some(outcome) => Step::Elsewhere(outcome),
                None => self.starve(waiter, response),
            };
        };
        let leads = flight.leader == Some(waiter);
        match meant_for_another(flight, head, leads, response) {
            Some(outcome) => Step::Elsewhere(outcome),
            None => {
                let head = Arc::clone(head);
                match self.begin_following(ticket, &head, leads, response) > Some(SMALL_BODY) {
                    true => Step::WriteLarge,
                    false => Step::Write,
                }
            }
        }
    }

    /// Writes the head that a flight has brought, in the form that the request wants. Returns the length of
    /// the body that follows, where it is known.
    fn begin_following(
        &mut self,
        ticket: Ticket,
        head: &FlightHead,
        leads: bool,
        response: &mut Response,
    ) -> Option<u64> {
        let Source::Flight(following) = &mut response.source else {
            return None;
        };
        let verdict = match head.tier_ttl {
            Some(ttl) => CacheStatus::TierHit { ttl },
            None => CacheStatus::Forwarded {
                why: following.why,
                stored: head.stored,
                collapsed: following.collapsed,
                confirmed: head.confirmed,
                detail: None,
            },
        };
        let wish = self.wish_of(response.head_only, response.asked.as_deref());
        let first = Subscriber {
            shard: self.config.shard,
            ticket,
        };
        let own = head.own.as_ref().filter(|(to, _)| leads && *to == first);
        let whole = Whole {
            head: own.map_or(&head.encoded, |(_, own)| own),
            status: head.meta.status,
            length: head.length,
        };
        let shape = shapes::shape(whole, &wish);
        self.count_shape(&shape);
        self.scratch.status.clear();
        cache_status::write(&mut self.scratch.status, &self.config.node_name, &verdict);
        let dynamic = Dynamic {
            age: head.age_s,
            cache_status: &self.scratch.status,
        };
        let (buffer, body_len) = shapes::head_of(whole, &shape, dynamic, 0);
        response.rest.push_back(Bytes::from(buffer));
        let cut = match shape {
            Shape::Whole => None,
            Shape::Parts(parts) => Some(Box::new(parts.cut)),
            Shape::Head | Shape::NotModified | Shape::Unsatisfiable(_) => {
                self.locals.unfollow(ticket, following.at);
                response.source = Source::Done;
                return None;
            }
        };
        following.taken = Some(Taken {
            cut,
            ..Taken::default()
        });
        body_len
    }

    fn starve(&mut self, waiter: Waiter, response: &mut Response) -> Step {
        if let Source::Flight(following) = &mut response.source
            && !std::mem::replace(&mut following.waiting, true)
        {
            self.locals.wait(following.ticket, waiter);
        }
        Step::Wait
    }

    /// Answers a request whose flight ended before it had a head.
    pub(super) fn elsewhere(
        &mut self,
        conn: &mut impl Client,
        id: StreamId,
        response: Response,
        outcome: Outcome,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Response> {
        let Response {
            head_only,
            asked,
            source,
            ..
        } = response;
        let (target, why, attempts) = match source {
            Source::Flight(following) => {
                let flight = self.locals.get(following.ticket);
                let target = flight.map(|flight| flight.target.clone());
                self.locals.unfollow(following.ticket, following.at);
                (target, following.why, following.attempts)
            }
            Source::Slices(slicing) => (Some(slicing.target), Forward::Stale, slicing.attempts),
            Source::Done | Source::Pass { .. } => return None,
        };
        let Some(mut target) = target else {
            return self.answer_busy(conn, id, "flight");
        };
        if let Some(asked) = &asked {
            target.headers = Arc::clone(&asked.headers);
        }
        let mut wish = self.wish_of(head_only, asked.as_deref());
        // The flight may have been begun by another request.
        target.stored_only = wish.directives.only_if_cached;
        if matches!(outcome, Outcome::Complete | Outcome::Sliced) {
            // What came just now is as new as anyone can ask for.
            wish.directives = RequestDirectives::default();
        }
        let again = |target, why, asked| Miss {
            target,
            head_only,
            why,
            attempts: attempts + 1,
            asked,
        };
        match outcome {
            Outcome::Private | Outcome::Alone => {
                let request = PassRequest::shared(target, head_only, why);
                self.pass(conn, id, request.of_parts(&wish.conditions), now, out)
            }
            Outcome::NotStored if target.stored_only => self.answer_not_stored(conn, id),
            Outcome::NotStored if attempts < MAX_ATTEMPTS => {
                self.miss(conn, id, again(target, why, asked), now, out)
            }
            Outcome::NotStored | Outcome::Refused => {
                self.stats.flights_refused.inc();
                self.answer_busy(conn, id, "flights")
            }
            Outcome::Present
            | Outcome::Complete
            | Outcome::Varies
            | Outcome::Sliced
            | Outcome::Changed => {
                if !self.select(&mut target) {
                    let request = PassRequest::shared(target, head_only, why);
                    return self.pass(conn, id, request.of_parts(&wish.conditions), now, out);
                }
                self.look_for(&target);
                match self.answer_hit(conn, id, target.hash, &wish, now) {
                    Ok(Answered {
                        sliced: Some(found),
                        ..
                    }) => {
                        let why = (outcome == Outcome::Sliced).then_some(why);
                        let object = Object { target, asked, why };
                        self.answer_slices(conn, id, *found, object, now, out)
                    }
                    Ok(answered) => answered.rest,
                    Err(_) if attempts >= MAX_ATTEMPTS => self.answer_busy(conn, id, "evicted"),
                    Err(why) => self.miss(conn, id, again(target, why, asked), now, out),
                }
            }
            Outcome::ServeStale | Outcome::Failed(_) => {
                // stale-if-error (RFC 5861 section 4).
                self.look_for(&target);
                let origin_fails = true;
                let wish = Wish {
                    origin_fails,
                    ..wish
                };
                match (self.answer_hit(conn, id, target.hash, &wish, now), outcome) {
                    (
                        Ok(Answered {
                            sliced: Some(found),
                            ..
                        }),
                        _,
                    ) => {
                        let why = None;
                        let object = Object { target, asked, why };
                        self.answer_slices(conn, id, *found, object, now, out)
                    }
                    (Ok(answered), _) => answered.rest,
                    (Err(_), Outcome::Failed(kind)) => self.answer_failed(conn, id, kind),
                    (Err(_), _) => self.answer_busy(conn, id, "evicted"),
                }
            }
        }
    }

    fn look_for(&mut self, target: &crate::flight::Target) {
        self.scratch.key.clear();
        self.scratch.key.extend_from_slice(&target.key);
    }
}

/// Why a response is not for a request that waited for it.
fn meant_for_another(
    flight: &Local,
    head: &FlightHead,
    leads: bool,
    response: &Response,
) -> Option<Outcome> {
    if head.alone && !leads {
        return Some(match head.stored {
            true => Outcome::Alone,
            false => Outcome::Private,
        });
    }
    let variant = head.variant.as_ref()?;
    let base = vary::base(&flight.target.key);
    let asked = response.asked.as_ref().map(|asked| &asked.headers);
    let headers = asked.unwrap_or(&flight.target.headers);
    let selects = variant.rule.key(base, headers);
    (selects.as_deref() != Some(&variant.key[..])).then_some(Outcome::Varies)
}

/// What comes next of the body is held no more.
const LEFT_BEHIND: Outcome = Outcome::Failed(FetchErrorKind::LimitReached);

/// What a flight has for an answer.
enum Next {
    Some,
    /// Nothing before it has news.
    None,
    Over(Outcome),
}

/// Moves what comes next of a flight's body into an answer.
fn next_piece(flight: &Local, taken: &mut Taken, rest: &mut VecDeque<Bytes>) -> Next {
    let cursor = &mut taken.cursor;
    if let Some(cut) = &mut taken.cut {
        let Some(want) = cut.wants() else {
            return Next::Over(Outcome::Complete);
        };
        cursor.seek(&flight.pieces, want);
        if flight.pieces.is_gone(cursor.piece) {
            return Next::Over(LEFT_BEHIND);
        }
        if let Some(piece) = flight.pieces.get(cursor.piece) {
            cut.take(cursor.at, piece, rest);
            return Next::Some;
        }
    } else if let Some(piece) = flight.pieces.get(cursor.piece) {
        if flight
            .head
            .as_ref()
            .is_some_and(|head| head.length.is_none())
        {
            rest.push_back(data_header(piece.len()));
        }
        rest.push_back(piece.clone());
        cursor.piece += 1;
        return Next::Some;
    } else if flight.pieces.is_gone(cursor.piece) {
        return Next::Over(LEFT_BEHIND);
    }
    match (flight.outcome, &taken.cut) {
        (None, _) => Next::None,
        // What it declared would have been enough.
        (Some(Outcome::Complete), Some(_)) => Next::Over(Outcome::Private),
        (Some(outcome), _) => Next::Over(outcome),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use crate::io::{AnswerEvent, FetchEvent};
    use crate::shard::lone::Lone;

    fn hints() -> FetchEvent {
        let link = HeaderValue::from_static("</a.css>; rel=preload");
        FetchEvent::Hints(HeaderMap::from_iter([(header::LINK, link)]))
    }

    /// Who has got an interim response, and who a final one.
    fn heads(lone: &mut Lone) -> (Vec<u64>, Vec<u64>) {
        let (mut interim, mut last) = (Vec::new(), Vec::new());
        for (id, event) in lone.answers() {
            match event {
                AnswerEvent::Interim { status, headers } => {
                    assert_eq!(status, StatusCode::EARLY_HINTS);
                    assert_eq!(headers[header::LINK], "</a.css>; rel=preload");
                    interim.push(id);
                }
                AnswerEvent::Head { status, headers } => {
                    assert_eq!(status, StatusCode::OK);
                    assert!(!headers.contains_key(header::LINK));
                    last.push(id);
                }
                _ => {}
            }
        }
        interim.sort_unstable();
        last.sort_unstable();
        (interim, last)
    }

    #[test]
    fn hints_go_to_all_who_wait_and_are_not_kept() {
        let mut lone = Lone::new(0, false);
        lone.get(1);
        let fetch = lone.fetch().expect("a fetch");
        lone.get(2);
        lone.bring(fetch, hints());
        lone.get(3);
        assert_eq!(heads(&mut lone), (vec![1, 2, 3], vec![]));
        lone.bring(fetch, hints());
        assert_eq!(heads(&mut lone), (vec![1, 2, 3], vec![]));
        lone.answer(fetch, 5);
        lone.get(4);
        lone.bring(fetch, hints());
        assert_eq!(heads(&mut lone), (vec![], vec![1, 2, 3, 4]));
    }

    #[test]
    fn hints_after_the_head_are_dropped() {
        let mut lone = Lone::new(0, false);
        lone.get(1);
        let fetch = lone.fetch().expect("a fetch");
        let kept = HeaderValue::from_static("max-age=60");
        lone.bring(
            fetch,
            FetchEvent::Head {
                status: StatusCode::OK,
                headers: HeaderMap::from_iter([(header::CACHE_CONTROL, kept)]),
                length: Some(5),
            },
        );
        lone.bring(fetch, hints());
        assert_eq!(heads(&mut lone), (vec![], vec![1]));
    }
}
