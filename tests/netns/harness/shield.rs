//! A second popcache between the appliance and its origin, reached over clear HTTP/1.1 or HTTP/2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Process;
use super::{HOST, READY, START, origin, places};

/// Where it takes requests of edges, in the appliance's namespace.
const ADDRESS: &str = "127.0.0.1:8081";
/// The same over TLS.
const SECURE: &str = "127.0.0.1:8445";
/// What it needs for HTTP/3, which no edge asks it for.
const LISTEN: &str = "127.0.0.1:8444";

/// What the appliance's configuration says of it.
pub fn section() -> String {
    format!("[[shield]]\nname = \"one\"\nurl = \"http://{ADDRESS}\"\nhealth_path = \"/\"\n")
}

/// The same of one over TLS, asked over HTTP/2.
pub fn secure_section() -> String {
    format!(
        "[upstream]\nhttp2 = true\n[[shield]]\nname = \"one\"\nurl = \"https://{SECURE}\"\n\
         ca = \"cert.pem\"\nserver_name = \"{HOST}\"\n"
    )
}

/// What a shield is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Over clear HTTP/1.1.
    Plain,
    /// Over TLS.
    Secure,
    /// It fetches from itself.
    Looped,
}

pub struct Shield {
    process: Process,
    socket: PathBuf,
}

impl Shield {
    /// Starts one whose files are in `folder`, and waits until it is ready.
    pub(super) fn start(namespace: &str, folder: &Path, kind: Kind) -> Self {
        let behind = match kind {
            Kind::Looped => ADDRESS,
            Kind::Plain | Kind::Secure => origin::ADDRESS,
        };
        let listen = match kind {
            Kind::Secure => format!("listen_tcp = \"{SECURE}\""),
            Kind::Plain | Kind::Looped => format!("listen_clear = \"{ADDRESS}\""),
        };
        let config = folder.join("shield.toml");
        let socket = folder.join("shield.sock");
        let text = format!(
            "[server]\nlisten = \"{LISTEN}\"\n{listen}\ncores = [0]\nrole = \"shield\"\n\
             [tls]\ncertificate = \"cert.pem\"\nkey = \"cert.key\"\n\
             [memory]\nram = \"64 MiB\"\n\
             [[origin]]\nname = \"demo\"\nhosts = [\"{HOST}\"]\nurl = \"http://{behind}\"\n\
             [admin]\nsocket = \"{}\"\n",
            socket.display(),
        );
        fs::write(&config, text).expect("write the shield's configuration");
        let mut process = Process::start(
            namespace,
            Command::new(places::binary("popcache"))
                .arg("serve")
                .arg("--config")
                .arg(&config),
            &folder.join("shield.log"),
        );
        process.wait_for_line(READY, START);
        Self { process, socket }
    }

    /// Its status as it reports it.
    pub fn status(&self) -> serde_json::Value {
        let output = Command::new(places::binary("popcache"))
            .args(["status", "--json", "--socket"])
            .arg(&self.socket)
            .output()
            .expect("start popcache");
        assert!(output.status.success(), "the shield does not answer");
        serde_json::from_slice(&output.stdout).expect("status --json prints JSON")
    }

    /// Ends it without a word.
    pub fn kill(self) {
        self.process.kill();
    }
}
