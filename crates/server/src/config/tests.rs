//! The configuration as a whole, by example.

mod derived;
mod file;
mod reading;
mod rules;
mod table_rows;

use super::*;

/// Reads a configuration in a world of variables and one file.
fn read_in(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Outcome {
    let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let env = env
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let read_file = |path: &str| match file {
        Some(text) if path == "/c.yml" => Ok(text.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    read(
        &args,
        &Surroundings {
            program: "quorate".into(),
            env,
            read_file: &read_file,
            default_host: &|| Some("10.1.2.3".into()),
        },
    )
}

fn run(args: &[&str]) -> Config {
    run_in(args, &[], None).0
}

fn run_in(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> (Config, Vec<Note>) {
    match read_in(args, env, file) {
        Outcome::Run(config, notes) => (*config, notes),
        Outcome::Exit(exit) => panic!("{args:?} {env:?} ended with {exit:?}"),
    }
}

fn exit(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Exit {
    match read_in(args, env, file) {
        Outcome::Run(config, _) => panic!("{args:?} {env:?} started {config:?}"),
        Outcome::Exit(exit) => exit,
    }
}

/// The mistakes an exit reports.
fn mistakes(exit: &Exit) -> Vec<&str> {
    assert_eq!(
        (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
        (1, "", "")
    );
    let failed = exit
        .notes
        .iter()
        .filter(|note| note.message == "failed to verify flags");
    failed
        .filter_map(|note| note.fields.first().and_then(|(_, value)| value.as_str()))
        .collect()
}

fn has_note(notes: &[Note], message: &str, field: &str) -> bool {
    notes
        .iter()
        .any(|note| note.message == message && note.fields.iter().any(|(_, value)| value == field))
}
