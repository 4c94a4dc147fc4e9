//! Which of the five programs this is.

use std::{ffi::OsString, path::Path};

use crate::{arguments::Invocation, commands, config::Config, create, import, keeper, layout::Layout, record::Record, runc, standin};

/// `argv[0]` of the keeper.
pub const KEEPER: &str = "godwit-keeper";
/// `argv[0]` of the CRIU stand-in.
pub const CRIU: &str = "criu";

/// `argv[0]` of the pager.
pub const PAGER: &str = "godwit-pager";

/// Runs the program and gives its exit code.
#[must_use]
pub fn run() -> i32 {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some(KEEPER) => keeper::run(&rest),
        Some(CRIU) => standin::run(&rest),
        Some(import::SCRIPT) => import::run(Path::new(&name)),
        Some(PAGER) => keeper::pager::run(&rest),
        _ => wrapper(&rest),
    }
}

/// The OCI command line.
fn wrapper(arguments: &[OsString]) -> i32 {
    let invocation = Invocation::parse(arguments);
    let config = Config::load();
    let outcome = match (invocation.command.as_str(), invocation.id()) {
        ("create", Some(id)) => create::create(&invocation, &config, id),
        (_, Some(id)) if !invocation.command.is_empty() => match Layout::existing(id) {
            Some(layout) => commands::run(&invocation, &layout),
            None => Ok(None),
        },
        _ => Ok(None),
    };
    match outcome {
        Ok(Some(code)) => code,
        Ok(None) => runc::become_runtime(&config, arguments).report(&invocation, None),
        Err(error) => {
            let known = invocation.id().and_then(Layout::existing).and_then(|layout| layout.read::<Record>("record.json").ok());
            let migration = error.migration().map(str::to_owned).or(known.map(|record| record.migration));
            error.report(&invocation, migration.as_deref())
        }
    }
}
