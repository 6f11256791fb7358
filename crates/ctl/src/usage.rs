//! Help and complaints in the form of etcd's tools, from clap's table of commands.
//!
//! etcd's tools are built with cobra: `Usage:`, the commands, `Flags:` and `Global Flags:` sorted by name, in columns. Scripts
//! and people know that form. Everything but the form comes from the one table in `etcdutl.rs`.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::Failure;

/// What is printed instead of running a command: help, or a complaint with the usage behind it.
pub(crate) fn answer(root: &Command, args: &[String], error: &clap::Error) -> Result<(), Failure> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let why = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print!("{}", of(root, args));
            return Ok(());
        }
        ErrorKind::InvalidSubcommand => {
            let command = text(ContextKind::InvalidSubcommand);
            let path = path_to(root, args).0;
            return Err(format!(
                "unknown command {command:?} for {path:?}\nRun '{path} --help' for usage."
            )
            .into());
        }
        ErrorKind::UnknownArgument => unknown_flag(&text(ContextKind::InvalidArg)),
        ErrorKind::MissingRequiredArgument => {
            let flags = text(ContextKind::InvalidArg);
            let flag = flags.trim_start_matches('-').split(' ').next();
            format!("required flag(s) {:?} not set", flag.unwrap_or_default())
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_empty() => {
            let flag = text(ContextKind::InvalidArg);
            let flag = flag.split([' ', ',']).next().unwrap_or_default();
            format!("flag needs an argument: {flag}")
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let flag = text(ContextKind::InvalidArg);
            let flag = flag.split(" <").next().unwrap_or_default();
            let reason = std::error::Error::source(error)
                .map_or_else(|| "invalid syntax".to_owned(), ToString::to_string);
            format!(
                "invalid argument {:?} for {flag:?} flag: {reason}",
                text(ContextKind::InvalidValue)
            )
        }
        _ => {
            let said = error.to_string();
            let first = said.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    Err(complain(root, args, &why))
}

/// The complaint, followed by the usage of the command that is meant.
pub(crate) fn complain(root: &Command, args: &[String], why: &str) -> Failure {
    format!("{why}\n{}", of(root, args)).into()
}

fn unknown_flag(flag: &str) -> String {
    match flag.strip_prefix("--") {
        Some(_) => format!("unknown flag: {flag}"),
        None => format!(
            "unknown shorthand flag: '{}' in {flag}",
            flag.trim_start_matches('-').chars().next().unwrap_or('-')
        ),
    }
}

/// The usage of the command that `args` name, as far as they name one.
pub(crate) fn of(root: &Command, args: &[String]) -> String {
    let (path, command) = path_to(root, args);
    let mut out = String::from("Usage:\n");
    let commands: Vec<&Command> = command.get_subcommands().collect();
    if commands.is_empty() {
        let own = format!("{path} [flags]");
        let line = command.clone().render_usage().to_string();
        let line = line.trim_start_matches("Usage: ").to_owned();
        // A usage line of our own tells what clap can't: the order and the words of etcd's tool.
        let is_own = line.contains("<filename>") || line.contains('|');
        out += &format!("  {}\n", if is_own { line } else { own });
    } else {
        out += &format!("  {path} [command]\n\nAvailable Commands:\n");
        let mut lines: Vec<(String, String)> = commands
            .iter()
            .map(|command| (command.get_name().to_owned(), about(command)))
            .collect();
        if std::ptr::eq(command, root) {
            lines.push(("help".into(), "Help about any command".into()));
        }
        lines.sort();
        for (name, about) in lines {
            out += &format!("  {name:<11} {about}\n");
        }
    }
    let shown = |arg: &&Arg| arg.get_long().is_some() && !arg.is_hide_set();
    let (globals, own): (Vec<&Arg>, Vec<&Arg>) = root
        .get_arguments()
        .filter(shown)
        .partition(|arg| arg.is_global_set());
    let own = match std::ptr::eq(command, root) {
        true => own.into_iter().chain(globals.clone()).collect(),
        false => command
            .get_arguments()
            .filter(shown)
            .filter(|arg| !arg.is_global_set())
            .collect::<Vec<_>>(),
    };
    out += "\nFlags:\n";
    out += &flags(&own, Some(&path));
    if !std::ptr::eq(command, root) && !globals.is_empty() {
        out += "\nGlobal Flags:\n";
        out += &flags(&globals, None);
    }
    if !commands.is_empty() {
        out +=
            &format!("\nUse \"{path} [command] --help\" for more information about a command.\n");
    }
    out
}

/// The deepest command that `args` name, and the words that lead to it.
fn path_to<'a>(root: &'a Command, args: &[String]) -> (String, &'a Command) {
    let (mut path, mut command) = (root.get_name().to_owned(), root);
    let mut is_value = false;
    for arg in args {
        if std::mem::take(&mut is_value) || arg == "help" {
            continue;
        }
        if arg.starts_with('-') {
            is_value = matches!(arg.as_str(), "-w" | "--write-out" | "--timeout");
            continue;
        }
        let matching: Vec<&Command> = command
            .get_subcommands()
            .filter(|command| command.get_name().starts_with(arg.as_str()))
            .collect();
        match matching.as_slice() {
            [next] => {
                command = next;
                path = format!("{path} {}", next.get_name());
            }
            _ => break,
        }
    }
    (path, command)
}

/// Flags in columns, sorted by name. `help_of` adds the one that every command has.
fn flags(args: &[&Arg], help_of: Option<&str>) -> String {
    let mut rows: Vec<(String, String, String)> = args
        .iter()
        .map(|arg| {
            let long = arg.get_long().unwrap_or_default();
            let short = arg
                .get_short()
                .map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
            let kind = arg.get_value_names().and_then(<[_]>::first);
            let kind = kind.filter(|kind| kind.as_str() != "bool");
            let takes = kind.map(|kind| format!(" {kind}")).unwrap_or_default();
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            (
                long.to_owned(),
                format!("  {short}--{long}{takes}"),
                help + &default_of(arg),
            )
        })
        .collect();
    if let Some(path) = help_of {
        let name = path.rsplit(' ').next().unwrap_or_default();
        let help = (
            "help".into(),
            "  -h, --help".into(),
            format!("help for {name}"),
        );
        rows.push(help);
    }
    rows.sort();
    let width = rows
        .iter()
        .map(|(_, left, _)| left.len())
        .max()
        .unwrap_or(0);
    let line = |(_, left, help)| format!("{left:<width$}   {help}\n");
    rows.into_iter().map(line).collect()
}

fn default_of(arg: &Arg) -> String {
    let value = arg
        .get_default_values()
        .first()
        .and_then(|value| value.to_str());
    let kind = arg
        .get_value_names()
        .and_then(<[_]>::first)
        .map(ToString::to_string);
    match (value, kind.as_deref()) {
        (None | Some("" | "0" | "false"), _) => String::new(),
        (Some(value), Some("string")) => format!(" (default {value:?})"),
        (Some(value), _) => format!(" (default {value})"),
    }
}

fn about(command: &Command) -> String {
    command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}
