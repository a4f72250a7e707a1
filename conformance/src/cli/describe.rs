//! `describe`

use std::path::PathBuf;

use anyhow::Context as _;
use nagaya_conformance::client::http::Api;
use nagaya_conformance::description::keys;
use nagaya_conformance::harness::engine::Engine;
use nagaya_conformance::harness::exchanges::{Exchanges, Secrets};
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::harness::trust::Trust;
use nagaya_conformance::target::{describe, reach};

use super::fault::Fault;

#[derive(Debug, clap::Args)]
pub(super) struct Describe {
    /// Base URL of the deployment to describe. It is only read.
    #[arg(long, value_name = "URL", required_unless_present = "schema")]
    target: Option<String>,
    /// An operator's key for the API.
    #[arg(long, value_name = "KEY", env = "NAGAYA_CONFORMANCE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// PEM file with the certificate authority of an https:// target, in addition to those of this machine.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Docker socket of the engine that runs its workspaces, of which at least one should be running. It is only read.
    #[arg(long, value_name = "SOCK")]
    docker: Option<String>,
    /// The value of a label on its workspaces, where the engine runs those of several deployments.
    #[arg(long, value_name = "ID", requires = "docker")]
    deployment: Option<String>,
    /// Prints the JSON Schema of target files in place of one.
    #[arg(long, conflicts_with = "target")]
    schema: bool,
    /// Writes to this file, which must not exist unless it is a schema; by default to standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Describe {
    pub(super) async fn execute(self) -> Result<Exit, Fault> {
        let text = match &self.target {
            Some(target) => self.probe(target).await.map_err(|error| Fault::Setup(format!("{error:#}")))?,
            None => format!("{:#}\n", keys::schema()),
        };
        let Some(path) = &self.output else {
            print!("{text}");
            return Ok(Exit::Conformant);
        };
        let fault = |error: std::io::Error| Fault::Usage(format!("--output {}: {error}", path.display()));
        // A file that somebody has completed must not be lost.
        let mut options = std::fs::OpenOptions::new();
        let file = if self.schema { options.create(true).truncate(true) } else { options.create_new(true) };
        let mut file = file.write(true).open(path).map_err(fault)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(fault)?;
        eprintln!("written: {}", path.display());
        Ok(Exit::Conformant)
    }

    async fn probe(&self, target: &str) -> anyhow::Result<String> {
        let named = || format!("--target {target}");
        let options = Options { ca: self.ca.clone(), ..Options::default() };
        reach::check_url(target, &options)?;
        let trust = if target.starts_with("https://") {
            Trust::load(self.ca.as_deref()).map_err(anyhow::Error::msg).with_context(named)?
        } else {
            Trust::default()
        };
        let engine = match &self.docker {
            Some(socket) => Some(Engine::connect(socket).await.context("--docker")?),
            None => None,
        };
        let workspaces = engine.as_ref().map(|engine| (engine, self.deployment.as_deref()));
        let api = Api::trusting(&trust, target, self.api_key.as_deref(), Exchanges::new(Secrets::default()));
        let api = api.map_err(|failure| anyhow::anyhow!("{failure}")).with_context(named)?.waiting_out_limits();
        Ok(describe::probe(&api, self.api_key.is_some(), workspaces).await.with_context(named)?.file())
    }
}
