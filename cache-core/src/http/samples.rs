//! Fields as tests write them.

use http::{HeaderMap, HeaderName, HeaderValue};

pub fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |&(name, value): &(&str, &str)| {
        let name: HeaderName = name.parse().expect("a field name");
        (name, HeaderValue::from_str(value).expect("a field value"))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        headers.append(name, value);
    }
    headers
}
