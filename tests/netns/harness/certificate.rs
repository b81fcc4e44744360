//! Self-signed certificates for one test.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::clients::sha256;

/// Writes `STEM.pem` and `STEM.key` for `host` into `folder`; the SHA-256 of the certificate.
pub fn write(folder: &Path, stem: &str, host: &str) -> String {
    let mut wanted = CertificateParams::new([host.to_owned()]).expect("a name");
    wanted.distinguished_name.push(DnType::CommonName, host);
    let key = KeyPair::generate().expect("make a key");
    let made = wanted.self_signed(&key).expect("make a certificate");
    let at = |end: &str| folder.join(format!("{stem}.{end}"));
    fs::write(at("pem"), made.pem()).expect("write the certificate");
    fs::write(at("key"), key.serialize_pem()).expect("write its key");
    sha256(made.der())
}
