//! Conditional requests (RFC 9110 section 13) against a stored response.
