//! The settings of a server that is launched for a scenario.

use super::fixtures::{ANTHROPIC, Credentials, GATEWAY, Model};
use super::launch::{GATEWAY_PORT, Launch, REGION};
use super::process::Program;
use crate::harness::context::Context;
use crate::harness::failure::Failure;

impl Context {
    /// Ends a scenario that sets something which the target has no setting for.
    pub(super) fn check_settings(&self, launch: &Launch) -> Result<(), Failure> {
        let missing = launch.settings.keys().find(|name| self.description().settings.name(name).is_none());
        missing.map_or(Ok(()), |name| {
            Err(Failure::could_not_run(format!("needs the setting {name}, which the target has not, as its file says")))
        })
    }

    pub(super) fn server_program(
        &self,
        id: &str,
        launch: &Launch,
        credentials: &Credentials,
        model: Option<&Model>,
        sockets: &std::path::Path,
    ) -> Result<Program, Failure> {
        let in_dir = |name: String| self.dir().join(name).display().to_string();
        let pin = |(host, port, address): &(String, u16, String)| format!("{host}:{port}:{address}");
        let mut pins: Vec<String> = launch.pins.iter().map(pin).collect();
        let mut ca_pem = launch.ca_pem.clone();
        if let Some(model) = model {
            ca_pem.push_str(&model.ca_pem);
            for service in ["bedrock-runtime", "bedrock"] {
                pins.push(format!("{service}.{REGION}.amazonaws.com:443:{}", model.address));
            }
            for endpoint in [format!("{ANTHROPIC}:443"), format!("{GATEWAY}:{GATEWAY_PORT}")] {
                pins.push(format!("{endpoint}:{}", model.address));
            }
        }
        let mut program = self.serving(&self.dir().join(format!("{id}.addr")))?;
        let chosen = program.env.remove("BIND_ADDR");
        let mut set = |name: &str, value: String| program.env.insert(name.to_owned(), value);
        if !ca_pem.is_empty() {
            let path = in_dir(format!("{id}-ca.pem"));
            std::fs::write(&path, ca_pem)?;
            set("PROXY_EXTRA_CA_FILE", path);
            set("PROXY_RESOLVE", pins.join(","));
        } else if !pins.is_empty() {
            set("PROXY_RESOLVE", pins.join(","));
        }
        set("BIND_ADDR", chosen.unwrap_or_else(|| "127.0.0.1:0".to_owned()));
        set("STATE_DIR", in_dir(format!("{id}-state")));
        set("DEPLOYMENT_ID", id.to_owned());
        set("WORKSPACE_SOCKET_BASE_PATH", sockets.display().to_string());
        set("AWS_ACCESS_KEY_ID", credentials.id.clone());
        set("AWS_SECRET_ACCESS_KEY", credentials.secret.clone());
        set("AWS_REGION", REGION.to_owned());
        if !self.run.capabilities.image.is_empty() {
            set("CONTAINER_IMAGE", self.run.capabilities.image.clone());
        }
        set("WARM_POOL_MIN_SIZE", "0".to_owned());
        set("SHUTDOWN_WORKSPACES", "destroy".to_owned());
        set("SHUTDOWN_TIMEOUT", "5".to_owned());
        set("CONTAINER_GRACE_PERIOD", "1".to_owned());
        // Scenarios poll the API; only the scenario about rate limits sets one.
        set("RATE_LIMIT_REQUESTS", "0".to_owned());
        set("LOG_FORMAT", self.run.options.description.log.format.clone());
        if let Some(engine) = &self.run.capabilities.engine {
            set("DOCKER_SOCKET_PATH", format!("unix://{}", engine.socket().display()));
        }
        program.env.extend(launch.settings.clone());
        Ok(program)
    }
}
