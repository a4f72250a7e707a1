//! `nagaya-conformance`: the suite's command line.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use nagaya_conformance::harness::outcome::Exit;

fn main() -> ExitCode {
    let line = match cli::Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Help and version are errors to clap, but not to us. Nothing sensible can be done where it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Conformant.into() };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nagaya-conformance: {error}");
            return Exit::Internal.into();
        }
    };
    match runtime.block_on(line.execute()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("nagaya-conformance: {error}");
            error.exit().into()
        }
    }
}
