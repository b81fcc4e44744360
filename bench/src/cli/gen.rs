//! `popcache-bench gen`: sends packets, or without a destination, benchmarks how fast.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use popcache_bench::r#gen::{self, Mix, Options, Ports, Sources, Way, What, figures, parse_mac};

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to send to; without it, how fast each way is on this machine is measured
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: Option<SocketAddr>,
    /// How: live-frames, af-xdp, udp-gso or sendmmsg
    #[arg(long, default_value = "live-frames")]
    way: String,
    /// Interface to send through; without it, the one that the route says
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Address or prefix that packets claim to come from (live-frames and af-xdp); without it, the
    /// interface's own address
    #[arg(long, value_name = "PREFIX")]
    from: Option<String>,
    /// Source ports; sockets use the first 64
    #[arg(long, default_value = "1024-65535", value_name = "FIRST-LAST")]
    ports: String,
    /// Kinds by weight: initial (a real client's first flight), forged-initial, short (forged ids),
    /// malformed, amplification, syn
    #[arg(long, default_value = "initial", value_name = "KIND=N,...")]
    mix: String,
    /// Payload bytes of short headers
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Send the frames of this capture as they are instead
    #[arg(long, value_name = "FILE", conflicts_with = "mix")]
    pcap: Option<PathBuf>,
    /// Packets a second; without it, as fast as it goes
    #[arg(long)]
    rate: Option<f64>,
    /// Stop after this many packets
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Stop after this long
    #[arg(long, short = 't', default_value_t = 5.0)]
    seconds: f64,
    /// Ethernet address to send to; without it, the one that the kernel knows
    #[arg(long, value_name = "MAC")]
    destination_mac: Option<String>,
    /// All of the network that packets can reach is mine: lets real NICs and public addresses be used
    #[arg(long)]
    i_own_this_network: bool,
    /// Queue of the AF_XDP socket
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// Run on this core
    #[arg(long)]
    core: Option<usize>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as JSON; of the benchmark, write the figures to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// No progress line
    #[arg(long)]
    quiet: bool,
    /// Of the benchmark: fewer and shorter runs
    #[arg(long)]
    quick: bool,
    /// Of the benchmark: runs of each way
    #[arg(long)]
    runs: Option<usize>,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if arguments.to.is_none() && arguments.pcap.is_none() {
        return figures::run(&figures::Options {
            quick: arguments.quick,
            json: arguments.json,
            runs: arguments.runs,
        });
    }
    let report = r#gen::run(&arguments.options()?)?;
    match &arguments.json {
        None => print!("{report}"),
        Some(file) => {
            let json = serde_json::to_string_pretty(&report)? + "\n";
            if file.as_os_str() == "-" {
                print!("{json}");
            } else {
                std::fs::write(file, json)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn options(&self) -> Result<Options> {
        let Some(way) = Way::ALL.into_iter().find(|way| way.name() == self.way) else {
            bail!(
                "`{}` is no way to send: there are {}",
                self.way,
                Way::ALL.map(Way::name).join(", ")
            );
        };
        ensure!(
            (0.0..=86_400.0).contains(&self.seconds),
            "seconds is {}: it must be 0 to 86400",
            self.seconds
        );
        let mac = |text: &String| {
            parse_mac(text).with_context(|| format!("`{text}` is not an Ethernet address"))
        };
        Ok(Options {
            way,
            interface: self.interface.clone(),
            to: self.to,
            destination_mac: self.destination_mac.as_ref().map(mac).transpose()?,
            sources: self.from.as_deref().map(Sources::parse).transpose()?,
            ports: Ports::parse(&self.ports)?,
            what: match &self.pcap {
                Some(file) => What::Capture(file.clone()),
                None => What::Mix {
                    mix: Mix::parse(&self.mix)?,
                    size: self.size,
                },
            },
            rate: self.rate,
            count: self.count,
            time: Duration::from_secs_f64(self.seconds),
            owned: self.i_own_this_network,
            queue: self.queue,
            core: self.core,
            seed: self.seed,
            progress: !self.quiet,
        })
    }
}
