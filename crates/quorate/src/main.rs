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
    let name = if args.is_empty() {
        String::new()
    } else {
        args.remove(0)
    };
    if let Some(persona) = tool(&name, &mut args) {
        return ctl::run(persona, &args);
    }
    match config::read(&args, &Surroundings::of_this_process()) {
        Outcome::Exit(exit) => exit.act(),
        Outcome::Run(config, notes) => serve(*config, &notes),
    }
}

/// The offline tool that is meant: by the program's own name, or by the first word, which is taken away.
fn tool(name: &str, args: &mut Vec<String>) -> Option<ctl::Persona> {
    if name.rsplit('/').next() == Some("etcdutl") {
        return Some(ctl::Persona::Etcdutl);
    }
    let persona = match args.first()?.as_str() {
        "etcdutl" => ctl::Persona::Etcdutl,
        "verify" => ctl::Persona::Verify,
        _ => return None,
    };
    args.remove(0);
    Some(persona)
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
