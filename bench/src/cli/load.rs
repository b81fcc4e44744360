//! `popcache-bench load`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use popcache_bench::load::herd::herd;
use popcache_bench::load::plot::svg;
use popcache_bench::load::tcp::{self, Version};
use popcache_bench::load::{self, Amount, Options, Report, locate, of_trace};
use serde::Serialize;

use super::PathArguments;

#[derive(clap::Args)]
pub struct Arguments {
    /// The server's address; without it, that of the first --url
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: Option<SocketAddr>,
    /// Host name for SNI and :authority; without it, that of the first --url, or edge.test
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    paths: PathArguments,
    /// Popularity of the paths: exponent of Zipf's law; 0 asks for them in turn
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Connections
    #[arg(long, short, default_value_t = 1)]
    connections: usize,
    /// Requests under way on each connection
    #[arg(long, short, default_value_t = 1)]
    streams: usize,
    /// Open loop: requests a second, whatever the server does
    #[arg(long)]
    rate: Option<f64>,
    /// Stop after this many answers
    #[arg(long, short = 'n', conflicts_with = "seconds")]
    requests: Option<u64>,
    /// Stop after this long
    #[arg(long, short = 't', default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of load before the measured time
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
    /// Share of the requests (0 to 1) that open a connection of their own
    #[arg(long, default_value_t = 0.0)]
    new_connections: f64,
    /// Share of those connections (0 to 1) that send their request in the first flight (0-RTT)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    zero_rtt: f64,
    /// Ask for the objects of this trace in its order (zstd of little-endian u64 key and u32 size);
    /// --path-template makes their paths, with {} for the number of an object and {size} for its size
    #[arg(long, value_name = "FILE", conflicts_with_all = ["urls", "zipf", "herd"])]
    trace: Option<PathBuf>,
    /// Draw the latency distribution as an SVG image
    #[arg(long, value_name = "FILE", conflicts_with = "herd")]
    plot: Option<PathBuf>,
    /// No progress line
    #[arg(long)]
    quiet: bool,
    /// Send N requests for one path at once instead of a steady load
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "requests"])]
    herd: Option<usize>,
    /// With --herd: the path is a film's (/film/BYTES), and each request is for another part of it
    #[arg(long, requires = "herd")]
    parts: bool,
    /// Give up after this many seconds without progress
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,
    /// Compare every body with the demo origin's, byte for byte
    #[arg(long)]
    verify: bool,
    /// Run on this core
    #[arg(long)]
    core: Option<usize>,
    /// Over TCP: 1 for HTTP/1.1, 2 for HTTP/2; a closed loop
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), conflicts_with = "herd")]
    http: Option<u8>,
    /// UDP sockets, and so client addresses, that the connections are spread over
    #[arg(long, default_value_t = 1)]
    sockets: usize,
    /// Microseconds of busy waiting before the thread sleeps
    #[arg(long, default_value_t = 50)]
    spin: u64,
    /// Measure the processor time of this process; may be given several times
    #[arg(long, value_name = "PID")]
    watch: Vec<i32>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Exit with 0 even if requests failed
    #[arg(long)]
    allow_errors: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = arguments.options()?;
    let failed = match arguments.herd {
        Some(count) => {
            let report = herd(&options, count, arguments.parts)?;
            print(arguments.json, &report, &report)?;
            report.failed
        }
        None => {
            let report = match arguments.http {
                None => load::run(&options)?,
                Some(1) => tcp::run(&options, Version::Http1)?,
                Some(_) => tcp::run(&options, Version::Http2)?,
            };
            print(arguments.json, &report, &report)?;
            if let Some(file) = &arguments.plot {
                arguments.plot(file, &report)?;
            }
            report.failed
        }
    };
    let good = failed == 0 || arguments.allow_errors;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(json: bool, report: &impl Serialize, text: &impl std::fmt::Display) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{text}");
    }
    Ok(())
}

impl Arguments {
    fn plot(&self, file: &Path, report: &Report) -> Result<()> {
        let title = format!(
            "{} requests, {:.0} a second, {} loop",
            report.requests,
            report.rps,
            if self.rate.is_some() {
                "open"
            } else {
                "closed"
            }
        );
        std::fs::write(file, svg(&title, &report.curves))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn options(&self) -> Result<Options> {
        let (paths, order) = match &self.trace {
            Some(file) => {
                let [template] = &self.paths.path_template[..] else {
                    bail!("--trace needs one --path-template");
                };
                of_trace(file, template)?
            }
            None => (self.paths.all(), Vec::new()),
        };
        let (remote, name, paths) = locate(&paths, self.connect, self.name.as_deref())?;
        let amount = match self.requests {
            Some(count) => Amount::Requests(count),
            None => Amount::Time(duration("seconds", self.seconds)?),
        };
        Ok(Options {
            zipf: self.zipf,
            order,
            zero_rtt: self.zero_rtt,
            progress: !self.quiet && !self.json,
            connections: self.connections,
            streams: self.streams,
            rate: self.rate,
            amount,
            warmup: duration("warmup", self.warmup)?,
            new_connections: self.new_connections,
            timeout: duration("timeout", self.timeout)?,
            verify: self.verify,
            core: self.core,
            sockets: self.sockets,
            spin: Duration::from_micros(self.spin),
            watch: self.watch.clone(),
            seed: self.seed,
            ..Options::new(remote, &name, paths)
        })
    }
}

fn duration(what: &str, seconds: f64) -> Result<Duration> {
    ensure!(
        (0.0..=86_400.0).contains(&seconds),
        "{what} is {seconds}: it must be 0 to 86400 seconds"
    );
    Ok(Duration::from_secs_f64(seconds))
}
