//! The failure matrix as a page: every reason with its cause and the way out, and CRIU's messages that lead to it. docs/failures.md is this text.

use std::collections::BTreeMap;

use godwit_criu::explain::Which;
use godwit_criu::explain::table::{KNOWN, Known};
use godwit_migration::catalogue::{self, Entry, When};

/// Where the page is to be read.
const PAGE: &str = "https://godwit.dev/docs/failures.html";

/// Reasons and the tests in which their words stand, two of each at most: a line `REASON PATH…`. A test below makes it anew.
const TESTED: &str = include_str!("tested.txt");

/// The link to a reason's place on the page.
#[must_use]
pub fn link(reason: &str) -> String {
    format!("{PAGE}#{}", reason.to_lowercase())
}

/// Cause and remedy of a reason: Godwit's own words, else those for CRIU's messages.
#[must_use]
pub fn of(reason: &str) -> Option<(&'static str, &'static str)> {
    let own = catalogue::of(reason).map(|entry| (entry.cause, entry.remedy));
    own.or_else(|| KNOWN.iter().find(|known| known.reason == reason).map(|known| (known.what, known.remedy)))
}

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut text = String::from(
        "# When a pod cannot be moved\n\n\
         Every migration that does not succeed names a reason: one word, in `status.failure.reason` of the PodMigration, in its events and on the screen.\n\
         This page has all of them. `kubectl migrate explain NAME` tells the same about one migration, `kubectl migrate explain FILE` about a log of CRIU or a\n\
         checkpoint archive from anywhere. (The page is what `kubectl migrate explain --all` prints.)\n",
    );
    let sections = [
        (When::Planning, "Before anything is touched", "The plan says so, also with `--dry-run`. The pod runs on, it has not stood still."),
        (When::Preparing, "While the target is made ready", "The pod runs on at the source; the target pod is removed."),
        (When::Switching, "In the switch", "The migration is taken back: the pod runs on at the source, it may have stood still for a moment."),
        (
            When::Keeping,
            "With checkpoints",
            "`status.failure.reason` of a PodCheckpoint or PodRestore. The pod that a checkpoint is made of runs on and nothing is stored; a new pod is removed.",
        ),
    ];
    let messages = messages();
    for (when, title, words) in sections {
        text.push_str(&format!("\n## {title}\n\n{words}\n"));
        for entry in catalogue::ENTRIES.iter().filter(|entry| entry.when == when) {
            text.push_str(&own(entry, messages.get(entry.reason)));
        }
    }
    text.push_str("\n## What CRIU says\n\nMessages of `dump.log` (source) and `restore.log` (target) that are known. The pod is taken back.\n");
    for (reason, known) in messages.iter().filter(|(reason, _)| catalogue::of(reason).is_none()) {
        text.push_str(&format!("\n### {reason}\n\n"));
        let mut told: Vec<(&str, &str)> = Vec::new();
        for one in known {
            if !told.contains(&(one.what, one.remedy)) {
                told.push((one.what, one.remedy));
                text.push_str(&format!("{}. **What to do:** {}.\n", sentence(one.what), one.remedy));
            }
        }
        text.push_str(&seen(known));
        text.push_str(&tested(reason));
    }
    text.push_str(&unknown());
    text
}

/// CRIU's messages by the reason that they lead to.
fn messages() -> BTreeMap<&'static str, Vec<&'static Known>> {
    let mut all: BTreeMap<&'static str, Vec<&'static Known>> = BTreeMap::new();
    for known in KNOWN {
        all.entry(known.reason).or_default().push(known);
    }
    all
}

fn own(entry: &Entry, messages: Option<&Vec<&'static Known>>) -> String {
    let mut text = format!("\n### {}\n\n{} **What to do:** {}\n", entry.reason, entry.cause, entry.remedy);
    if let Some(messages) = messages {
        text.push_str(&seen(messages));
    }
    text.push_str(&tested(entry.reason));
    text
}

/// Where a test makes it happen.
fn tested(reason: &str) -> String {
    let line = TESTED.lines().find_map(|line| line.split_once(' ').filter(|(word, _)| *word == reason));
    let paths = line.map(|(_, paths)| paths.split(' ').map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", "));
    paths.map(|paths| format!("\nTested in {paths}.\n")).unwrap_or_default()
}

fn seen(messages: &[&Known]) -> String {
    let mut text = String::from("\n");
    for known in messages {
        let place = match known.which {
            Some(Which::Dump) => "dump.log",
            Some(Which::Restore) => "restore.log",
            None => "dump.log, restore.log",
        };
        text.push_str(&format!("- {place}: `{}`\n", known.parts.join(" … ")));
    }
    text
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn unknown() -> String {
    format!(
        "\n## DumpFailed and RestoreFailed\n\nCRIU failed with a message that is not known here. {}\n\n{}\n",
        "`kubectl migrate explain` shows the relevant lines of its log.",
        collect().iter().map(|line| format!("- {line}")).collect::<Vec<_>>().join("\n")
    )
}

/// What a report of an unknown failure needs.
#[must_use]
pub fn collect() -> Vec<&'static str> {
    vec![
        "`kubectl migrate report NAME` of the migration, or the whole dump.log and restore.log",
        "`kubectl get pod POD -o yaml` of the pod, and the name and version of the program in it",
        "`criu --version`, `runc --version` or `crun --version`, `uname -r` of both nodes",
        "the logs of both agents: `kubectl -n godwit-system logs ds/godwit-agent`",
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// So many tests of a reason are named, end-to-end ones first.
    const MOST: usize = 2;

    /// Tests of the repository: their paths and texts.
    fn tests_in(root: &Path, folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(root.join(folder)).unwrap().flatten() {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                tests_in(root, &path, found);
                continue;
            }
            let Some(name) = path.to_str().filter(|name| name.ends_with(".rs") && !name.ends_with("/matrix.rs")) else { continue };
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let whole = name.contains("/tests/") || name.ends_with("tests.rs");
            let tests = if whole { Some(text.as_str()) } else { text.split_once("#[cfg(test)]").map(|(_, tests)| tests) };
            found.extend(tests.map(|tests| (path, tests.to_owned())));
        }
    }

    #[test]
    fn each_reason_names_its_tests() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut tests = Vec::new();
        tests_in(&root, Path::new("tests"), &mut tests);
        let first = tests.len();
        tests_in(&root, Path::new("crates"), &mut tests);
        tests[..first].sort();
        tests[first..].sort();
        let reasons: BTreeSet<&str> = catalogue::ENTRIES.iter().map(|entry| entry.reason).chain(KNOWN.iter().map(|known| known.reason)).collect();
        let lines = reasons.into_iter().filter_map(|reason| {
            let word = format!("\"{reason}\"");
            let paths: Vec<&str> = tests.iter().filter(|(_, text)| text.contains(&word)).filter_map(|(path, _)| path.to_str()).take(MOST).collect();
            (!paths.is_empty()).then(|| format!("{reason} {}\n", paths.join(" ")))
        });
        let now: String = lines.collect();
        if std::env::var_os("GODWIT_DOCS_WRITE").is_some() {
            std::fs::write(root.join("crates/cli/src/tested.txt"), &now).unwrap();
            return;
        }
        assert!(now == TESTED, "tests have come or gone: GODWIT_DOCS_WRITE=1 cargo test -p godwit-cli, then kubectl-migrate explain --all > docs/failures.md");
    }

    #[test]
    fn the_docs_carry_it() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/failures.md");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == page(), "docs/failures.md is not what the tables say: kubectl-migrate explain --all > docs/failures.md");
    }

    #[test]
    fn every_reason_has_a_place() {
        let page = page();
        let reasons = catalogue::ENTRIES.iter().map(|entry| entry.reason).chain(KNOWN.iter().map(|known| known.reason));
        for reason in reasons {
            assert_eq!(page.matches(&format!("\n### {reason}\n")).count(), 1, "{reason}");
            assert!(of(reason).is_some());
        }
    }
}
