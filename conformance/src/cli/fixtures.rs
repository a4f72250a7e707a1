//! `fixtures`

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nagaya_conformance::harness::outcome::Exit;
use nagaya_conformance::target::binaries;

use super::fault::Fault;

#[derive(Debug, clap::Args)]
pub(super) struct Fixtures {
    /// Its arguments, for example `model --help`.
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Fixtures {
    /// Replaces this process by the program, so that signals and the exit status are its own.
    pub(super) fn execute(self) -> Result<Exit, Fault> {
        let program = binaries::fixtures().map_err(Fault::Setup)?;
        let error = Command::new(&program).arg0("nagaya-fixtures").args(self.arguments).exec();
        Err(Fault::Setup(format!("{}: {error}", program.display())))
    }
}
