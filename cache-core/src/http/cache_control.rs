//! Cache-Control (RFC 9111 section 5.2, RFC 5861, RFC 8246).
