//! A self-signed certificate for one test.

use std::fs;
use std::path::Path;

/// Writes `cert.pem` and `key.pem` for `host` into `folder`.
pub fn write(folder: &Path, host: &str) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("make a certificate");
    fs::write(folder.join("cert.pem"), made.cert.pem()).expect("write the certificate");
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("write its key");
}
