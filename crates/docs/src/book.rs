//! The book: which pages it has, and its sources for mdbook.
//!
//! Pages lie in the book as they do in the repository, so that links between them need no change: README.md is its first page, docs/failures.md is
//! docs/failures.html. docs/SUMMARY.md is its list of pages, and its links are seen from docs/ as everywhere; mdbook wants them seen from the root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::links;

/// The list of pages.
pub const SUMMARY: &str = "docs/SUMMARY.md";
/// Settings of mdbook, and its look.
const SETTINGS: [&str; 2] = ["docs/book.toml", "docs/book.css"];

/// The root of this repository.
#[must_use]
pub fn root() -> PathBuf {
    links::tidy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
}

/// All pages in the order of the book, seen from the root.
///
/// # Errors
/// When there is no list.
pub fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(root.join(SUMMARY)).context(SUMMARY)?;
    Ok(links::of(&text).iter().filter_map(|link| links::resolve(Path::new(SUMMARY), &link.target)).map(|(path, _)| path).collect())
}

/// Pages that the list lacks: every one in docs/ belongs to the book.
///
/// # Errors
/// When the folder cannot be read.
pub fn forgotten(root: &Path) -> Result<Vec<PathBuf>> {
    let listed: BTreeSet<PathBuf> = pages(root)?.into_iter().chain([SUMMARY.into()]).collect();
    let mut there: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(root.join("docs"))? {
        let path = Path::new("docs").join(entry?.file_name());
        if path.extension().is_some_and(|end| end == "md") && !listed.contains(&path) {
            there.push(path);
        }
    }
    there.sort();
    Ok(there)
}

/// Writes sources for mdbook into a folder, which is made anew: the pages, what they link to, the settings.
///
/// # Errors
/// When something is missing or cannot be written.
pub fn write(root: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        ensure!(folder.join("book.toml").exists(), "{} is no book; it is not emptied", folder.display());
        std::fs::remove_dir_all(folder)?;
    }
    let source = folder.join("src");
    let pages = pages(root)?;
    let mut files: BTreeSet<PathBuf> = pages.iter().cloned().collect();
    for page in &pages {
        let text = std::fs::read_to_string(root.join(page)).with_context(|| format!("{}", page.display()))?;
        let linked = links::of(&text).into_iter().filter_map(|link| links::resolve(page, &link.target));
        files.extend(linked.map(|(path, _)| path).filter(|path| root.join(path).is_file()));
    }
    for file in &files {
        let to = source.join(file);
        std::fs::create_dir_all(to.parent().unwrap_or(&source))?;
        std::fs::copy(root.join(file), &to).with_context(|| format!("{}", file.display()))?;
    }
    let summary = std::fs::read_to_string(root.join(SUMMARY))?;
    std::fs::write(source.join("SUMMARY.md"), from_root(&summary))?;
    for file in SETTINGS {
        std::fs::copy(root.join(file), folder.join(Path::new(file).file_name().unwrap_or_default())).context(file)?;
    }
    Ok(())
}

/// The list with its links seen from the root.
fn from_root(summary: &str) -> String {
    summary.replace("](", "](docs/").replace("](docs/../", "](")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_list_is_seen_from_the_root() {
        assert_eq!(from_root("[A](../README.md)\n- [B](b.md)\n"), "[A](README.md)\n- [B](docs/b.md)\n");
    }

    #[test]
    fn a_folder_that_is_no_book_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "").unwrap();
        assert!(write(&root(), folder.path()).is_err());
        assert!(folder.path().join("mine").exists());
    }
}
