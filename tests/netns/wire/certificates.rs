//! Certificates by name (SNI), over TCP and QUIC, read again while connections go on.

use std::fs;

use crate::harness::{Backend, Edge, HOST, OTHER_HOST, Shown};

const OTHER: &str = "[[certificate]]\ncertificate = \"other.pem\"\nkey = \"other.key\"\n";

on_both_backends! {
    each_name_has_its_certificate_and_new_ones_need_no_restart,
}

fn shown(edge: &Edge) -> Vec<Shown> {
    edge.certificates(&[HOST, OTHER_HOST, "unknown.test"])
}

fn both(hash: &str) -> Shown {
    Shown {
        tcp: hash.to_owned(),
        quic: hash.to_owned(),
    }
}

fn each_name_has_its_certificate_and_new_ones_need_no_restart(backend: Backend) {
    let edge = Edge::start_with(backend, OTHER);
    let pid = edge.pid();
    let (first, other) = (
        edge.certify("cert", HOST),
        edge.certify("other", OTHER_HOST),
    );
    // What is in the files is not what was read.
    for one in shown(&edge) {
        assert_eq!(one.tcp, one.quic);
        assert!(![&first, &other].contains(&&one.tcp));
    }
    let said = edge.control(&["reload-tls"]);
    assert!(said.contains('2'), "{said}");
    assert_eq!(shown(&edge), [both(&first), both(&other), both(&first)]);

    // A broken file changes nothing, and is named.
    let files = ["cert.pem", "cert.key"].map(|name| edge.file(name));
    let kept = files.clone().map(|file| fs::read(file).expect("there"));
    fs::write(edge.file("other.pem"), "no certificate").expect("written");
    edge.certify("cert", HOST);
    let said = edge.refused(&["reload-tls"]);
    assert!(said.contains("other.pem"), "{said}");
    assert_eq!(shown(&edge), [both(&first), both(&other), both(&first)]);
    for (file, text) in files.iter().zip(kept) {
        fs::write(file, text).expect("written");
    }

    // By signal, while a download goes on.
    let path = "/size/30000000";
    let body = edge.origin.body(path);
    std::thread::scope(|scope| {
        let download = scope.spawn(|| edge.curl_with(&["--version", "v2"], &[path]).remove(0));
        edge.wait_until("tcp_requests", |requests| requests > 0);
        let other = edge.certify("other", OTHER_HOST);
        edge.reload_by_signal();
        while edge.certificates(&[OTHER_HOST]) != [both(&other)] {}
        download
            .join()
            .expect("a download")
            .assert_body_over("h2", &body);
    });
    assert_eq!(edge.pid(), pid);
}
