//! What a request asks of the cache.
