//! Nodes behind names and behind TLS that asks who we are.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::harness::{Backend, Edge, HOST, Process, scripted};

const SECURE: &str = "127.0.0.1:8446";
const NAME: &str = "origin.test";

on_one_backend! {
    a_node_is_shown_who_asks,
    names_that_cannot_be_looked_up_keep_their_addresses,
}

fn a_node_is_shown_who_asks(backend: Backend) {
    let node = |identity: &str| {
        format!(
            "[[shield]]\nname = \"one\"\nurl = \"https://{SECURE}\"\nca = \"cert.pem\"\n\
             server_name = \"{HOST}\"\n{identity}"
        )
    };
    let known = node("certificate = \"other.pem\"\nkey = \"other.key\"\n");
    let edge = Edge::start_with(backend, &known);
    let origin = start_origin(&edge);
    let answer = edge.curl(&["/who"]).remove(0);
    answer.assert_body(b"other.test");
    assert_eq!(edge.origin.requests("/who"), 0);
    drop((origin, edge));

    // A stranger is refused, and the origin itself is asked.
    let edge = Edge::start_with(backend, &node(""));
    let _origin = start_origin(&edge);
    let path = "/size/10";
    edge.curl(&[path])[0].assert_body(&edge.origin.body(path));
    let status = edge.status();
    assert_eq!(status["nodes"][0]["failures"], 1, "{status:#}");
}

/// One that asks for a certificate of `other.pem`.
fn start_origin(edge: &Edge) -> Process {
    let names = ["cert.pem", "cert.key", "other.pem"];
    let [certificate, key, clients] = names.map(|name| edge.file(name).display().to_string());
    let args = [
        "--listen",
        SECURE,
        "--certificate",
        &certificate,
        "--key",
        &key,
    ];
    edge.start_origin(
        "tls_origin.py",
        &[&args[..], &["--clients", &clients]].concat(),
    )
}

/// What the appliance's namespace looks names up in. Others keep the machine's.
struct Hosts(PathBuf);

impl Hosts {
    fn write(edge: &Edge, text: &str) -> Self {
        let folder = PathBuf::from("/etc/netns").join(edge.network().server());
        fs::create_dir_all(&folder).expect("a folder for the namespace");
        fs::write(folder.join("hosts"), text).expect("names");
        // Nobody answers there.
        fs::write(
            folder.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )
        .expect("no name server");
        Self(folder)
    }

    /// As seen by who has it mounted: the same file with other contents.
    fn change(&self, text: &str) {
        fs::write(self.0.join("hosts"), text).expect("names");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn names_that_cannot_be_looked_up_keep_their_addresses(backend: Backend) {
    let more = format!(
        "[upstream]\ndns_ttl = \"1s\"\n{}",
        scripted::section_at(NAME)
    );
    let mut edge = Edge::start_with(backend, &more);
    let hosts = Hosts::write(&edge, &format!("127.0.0.1 {NAME}\n"));
    // The names of a namespace are mounted when a program is started in it.
    edge.stop_popcache();
    edge.start_popcache();
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    let origin = edge.script(|_| answer.to_vec());
    let ask = |path| edge.curl_with(&scripted::HEADER, &[path]).remove(0);
    ask("/1").assert_body(b"hello");
    hosts.change("");
    thread::sleep(Duration::from_millis(1_200));
    ask("/2").assert_body(b"hello");
    let stale = |edge: &Edge| edge.status()["nodes"][1]["dns_stale"].as_u64();
    assert_eq!(stale(&edge), Some(1), "{:#}", edge.status());
    assert_eq!(origin.asked().len(), 2);

    // What was never known is an error that says so.
    edge.stop_popcache();
    edge.start_popcache();
    let answer = edge.curl_with(&scripted::HEADER, &["/3"]).remove(0);
    assert_eq!(answer.status, 502, "{answer:?}");
    let why = answer.header("proxy-status");
    assert!(why.contains("error=dns_error"), "{answer:?}");
}
