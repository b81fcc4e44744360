//! Another configuration, brought into force while the node runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use cache_core::io::Command;
use serde::{Deserialize, Serialize};

use super::{NodeError, NodeHandle};
use crate::certificates::{Certificates, Prepared};
use crate::config::{self, Config, Machine};
use crate::guard::Order;
use crate::reload::{self, Plan};
use crate::service::Service;
use crate::upstream::Upstream;

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// Settings that changed.
    pub changed: Vec<String>,
    /// Settings that differ from what the node goes by, and do so until a restart.
    pub waiting: Vec<String>,
    /// How many certificates are shown from now on.
    pub certificates: usize,
    pub warnings: Vec<String>,
}

/// What is needed to change the configuration.
pub struct Reloading {
    /// What the node goes by.
    pub config: Config,
    /// The machine as it was at start: the control thread may not run on the shards' CPUs.
    pub machine: Machine,
    pub certificates: Arc<Certificates>,
    pub upstream: Arc<ArcSwap<Upstream>>,
}

/// What was read and can be had.
struct Checked {
    plan: Plan,
    certificates: Prepared,
    upstream: Option<Upstream>,
}

impl NodeHandle {
    /// Reads the configuration file and everything that it names again, and goes by it from now on, as far
    /// as that is possible while the node runs. One at a time.
    ///
    /// # Errors
    /// Something is wrong with it: then all is as before. Or a shard did not answer: then it may hold in
    /// part, and asking again is harmless.
    pub async fn reload(&self) -> Result<ConfigReport, NodeError> {
        // A task of its own: one that asks and goes away leaves no reload half made.
        let node = self.clone();
        let task = tokio::spawn(async move { Service::reloading(node.reload_now()).await });
        let reloaded = task.await.map_err(|_| NodeError::Interrupted)?;
        match &reloaded {
            Ok(report) => {
                let (changed, waiting) = (&report.changed, &report.waiting);
                tracing::info!(?changed, ?waiting, "configuration read again");
            }
            Err(error) => tracing::error!(%error, "the configuration stays as it is"),
        }
        reloaded
    }

    async fn reload_now(&self) -> Result<ConfigReport, NodeError> {
        let Some(reloading) = &self.inner.sources.reloading else {
            return Err(NodeError::Interrupted);
        };
        let mut reloading = reloading.lock().await;
        let Checked {
            plan,
            certificates,
            upstream,
        } = reloading.check().await?;
        if let Some(guard) = &self.inner.sources.guard {
            let order = Order::Configure(Box::new(plan.config.guard.clone()));
            guard.ask(order).await?;
        }
        let certificates = reloading.certificates.show(certificates);
        // Before the shards: they may then ask for what is new.
        if let Some(upstream) = upstream {
            let upstream = upstream.succeed(&reloading.upstream.load());
            upstream.start_probes();
            reloading.upstream.store(Arc::new(upstream));
        }
        let Plan {
            config,
            changed,
            waiting,
            ..
        } = plan;
        self.go_by(&config, &waiting);
        let warnings = config.warnings.clone();
        let policy = Arc::new(reload::policy(&config));
        reloading.config = config;
        self.ask_all(|| Command::Reconfigure(Arc::clone(&policy)))
            .await?;
        Ok(ConfigReport {
            changed,
            waiting,
            certificates,
            warnings,
        })
    }

    /// What is shown, and what keys of URLs are made by.
    fn go_by(&self, config: &Config, waiting: &[String]) {
        let sources = &self.inner.sources;
        sources.rulebook.store(Arc::new(config.rulebook()));
        let shown = config::explain::json(config);
        self.inner.config.store(Arc::new(shown));
        self.inner.waiting.store(Arc::new(waiting.to_vec()));
    }
}

impl Reloading {
    /// Whatever can fail without a change.
    async fn check(&self) -> Result<Checked, NodeError> {
        let (path, machine) = (self.config.path.clone(), self.machine.clone());
        let read = move || config::load(&path, &machine);
        let wanted = tokio::task::spawn_blocking(read).await;
        let wanted = wanted.map_err(|_| NodeError::Interrupted)?;
        let wanted = wanted.map_err(|error| NodeError::Config(error.to_string()))?;
        let plan = reload::plan(&self.config, wanted).map_err(NodeError::Config)?;
        let certificates = self.certificates.prepare(&plan.config.tls);
        let certificates = certificates.map_err(|error| NodeError::Tls(format!("{error:#}")))?;
        let upstream = match plan.upstream_changed {
            true => Some(Upstream::new(plan.config.upstream.clone())),
            false => None,
        };
        let upstream = upstream.transpose();
        Ok(Checked {
            certificates,
            upstream: upstream.map_err(|error| NodeError::Config(error.to_string()))?,
            plan,
        })
    }
}
