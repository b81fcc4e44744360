//! The admin API: HTTP/1.1 with JSON over a Unix socket, and over TCP with a bearer token.
//!
//! ```text
//!  popcache status|purge|pin --client--> Unix socket (0660) --.
//!  anything else ----------------------> TCP + bearer token --+--> server (routes) --> NodeHandle
//! ```
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`crate::status::StatusDocument`] |
//! | `GET /metrics` | | [`crate::metrics`]: OpenMetrics text |
//! | `GET /v1/config` | | the effective configuration, as `popcache check --json` prints it |
//! | `POST /v1/purge` | [`request::PurgeRequest`]: `{"tag": ["emotes"], "soft": true}` | [`crate::node::PurgeReport`] |
//! | `POST /v1/pin` | [`request::PinRequest`]: `{"url": "https://host/path"}` | [`crate::node::PinReport`] |
//! | `POST /v1/unpin` | the same | [`crate::node::UnpinReport`] |
//! | `GET /v1/pins` | | [`crate::node::PinsReport`] |
//! | `POST /v1/reload` | | [`crate::node::ConfigReport`]: the configuration is read again |
//! | `POST /v1/reload-tls` | | [`crate::node::ReloadReport`]: the certificates are |
//! | `GET /v1/guard` | | [`crate::guard::order::Report`] |
//! | `GET /v1/guard/events?after=N`, `/v1/guard/top?most=N` | | [`crate::guard::EventLine`]s, [`crate::guard::TopLine`]s |
//! | `POST /v1/guard/list`, `remove`, `monitor`, `limit`, `reload` | the requests of [`crate::guard::order`] | [`crate::guard::order::Done`] |
//!
//! Every error is `{"error": "...", "hint": "..."}`. The API runs on the control thread: nothing it
//! does can hold a shard.

pub mod client;
mod guard;
pub mod listen;
pub mod request;
mod server;
pub mod token;

pub use listen::{Former, Listeners, SocketFile, bind, bind_in_place_of, bind_unix};
pub use server::serve_admin;

#[cfg(test)]
mod tests;
