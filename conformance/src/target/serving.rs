//! The server's program with what it is told: arguments and environment, in the target's words.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;

use super::fixtures::{ANTHROPIC, Credentials, GATEWAY, Model};
use super::launch::{GATEWAY_PORT, Launch, REGION};
use super::process::Program;
use crate::description::{Act, Description};
use crate::harness::context::Context;
use crate::harness::failure::Failure;

/// The arguments for `act`. Those with the name of the address file are left out where nobody reads it.
///
/// # Errors
/// Could not run: the target's program cannot do it.
pub(super) fn arguments(
    description: &Description,
    act: Act,
    addr_file: Option<&Path>,
    address: &str,
) -> Result<Vec<OsString>, Failure> {
    let all = description.launch.arguments(act).map_err(Failure::could_not_run)?;
    let written = all.iter().filter(|argument| addr_file.is_some() || !argument.contains("{addr_file}"));
    let file = addr_file.map(|path| path.display().to_string()).unwrap_or_default();
    Ok(written.map(|argument| argument.replace("{addr_file}", &file).replace("{address}", address).into()).collect())
}

/// An address that is free now, for a server that does not choose one itself.
pub(super) fn free_address() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl Context {
    /// The target's description.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.run.options.description
    }

    /// The server's program for `act`, with only a home directory and the search path in its environment. Nothing reads its address.
    ///
    /// # Errors
    /// Could not run: the target's program cannot do it.
    pub fn program(&self, act: Act) -> Result<Program, Failure> {
        // A server that takes its address as an argument gets one that is free.
        let address = if self.description().launch.writes_address() { String::new() } else { free_address()? };
        let arguments = arguments(self.description(), act, None, &address)?;
        Ok(self.bare(arguments))
    }

    /// As [`Context::program`] for serving: the address is written to the file, or is in `BIND_ADDR` if the server cannot write it.
    ///
    /// # Errors
    /// As [`Context::program`].
    pub fn serving(&self, addr_file: &Path) -> Result<Program, Failure> {
        let chosen = (!self.description().launch.writes_address()).then(free_address).transpose()?;
        let arguments =
            arguments(self.description(), Act::Serve, Some(addr_file), chosen.as_deref().unwrap_or_default())?;
        let mut program = self.bare(arguments);
        program.env.extend(chosen.map(|address| ("BIND_ADDR".to_owned(), address)));
        Ok(program)
    }

    fn bare(&self, arguments: Vec<OsString>) -> Program {
        let mut program = Program::new(&self.run.capabilities.server, arguments);
        program.settings = self.description().settings.clone();
        program.env.insert("HOME".to_owned(), self.dir().display().to_string());
        if let Ok(path) = std::env::var("PATH") {
            program.env.insert("PATH".to_owned(), path);
        }
        program
    }

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
