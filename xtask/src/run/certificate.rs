//! The demo's certificate: self-signed, made once, so that its pin stays the same between runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{output, succeeds};

pub struct Certificate {
    pub file: PathBuf,
    pub key: PathBuf,
    /// SHA-256 of the public key, base64: what a browser is told to accept.
    pub pin: String,
}

/// Takes the certificate in `folder`, or makes one for `host` that is valid for a year.
pub fn ensure(folder: &Path, host: &str) -> anyhow::Result<Certificate> {
    let (file, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if !is_good(&file, host) || !key.is_file() {
        make(&file, &key, host)?;
    }
    let pin = pin(&file)?;
    Ok(Certificate { file, key, pin })
}

/// Whether it is for `host` and valid for another day.
fn is_good(file: &Path, host: &str) -> bool {
    succeeds(
        Command::new("openssl")
            .args(["x509", "-noout", "-checkend", "86400", "-in"])
            .arg(file),
    ) && output(
        Command::new("openssl")
            .args(["x509", "-noout", "-checkhost", host, "-in"])
            .arg(file),
    )
    .is_ok_and(|said| said.contains("does match"))
}

fn make(file: &Path, key: &Path, host: &str) -> anyhow::Result<()> {
    output(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "365", "-subj"])
            .arg(format!("/CN={host}"))
            .arg("-addext")
            .arg(format!("subjectAltName=DNS:{host}"))
            .arg("-keyout")
            .arg(key)
            .arg("-out")
            .arg(file),
    )
    .map(drop)
}

fn pin(file: &Path) -> anyhow::Result<String> {
    let script = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | base64";
    Ok(output(Command::new("sh").args(["-c", script]).arg(file))?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_anew_for_another_host() {
        let folder = std::env::temp_dir().join(format!("popcache-cert-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let first = ensure(&folder, "edge.test").unwrap();
        assert_eq!(first.pin.len(), 44, "{}", first.pin);
        assert_eq!(ensure(&folder, "edge.test").unwrap().pin, first.pin);
        assert_ne!(ensure(&folder, "other.test").unwrap().pin, first.pin);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
