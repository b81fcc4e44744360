use super::*;
use crate::guard::settings::SourceLimits;
use cache_ebpf::rule::{Modes, Rule};

/// The defaults, with the state in a file that is not there.
pub(crate) fn config() -> GuardConfig {
    let mut modes = Modes::OFF;
    for rule in Rule::ALL {
        modes.set(*rule, settings::default_mode(*rule));
    }
    GuardConfig {
        modes,
        allow: Vec::new(),
        block: Vec::new(),
        allow_files: Vec::new(),
        block_files: Vec::new(),
        reflector_ports: settings::REFLECTOR_PORTS.to_vec(),
        limits: SourceLimits::default(),
        event_sample: 1,
        max_entries: 8,
        bucket_key_lifetime: Duration::from_secs(600),
        cid_key_lifetime: Duration::from_secs(3600),
        state_file: PathBuf::from("/nonexistent/guard.json"),
    }
}

mod real;
