//! The certificates that the node shows, chosen by the name that a client asks for (SNI), for QUIC and
//! TCP alike. They are read again without a restart; what is broken leaves the old ones in place.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;

use crate::config::TlsConfig;
use crate::tls_files::{self, Identity};

/// Every certificate of the node. The first is for clients whose name fits none, or who name none.
#[derive(Debug)]
pub struct Certificates {
    /// Where they came from.
    tls: ArcSwap<TlsConfig>,
    shown: ArcSwap<Shown>,
}

type Shown = Vec<Arc<CertifiedKey>>;

/// Certificates that were read and can be shown.
pub struct Prepared {
    tls: TlsConfig,
    shown: Shown,
}

impl Certificates {
    /// Reads what is configured, or makes a self-signed certificate where nothing is.
    ///
    /// # Errors
    /// Says which file is broken, and how.
    pub fn load(tls: &TlsConfig) -> anyhow::Result<Self> {
        let first = tls_files::load(tls)?;
        first.log();
        let shown = with_others(first.certified()?, tls)?;
        Ok(Self {
            tls: ArcSwap::from_pointee(tls.clone()),
            shown: ArcSwap::from_pointee(shown),
        })
    }

    /// Reads the files again, and shows what they hold to every handshake from now on. Returns how
    /// many certificates there are.
    ///
    /// # Errors
    /// A file is broken: nothing has changed. Or there are no files.
    pub fn reload(&self) -> anyhow::Result<usize> {
        let tls = self.tls.load();
        if tls.files.is_none() && tls.others.is_empty() {
            bail!("no tls.certificate is configured: the self-signed one is made at start");
        }
        Ok(self.show(self.prepare(&tls)?))
    }

    /// Reads what `tls` names. A self-signed certificate stays the one that was made at start.
    ///
    /// # Errors
    /// A file is broken, or there is none where there was one.
    pub fn prepare(&self, tls: &TlsConfig) -> anyhow::Result<Prepared> {
        let was_self_signed = self.tls.load().files.is_none();
        let first = match (&tls.files, self.shown.load().first()) {
            (Some(_), _) => tls_files::load(tls)?.certified()?,
            (None, Some(first)) if was_self_signed => CertifiedKey::clone(first),
            (None, _) => bail!("tls.certificate is gone: a self-signed one is made at start only"),
        };
        Ok(Prepared {
            tls: tls.clone(),
            shown: with_others(first, tls)?,
        })
    }

    /// Shows these to every handshake from now on. Returns how many there are.
    pub fn show(&self, prepared: Prepared) -> usize {
        let count = prepared.shown.len();
        self.tls.store(Arc::new(prepared.tls));
        self.shown.store(Arc::new(prepared.shown));
        count
    }
}

fn with_others(first: CertifiedKey, tls: &TlsConfig) -> anyhow::Result<Vec<Arc<CertifiedKey>>> {
    let mut all = vec![Arc::new(first)];
    for files in &tls.others {
        let identity: Identity = tls_files::from_files(files).context("certificate")?;
        all.push(Arc::new(identity.certified()?));
    }
    Ok(all)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        let name = match shown.len() {
            // Nothing to choose from.
            1 => None,
            _ => hello.server_name(),
        };
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let fitting = name.and_then(|name| shown.iter().find(|key| is_for(key, &name)));
        fitting.or_else(|| shown.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = key.end_entity_cert().ok();
    let parsed = leaf.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::TlsFiles;

    /// Writes a certificate for `name` to `file.pem` and `file.key`.
    fn write(folder: &Path, file: &str, name: &str) -> TlsFiles {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("certificate");
        let files = TlsFiles {
            certificate: folder.join(format!("{file}.pem")),
            key: folder.join(format!("{file}.key")),
        };
        fs::write(&files.certificate, made.cert.pem()).expect("certificate file");
        fs::write(&files.key, made.signing_key.serialize_pem()).expect("key file");
        files
    }

    fn fits(certificates: &Certificates, place: usize, name: &str) -> bool {
        let name = ServerName::try_from(name).expect("name");
        is_for(&certificates.shown.load()[place], &name)
    }

    #[test]
    fn files_are_read_again_and_a_broken_one_leaves_the_old_ones() {
        let folder = tempfile::tempdir().expect("folder");
        let tls = TlsConfig {
            files: Some(write(folder.path(), "a", "a.test")),
            others: vec![write(folder.path(), "b", "*.b.test")],
            names: Vec::new(),
            early_data: true,
            max_sessions: 1024,
        };
        let certificates = Certificates::load(&tls).expect("certificates");
        assert!(fits(&certificates, 0, "a.test") && !fits(&certificates, 0, "x.b.test"));
        assert!(fits(&certificates, 1, "x.b.test"));

        write(folder.path(), "b", "c.test");
        assert_eq!(certificates.reload().ok(), Some(2));
        assert!(fits(&certificates, 1, "c.test"));

        write(folder.path(), "a", "new.test");
        fs::write(folder.path().join("b.pem"), "no PEM").expect("broken file");
        let error = certificates.reload().expect_err("b.pem is broken");
        assert!(format!("{error:#}").contains("b.pem"), "{error:#}");
        assert!(fits(&certificates, 0, "a.test") && fits(&certificates, 1, "c.test"));
    }

    #[test]
    fn a_self_signed_certificate_is_not_read_again() {
        let tls = TlsConfig {
            files: None,
            others: Vec::new(),
            names: vec!["edge.test".to_owned()],
            early_data: true,
            max_sessions: 1024,
        };
        let certificates = Certificates::load(&tls).expect("certificates");
        let error = certificates.reload().expect_err("there is nothing to read");
        assert!(error.to_string().contains("tls.certificate"), "{error}");
    }
}
