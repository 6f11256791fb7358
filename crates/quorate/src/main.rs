//! The one binary: the server by default; its first word or its own name picks another persona.

use std::process::ExitCode;

use server::config::{self, Outcome, Surroundings};
use server::{logging, run};

/// Chosen by measurement: the key index copies many small blocks, and glibc's allocator takes a third longer for a put.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if !args.is_empty() {
        args.remove(0);
    }
    match config::read(&args, &Surroundings::of_this_process()) {
        Outcome::Exit(exit) => exit.act(),
        Outcome::Run(config, notes) => serve(*config, &notes),
    }
}

/// Sets up the log, says what was noticed while reading the configuration, and runs the member.
fn serve(config: config::Config, notes: &[config::Note]) -> ExitCode {
    let log = match logging::Logger::open(&config.log) {
        Ok(log) => log,
        Err(why) => {
            eprintln!("cannot open the log: {why}");
            return ExitCode::FAILURE;
        }
    };
    log.install();
    for note in notes {
        log.note(note);
    }
    for line in config.not_yet() {
        log.note(&config::Note::new(config::Level::Warn, line));
    }
    run::run(config)
}
