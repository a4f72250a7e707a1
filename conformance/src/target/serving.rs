//! The server's program with its arguments, as the target's description has them.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;

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
}
