//! `popcache explain`.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Node, fail, print, remote};
use crate::admin::client;
use crate::config::{self, Machine};
use crate::explain::{ExplainError, Question, Report};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The URL as clients ask for it
    #[arg(value_name = "URL")]
    url: String,
    /// A field of the request; repeat for more
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The request's method
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    method: String,
    /// Ask no node: go by this configuration file alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "config"])]
    offline: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: Node,
}

pub(super) fn explain(arguments: &Explain) -> Exit {
    let question = Question {
        url: arguments.url.clone(),
        method: arguments.method.clone(),
        headers: arguments.headers.clone(),
    };
    let report = match &arguments.offline {
        Some(file) => offline(file.clone(), &question),
        None => match question.request() {
            Err(error) => Err(fail(Exit::Usage, error)),
            Ok(_) => remote::ask(&arguments.node, async |socket| {
                client::explain(socket, &question).await
            }),
        },
    };
    match report {
        Err(exit) => exit,
        Ok(report) if !arguments.json => print(&report.page()),
        Ok(report) => match serde_json::to_string(&report) {
            Ok(text) => print(&(text + "\n")),
            Err(error) => fail(Exit::Failed, error),
        },
    }
}

fn offline(file: PathBuf, question: &Question) -> Result<Report, Exit> {
    let config = config::load(&file, &Machine::this()).map_err(|error| fail(Exit::Usage, error))?;
    explained(&config, question).map_err(|error| fail(Exit::Usage, error))
}

fn explained(config: &config::Config, question: &Question) -> Result<Report, ExplainError> {
    let rulebook = config.rulebook();
    let explained = rulebook.plan(question.request()?)?;
    Ok(rulebook.report(&explained, None, None))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn report(url: &str, headers: &[&str]) -> Result<Report, ExplainError> {
        let text = "[[origin]]\nname = \"demo\"\nhosts = [\"edge.test\"]\nurl = \"http://127.0.0.1:8\"\n\
            [[route]]\nname = \"lists\"\nextensions = \"m3u8\"\nclass = \"playlist\"\n\
            strip_segments = \"token=*\"\nencodings = \"br\"\n";
        let machine = Machine {
            cpus: vec![0],
            memory: 8 << 30,
        };
        let config = config::parse(text, Path::new("/etc/popcache.toml"), &machine).expect("good");
        let question = Question {
            url: url.to_owned(),
            method: "GET".to_owned(),
            headers: headers.iter().map(|&line| line.to_owned()).collect(),
        };
        explained(&config, &question)
    }

    #[test]
    fn a_file_alone_says_route_class_and_key() {
        let url = "https://Edge.test/live/token=9/a.m3u8?x=1";
        let report = report(url, &["Accept-Encoding: gzip, br"]).expect("a request");
        assert_eq!(report.key, "edge.test/live/a.m3u8?x=1");
        assert_eq!(
            (report.route.as_deref(), report.class.as_str()),
            (Some("lists"), "playlist")
        );
        assert_eq!(report.verdict, "look up");
        let coding = ("accept-encoding".to_owned(), "br".to_owned());
        assert!(report.sent.contains(&coding), "{:?}", report.sent);
        let page = report.page();
        for line in [
            "key      edge.test/live/a.m3u8?x=1",
            "rules    default_ttl 1s",
            "tier     not asked",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn what_no_request_can_be_is_said() {
        for (url, headers, said) in [
            ("edge.test/a", &[][..], "not a URL"),
            (
                "https://edge.test/../a",
                &[],
                "400: bad target: path has dot segments",
            ),
            ("https://edge.test/a", &["Accept"], "write \"Name: value\""),
            (
                "https://edge.test/a",
                &["Connection: close"],
                "connection-specific",
            ),
        ] {
            let error = report(url, headers).expect_err("refused").to_string();
            assert!(error.contains(said), "{error}");
        }
        let other = report("https://other.test/a", &[]).expect("a request");
        assert_eq!(other.why, "421: no [[origin]] serves this host");
    }
}
