//! `popcache tune` on a veth of four queues: applied, verified and rolled back for real.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::places;

const NIC: &str = "tn0";

/// A namespace with the veth, and where the ledger goes.
struct Bench {
    namespace: String,
    state: PathBuf,
}

impl Bench {
    fn make() -> Self {
        let namespace = format!("popcache-tune-{}", std::process::id());
        let bench = Self {
            state: Path::new("/run").join(&namespace),
            namespace,
        };
        run(Command::new("ip").args(["netns", "add", &bench.namespace]));
        let four = ["numrxqueues", "4", "numtxqueues", "4"];
        let mut add = bench.inside("ip");
        add.args(["link", "add", NIC]).args(four);
        add.args(["type", "veth", "peer", "name", "tn1"]);
        run(add.args(four));
        for name in [NIC, "tn1"] {
            run(bench.inside("ip").args(["link", "set", name, "up"]));
        }
        bench
    }

    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program);
        command
    }

    fn tune(&self, what: &str, rest: &[&str]) -> Output {
        let mut tune = self.inside(places::binary("popcache"));
        tune.args(["tune", what, "--interface", NIC, "--cores", "0,1"]);
        // No configuration: nothing but the NIC is touched.
        tune.args(["--config", "/nonexistent", "--state"])
            .arg(&self.state);
        tune.args(rest).output().expect("start popcache")
    }

    fn json(&self, what: &str) -> serde_json::Value {
        let output = self.tune(what, &["--json"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{what}: {error}: {errors}"))
    }

    /// Everything that tools other than popcache say of the NIC.
    fn snapshot(&self) -> BTreeMap<String, String> {
        let script = format!(
            "ethtool -k {NIC}; ethtool -l {NIC}; cd /sys/class/net/{NIC}; \
             for f in threaded napi_defer_hard_irqs gro_flush_timeout queues/*/?ps_cpus; do echo \"$f: $(cat $f)\"; done"
        );
        let output = run(self.inside("sh").args(["-c", &script]));
        let text = String::from_utf8(output.stdout).expect("text");
        let mut section = String::new();
        let mut found = BTreeMap::new();
        for line in text.lines() {
            match line.split_once(':') {
                Some((name, "")) => section = name.to_owned(),
                Some((name, value)) => drop(found.insert(
                    format!("{section} {}", name.trim()),
                    value.trim().to_owned(),
                )),
                None => {}
            }
        }
        found
    }

    fn file(&self, name: &str) -> String {
        let output = run(self
            .inside("cat")
            .arg(format!("/sys/class/net/{NIC}/{name}")));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let deleted = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("could not remove the namespace {}", self.namespace);
        }
        if self.state.exists() && fs::remove_dir_all(&self.state).is_err() {
            eprintln!("could not remove {}", self.state.display());
        }
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("start a program");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}

#[test]
fn a_veth_is_tuned_and_is_then_as_it_was() {
    let bench = Bench::make();
    let before = bench.snapshot();

    let plan = bench.json("plan");
    assert_eq!(bench.snapshot(), before, "a plan changes nothing");
    let steps = plan["steps"].as_array().expect("steps");
    let planned = |setting: &str| steps.iter().any(|step| step["setting"] == setting);
    for setting in ["channels/rx", "channels/tx", "feature/rx-gro"] {
        assert!(planned(setting), "{setting} is not in {plan:#}");
    }
    let unavailable = plan["unavailable"].as_array().expect("what a veth has not");
    for one in [
        "ring/rx",
        "coalesce/rx-usecs",
        "flow-hash/udp4",
        "rss/table",
    ] {
        let found = unavailable.iter().find(|have| have["setting"] == one);
        let reason = found.map(|found| found["reason"].as_str().expect("a reason"));
        assert!(
            reason.is_some_and(|reason| !reason.is_empty()),
            "{one} in {plan:#}"
        );
    }

    let applied = bench.json("apply");
    assert_eq!(
        applied["wrong"].as_array().map(Vec::len),
        Some(0),
        "{applied:#}"
    );
    let verified = bench.tune("verify", &[]);
    let page = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{page}");
    assert_eq!(bench.file("threaded"), "1");
    assert_eq!(bench.file("gro_flush_timeout"), "20000");
    assert_eq!(
        bench
            .file("queues/tx-1/xps_cpus")
            .trim_start_matches(['0', ',']),
        "2"
    );
    let tuned = bench.snapshot();
    assert_eq!(tuned["Current hardware settings RX"], "2", "{tuned:#?}");
    assert_eq!(
        tuned[&format!("Features for {NIC} generic-receive-offload")],
        "on",
        "{tuned:#?}"
    );
    assert!(
        bench.json("plan")["steps"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );

    // Someone else changes something: that is noticed, and named.
    let script = format!("echo 7 > /sys/class/net/{NIC}/gro_flush_timeout");
    run(bench.inside("sh").args(["-c", &script]));
    let drifted = bench.tune("verify", &[]);
    let page = String::from_utf8_lossy(&drifted.stdout).into_owned();
    assert_eq!(drifted.status.code(), Some(1), "{page}");
    assert!(
        page.contains("gro_flush_timeout") && page.contains("7, not 20000"),
        "{page}"
    );

    let undone = bench.json("rollback");
    assert_eq!(
        undone["wrong"].as_array().map(Vec::len),
        Some(0),
        "{undone:#}"
    );
    assert_eq!(bench.snapshot(), before);
    let again = bench.tune("rollback", &[]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("nothing was applied"), "{said}");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let output = Command::new(places::binary("popcache"))
        .args([
            "tune",
            "--interface",
            "nosuch0",
            "--cores",
            "0",
            "--config",
            "/nonexistent",
        ])
        .output()
        .expect("start popcache");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("there is no interface \"nosuch0\""), "{said}");
}
