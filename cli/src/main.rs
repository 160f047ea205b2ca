//! `alkfs`: the alknet-fs filesystem on the command line.

mod app;
mod args;
mod commands;
mod failure;
mod output;

use std::process::ExitCode;

use crate::app::App;
use crate::args::Args;
use crate::failure::usage_error;

fn main() -> ExitCode {
    let args = match Args::from_command_line() {
        Ok(args) => args,
        Err(error) => return usage_error(&error),
    };
    let app = App::new(args.global);
    let result = commands::run(&app, args.command).and_then(|()| Ok(app.out.flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&app),
    }
}
