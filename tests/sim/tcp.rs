//! A client over HTTP/1.1 or HTTP/2, as the shell shows it to a shard: requests, room for their answers,
//! and giving up. The bytes of those protocols are read and written by the shell, beyond the simulation.

use std::time::Duration;

use bytes::Bytes;
use cache_core::io::{AnswerEvent, ClientRequest, RequestBody, RequestEvent, RequestId, ShardId};
use http::header::{AUTHORIZATION, RANGE};
use http::{HeaderMap, HeaderValue, Method};

use crate::client::{Answer, Exchange, Outcome};
use crate::origin::target;
use crate::plan::{ClientPlan, RequestPlan};
use crate::tls;

/// Requests of one client at most.
const MAX_REQUESTS: u64 = 1 << 20;

/// One connection, to one shard.
pub struct TcpClient {
    number: u64,
    pub shard: ShardId,
    pub exchanges: Vec<Exchange>,
    /// Of each exchange, as far as they have come.
    answers: Vec<Option<Answer>>,
}

impl TcpClient {
    pub fn new(number: usize, shard: ShardId, plan: &ClientPlan) -> Self {
        Self {
            number: number as u64,
            shard,
            exchanges: plan
                .requests
                .iter()
                .map(|&plan| Exchange::new(plan))
                .collect(),
            answers: vec![None; plan.requests.len()],
        }
    }

    /// Whose request that is, and which of its.
    pub fn place(id: RequestId) -> (usize, usize) {
        (
            (id.0 / MAX_REQUESTS) as usize,
            (id.0 % MAX_REQUESTS) as usize,
        )
    }

    pub fn id(&self, index: usize) -> RequestId {
        RequestId(self.number * MAX_REQUESTS + index as u64)
    }

    pub fn is_done(&self) -> bool {
        self.exchanges
            .iter()
            .all(|exchange| exchange.outcome.is_some())
    }

    pub fn ask(&mut self, now: Duration, index: usize) -> Result<RequestEvent, String> {
        let exchange = &mut self.exchanges[index];
        exchange.sent_at = now;
        request(&exchange.plan).map(|request| RequestEvent::Begin(Box::new(request)))
    }

    /// Gives up, if there is still something to give up.
    pub fn cancel(&mut self, index: usize) -> Option<RequestEvent> {
        let exchange = &mut self.exchanges[index];
        if exchange.outcome.is_some() {
            return None;
        }
        exchange.outcome = Some(Outcome::Cancelled);
        Some(RequestEvent::Cancel)
    }

    /// Takes a piece of an answer. How many bytes the client will have taken in a while.
    pub fn take(&mut self, index: usize, event: AnswerEvent) -> Result<u32, String> {
        let (exchange, answer) = (&mut self.exchanges[index], &mut self.answers[index]);
        if exchange.outcome.is_some() {
            // It may have crossed with the client's taking the request back.
            return match exchange.outcome {
                Some(Outcome::Cancelled) => Ok(0),
                _ => Err(format!("{event:?} after the end")),
            };
        }
        match (event, answer.as_mut()) {
            (AnswerEvent::Interim { status, .. }, None) if status.is_informational() => {}
            (AnswerEvent::Head { status, headers }, None) if !status.is_informational() => {
                *answer = Some(Answer::of(status.as_u16(), &headers));
            }
            (AnswerEvent::Body(bytes), Some(answer)) => {
                answer.body.extend_from_slice(&bytes);
                return Ok(bytes.len() as u32);
            }
            (AnswerEvent::End, Some(_)) => {
                exchange.outcome = answer.take().map(Outcome::Answered);
            }
            (AnswerEvent::Failed, _) => exchange.outcome = Some(Outcome::Reset(0)),
            (event, _) => return Err(format!("{event:?} out of order")),
        }
        Ok(0)
    }
}

fn request(plan: &RequestPlan) -> Result<ClientRequest, String> {
    let mut headers = HeaderMap::new();
    if plan.authorization {
        let value = HeaderValue::from_static("Bearer of-one-client");
        headers.insert(AUTHORIZATION, value);
    }
    if let Some(range) = plan.range {
        let value = HeaderValue::from_str(&range.field());
        headers.insert(RANGE, value.map_err(|error| error.to_string())?);
    }
    Ok(ClientRequest {
        method: if plan.head { Method::HEAD } else { Method::GET },
        secure: true,
        authority: Bytes::from_static(tls::SERVER_NAME.as_bytes()),
        target: Bytes::from(target(plan.resource)),
        headers,
        body: RequestBody::default(),
    })
}
