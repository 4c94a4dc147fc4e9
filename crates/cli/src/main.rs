//! `kubectl migrate`: orders a migration and shows how it goes.
//!
//! ```text
//!   options ─▶ commands ─▶ cluster (creates and watches a PodMigration) ─▶ view (status → lines) ─▶ screen
//! ```
//!
//! All knowledge of migrations is in the object's status; this program only reads it.

mod archived;
mod checkpoint;
mod cluster;
mod commands;
mod doctor;
mod error;
mod explain;
mod inspect;
mod matrix;
mod options;
mod report;
mod screen;
mod table;
mod text;
mod timeline;
mod trace;
mod view;

use std::process::ExitCode;

use clap::Parser;

use options::Options;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Fails only if one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 3 } else { 0 });
        }
    };
    match commands::run(options).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Whoever reads no further, as `head` does, knows it.
            if !matches!(&error, error::Error::Print(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe) {
                eprintln!("✘ {error}");
            }
            ExitCode::from(error.code())
        }
    }
}
