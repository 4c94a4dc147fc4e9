//! `godwit-docs FOLDER`: sources of the book for mdbook. `godwit-docs --links FOLDER`: whether every link of a made book leads somewhere.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use godwit_docs::{book, links};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--links", folder] => check(Path::new(folder)),
        [folder] if !folder.starts_with('-') => book::write(&book::root(), Path::new(folder)),
        _ => {
            eprintln!("usage: godwit-docs FOLDER, godwit-docs --links FOLDER");
            return ExitCode::from(3);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit-docs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(folder: &Path) -> Result<()> {
    let wrong = links::dead_in_book(folder)?;
    if !wrong.is_empty() {
        bail!("dead links in {}:\n{}", folder.display(), wrong.join("\n"));
    }
    Ok(())
}
