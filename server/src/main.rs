//! Entry point: parses the command line and calls the command's function.

use std::process::ExitCode;

use clap::Parser;
use nagaya_server::cli::{self, Cli, Command, Exit};
use nagaya_server::config::Config;
use nagaya_server::{api, doctor, probe, serve};

fn main() -> ExitCode {
    command().into()
}

fn command() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage(&error),
    };
    if let Command::Openapi = cli.command {
        return cli::print_json(&api::openapi());
    }
    let config = match Config::load(cli.config.as_deref()) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            return Exit::Usage;
        }
    };
    match cli.command {
        Command::Config { json: true } => cli::run(cli::print_settings_json(config)),
        Command::Config { json: false } => cli::run(cli::print_settings(config)),
        Command::Doctor => cli::run(doctor::run(config)),
        Command::Health => cli::run(probe::run(config)),
        Command::Serve { addr_file } => cli::run(serve::run(config, cli.config, addr_file)),
        Command::Openapi => Exit::Bug,
    }
}
