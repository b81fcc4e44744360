//! The admin API: HTTP/1.1 with JSON over a Unix socket, and over TCP with a bearer token.
//!
//! ```text
//!  popcache status|purge --client--> Unix socket (0660) --.
//!  anything else ------------------> TCP + bearer token --+--> server (routes) --> NodeHandle
//! ```
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`crate::status::StatusDocument`] |
//! | `GET /v1/config` | | the effective configuration, as `popcache check --json` prints it |
//! | `POST /v1/purge` | [`request::PurgeRequest`]: `{"tag": ["emotes"], "soft": true}` | [`crate::node::PurgeReport`] |
//!
//! Every error is `{"error": "...", "hint": "..."}`. The API runs on the control thread: nothing it
//! does can hold a shard.

pub mod client;
pub mod listen;
pub mod request;
mod server;
pub mod token;

pub use listen::{Listeners, bind};
pub use server::serve_admin;

#[cfg(test)]
mod tests;
