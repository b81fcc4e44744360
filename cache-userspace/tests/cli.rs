//! The real binary: what it prints, where, and how it exits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOOD: &str = "\
[server]
listen = \"127.0.0.1:4433\"

[[origin]]
name = \"demo\"
hosts = [\"edge.test\"]
url = \"http://127.0.0.1:8080\"
";

fn popcache(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_popcache"))
        .args(arguments)
        .env_remove("POPCACHE_LOG")
        .output()
        .expect("the binary runs")
}

fn write(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("popcache.toml");
    fs::write(&path, text).expect("written");
    path
}

fn check(text: &str, json: bool) -> Output {
    let dir = tempfile::tempdir().expect("directory");
    let path = write(dir.path(), text);
    let path = path.to_str().expect("a plain path");
    match json {
        true => popcache(&["check", "--json", "--config", path]),
        false => popcache(&["check", "--config", path]),
    }
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

#[test]
fn check_explains_a_good_file() {
    let output = check(GOOD, false);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let text = stdout(&output);
    for line in [
        "listen = [\"127.0.0.1:4433\"]                  # line 2: UDP addresses",
        "ram = \"256 MiB\"                              # default: bytes of all arenas",
        "# warning: no tls.certificate",
        "# memory, with every bound reached at once",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn check_speaks_json() {
    let output = check(GOOD, true);
    assert_eq!(output.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    let setting = |section: &str, key: &str| {
        let all = document["settings"].as_array().expect("settings");
        all.iter()
            .find(|s| s["section"] == section && s["key"] == key)
            .expect("setting")
            .clone()
    };
    assert_eq!(setting("server", "listen")["value"][0], "127.0.0.1:4433");
    assert_eq!(setting("server", "listen")["line"], 2);
    assert_eq!(setting("limits", "max_waiters")["value"], 200_000);
    assert_eq!(setting("limits", "max_waiters")["source"], "default");
    assert_eq!(document["memory"]["arenas"], 256 << 20);
    assert_eq!(document["problems"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_bad_file_is_refused_with_every_problem() {
    let bad = format!("{GOOD}[memory]\nram = \"lots\"\n[limits]\nmax_waiter = 1\n");
    let output = check(&bad, false);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(text.contains("popcache.toml has 2 problems:"), "{text}");
    assert!(
        text.contains("line 9, column 7: ram: \"lots\" is not a size"),
        "{text}"
    );
    assert!(
        text.contains(
            "line 11, column 1: unknown key `max_waiter` in [limits] (did you mean `max_waiters`?)"
        ),
        "{text}"
    );

    let output = check(&bad, true);
    assert_eq!(output.status.code(), Some(2));
    let document: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!(document["problems"][0]["line"], 9);
    assert_eq!(
        document["problems"][1]["hint"],
        "did you mean `max_waiters`?"
    );
}

#[test]
fn serve_refuses_a_bad_file_like_check() {
    let dir = tempfile::tempdir().expect("directory");
    let path = write(dir.path(), "[server]\nlisen = 1\n");
    let output = popcache(&["serve", "--config", path.to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("did you mean `listen`?"),
        "{}",
        stderr(&output)
    );

    let output = popcache(&["serve", "--config", "/nonexistent/popcache.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("cannot read /nonexistent/popcache.toml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_bad_log_filter_in_the_environment_is_said() {
    let dir = tempfile::tempdir().expect("directory");
    let path = write(dir.path(), GOOD);
    let output = Command::new(env!("CARGO_BIN_EXE_popcache"))
        .args(["serve", "--config", path.to_str().expect("a plain path")])
        .env("POPCACHE_LOG", "cache_core=loud")
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("POPCACHE_LOG=\"cache_core=loud\" is not a log filter"));
}

#[test]
fn without_a_node_the_exit_code_is_3() {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("admin.sock");
    let socket = socket.to_str().expect("a plain path");
    for arguments in [
        vec!["status", "--socket", socket],
        vec!["status", "--json", "--socket", socket],
        vec!["top", "--socket", socket],
        vec!["purge", "--all", "--socket", socket],
        vec!["purge", "https://edge.test/a", "--socket", socket],
        vec!["pin", "https://edge.test/a", "--socket", socket],
        vec!["pins", "--socket", socket],
    ] {
        let output = popcache(&arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(
            stderr(&output).contains("is it running"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn the_socket_can_come_from_the_configuration() {
    let dir = tempfile::tempdir().expect("directory");
    let path = write(
        dir.path(),
        &format!("[admin]\nsocket = \"here.sock\"\n{GOOD}"),
    );
    let output = popcache(&["status", "--config", path.to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(3));
    let expected = dir.path().join("here.sock");
    assert!(
        stderr(&output).contains(expected.to_str().expect("a plain path")),
        "{}",
        stderr(&output)
    );
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for arguments in [
        &["purge"][..],
        &["pin"],
        &["nonsense"],
        &[],
        &["status", "--sockt", "x"],
        &["top", "--interval", "1ms"],
        &["top", "--count", "0"],
    ] {
        assert_eq!(popcache(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["purge", "-h"],
        &["pin", "--help"],
        &["unpin", "--help"],
        &["pins", "--help"],
    ] {
        assert_eq!(popcache(arguments).status.code(), Some(0), "{arguments:?}");
    }
    let help = popcache(&["--help"]);
    for words in [
        "Exit codes:",
        "3  no node answers",
        "popcache purge https://",
    ] {
        assert!(stdout(&help).contains(words), "{}", stdout(&help));
    }
}

#[test]
fn completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish"] {
        let output = popcache(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("socket"), "{shell}");
    }
    let output = popcache(&["man"]);
    assert!(
        stdout(&output).contains(".TH popcache 1"),
        "{}",
        stdout(&output)
    );

    let dir = tempfile::tempdir().expect("directory");
    let output = popcache(&["man", "--dir", dir.path().to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let page = fs::read_to_string(dir.path().join("popcache-purge.1")).expect("a page a command");
    assert!(page.contains("popcache purge"), "{page}");
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let script = format!(
        "{} completions bash | head -1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_popcache")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("bash");
    assert!(stdout(&output).ends_with("\n0\n"), "{}", stdout(&output));
}
