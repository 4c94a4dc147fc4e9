//! Tables as kubectl prints them, and other lines on standard output.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::Error;
use crate::options::Output;

/// Prints objects as JSON, or a row for each, or that there are none of `what`. With `everywhere` each row begins with its namespace.
///
/// # Errors
/// When standard output is closed.
pub fn list<K: kube::ResourceExt + Serialize, const COLUMNS: usize>(
    found: &[K],
    what: &str,
    (everywhere, namespace, output): (bool, &str, Output),
    head: [&str; COLUMNS],
    row: impl Fn(&K) -> [String; COLUMNS],
) -> Result<(), Error> {
    if output == Output::Json {
        return print(&serde_json::to_string_pretty(found).unwrap_or_default());
    }
    if found.is_empty() {
        return print(&format!("no {what} in {}", if everywhere { "any namespace".into() } else { format!("namespace {namespace}") }));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(everywhere.then_some("NAMESPACE").into_iter().chain(head));
    for object in found {
        table.add_row(everywhere.then(|| object.namespace().unwrap_or_default()).into_iter().chain(row(object)));
    }
    print(&table.trim_fmt())
}

/// Prints a text and ends the line.
///
/// # Errors
/// When standard output is closed.
pub fn print(text: &str) -> Result<(), Error> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
