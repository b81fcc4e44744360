//! irqbalance, where it runs, is told which interrupts to leave alone, by its socket (irqbalance(1)).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FOLDER: &str = "/run/irqbalance";
/// The word for an empty list.
pub const NONE: &str = "NONE";
const PATIENCE: Duration = Duration::from_secs(2);
const MOST_BYTES: u64 = 1 << 20;

/// The interrupts that it leaves alone already; `None` where it does not run.
pub fn banned() -> Option<io::Result<String>> {
    let socket = socket(Path::new(FOLDER))?;
    Some(ask(&socket, "setup").map(|setup| parse(&setup)))
}

/// It is to leave these alone, and no others.
pub fn ban(list: &str) -> io::Result<()> {
    let Some(socket) = socket(Path::new(FOLDER)) else {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    };
    ask(&socket, &format!("settings ban irqs {list}")).map(drop)
}

fn socket(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .find(|entry| entry.file_name().to_string_lossy().ends_with(".sock"))
        .map(|entry| entry.path())
}

fn ask(socket: &Path, question: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Of `SLEEP 10 IRQ 45 LOAD 0 DIFF 0 CLASS 5 IRQ 46 ... BANNED 00000000`.
fn parse(setup: &str) -> String {
    let words: Vec<&str> = setup.split_whitespace().collect();
    let irqs = words.windows(2).filter(|pair| pair[0] == "IRQ");
    let mut irqs: Vec<u32> = irqs.filter_map(|pair| pair[1].parse().ok()).collect();
    irqs.sort_unstable();
    match irqs.is_empty() {
        true => NONE.to_owned(),
        false => irqs
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn its_list_is_read() {
        let setup =
            "SLEEP 10 IRQ 46 LOAD 0 DIFF 0 CLASS 5 IRQ 45 LOAD 0 DIFF 0 CLASS 5 BANNED 00000003";
        assert_eq!(parse(setup), "45 46");
        assert_eq!(parse("SLEEP 10 BANNED 0"), NONE);
    }

    #[test]
    fn it_is_asked_over_its_socket() {
        let folder = tempfile::tempdir().expect("directory");
        assert_eq!(socket(folder.path()), None);
        let path = folder.path().join("irqbalance42.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut question = [0; 64];
            let length = stream.read(&mut question).expect("question");
            stream
                .write_all(b"SLEEP 10 IRQ 7 LOAD 0 BANNED 0")
                .expect("answer");
            String::from_utf8_lossy(&question[..length]).into_owned()
        });
        let found = socket(folder.path()).expect("socket");
        assert_eq!(parse(&ask(&found, "setup").expect("answer")), "7");
        assert_eq!(other.join().expect("thread"), "setup");
    }
}
