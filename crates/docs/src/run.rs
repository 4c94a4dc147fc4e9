//! Runs the blocks of a page: each command in a bash of its own, in the folder of the stage, and compares what it prints with the page, or writes it there.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::block::{self, Block, Place, Step, Way};
use crate::likeness;
use crate::normal::Normal;

/// Set to have outputs written into the pages instead of compared with them.
pub const WRITE: &str = "GODWIT_DOCS_WRITE";

/// Where commands run.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Their folder.
    pub folder: PathBuf,
    /// Environment, beside this process's.
    pub environment: Vec<(String, String)>,
    /// Words of the page, and what they are called here: `node-a`, an image. Turned round for what is printed.
    pub words: Vec<(String, String)>,
    /// What is printed here, and what stands on the page instead.
    pub printed: Vec<(String, String)>,
    /// Which blocks.
    pub place: Place,
    /// Whether every letter of an output must be as on the page.
    pub exact: bool,
    /// Whether outputs are written into the pages.
    pub write: bool,
    /// For how long a command may run.
    pub limit: Duration,
}

impl Stage {
    /// What the environment says of writing.
    #[must_use]
    pub fn writes() -> bool {
        std::env::var_os(WRITE).is_some_and(|value| !value.is_empty())
    }
}

/// Runs the blocks of a page that are this stage's; returns how many commands ran.
///
/// # Errors
/// When a command ends otherwise than the page says, or prints something else.
pub fn page(path: &Path, stage: &Stage) -> Result<usize> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let blocks = block::read(&text).with_context(|| format!("{}", path.display()))?;
    let mut new: Vec<(Step, Vec<String>)> = Vec::new();
    let mut normal = Normal::default();
    let mut ran = 0;
    for block in &blocks {
        let at = || format!("{}:{}", path.display(), block.line);
        ran += self::block(block, &lines, stage, &mut normal, &mut new).with_context(at)?;
    }
    if stage.write {
        // From the end, so that what is before keeps its place.
        for (step, output) in new.into_iter().rev() {
            lines.splice(step.output.0..step.output.1, output);
        }
        std::fs::write(path, lines.join("\n") + "\n")?;
    }
    Ok(ran)
}

fn block(block: &Block, lines: &[String], stage: &Stage, normal: &mut Normal, new: &mut Vec<(Step, Vec<String>)>) -> Result<usize> {
    let Way::Run { place, code, loose, quiet, lines: most } = block.way else { return Ok(0) };
    if place != stage.place {
        return Ok(0);
    }
    for command in &block.before {
        run(command, stage, 0)?;
    }
    let last = block.steps.len().saturating_sub(1);
    for (index, step) in block.steps.iter().enumerate() {
        let printed = run(&step.command, stage, if index == last { code } else { 0 })?;
        let printed = shown(&if stage.exact { printed } else { normal.apply(&printed) }, most);
        let documented = lines[step.output.0..step.output.1].join("\n");
        if quiet {
            ensure!(documented.is_empty(), "the block is `quiet`, and shows an output");
        } else if stage.write {
            new.push((step.clone(), printed.lines().map(str::to_owned).collect()));
        } else if stage.exact {
            ensure!(documented.trim_end() == printed.trim_end(), "`{}` prints\n{printed}\nand the page says\n{documented}", step.command);
        } else if !loose && let Err(missing) = likeness::compare(&documented, &printed) {
            bail!("`{}` does not print what the page says any more:\n{}\nIt prints\n{printed}", step.command, missing.join("\n"));
        }
    }
    for command in &block.after {
        run(command, stage, 0)?;
    }
    Ok(block.steps.len())
}

/// What a page shows of an output: no blanks at ends of lines, no more lines than `most`.
fn shown(printed: &str, most: Option<usize>) -> String {
    let all: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
    let most = most.unwrap_or(all.len());
    let mut text = all.iter().take(most).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    });
    if all.len() > most {
        text.push_str("…\n");
    }
    text
}

/// Replaces words, all at once: what one replacement makes is not replaced again.
pub(crate) fn replace<'a>(text: &str, words: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        match words.clone().find(|(from, _)| !from.is_empty() && rest.starts_with(from)) {
            Some((from, to)) => {
                out.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}

fn run(command: &str, stage: &Stage, code: i32) -> Result<String> {
    let here = replace(command, stage.words.iter().map(|(page, here)| (page.as_str(), here.as_str())));
    // timeout(1) ends it and what it started.
    let limit = format!("{}s", stage.limit.as_secs());
    let output = Command::new("timeout")
        .args(["--kill-after=5s", &limit, "bash", "-euc", &format!("{{ {here}\n}} 2>&1")])
        .current_dir(&stage.folder)
        .envs(stage.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .context("bash cannot be started")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let ended = output.status.code().unwrap_or(-1);
    ensure!(ended == code, "`{here}` exited with {ended}, not with {code}:\n{printed}{}", String::from_utf8_lossy(&output.stderr));
    let words = stage.words.iter().map(|(page, here)| (here.as_str(), page.as_str()));
    Ok(replace(&printed, words.chain(stage.printed.iter().map(|(here, page)| (here.as_str(), page.as_str())))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn stage(folder: &Path, write: bool) -> Stage {
        let words = vec![("here".into(), "there".into()), ("there".into(), "here".into())];
        Stage {
            folder: folder.into(),
            environment: vec![("WHO".into(), "you".into())],
            words,
            printed: Vec::new(),
            place: Place::Files,
            exact: true,
            write,
            limit: Duration::from_secs(9),
        }
    }

    #[test]
    fn outputs_are_written_and_then_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.md");
        let page = "<!-- before: touch made -->\n<!-- run: files, exit 3, lines 2 -->\n```console\n$ ls made; echo $WHO here\nold\n$ seq 4; exit 3\n```\nend\n";
        std::fs::write(&path, page).unwrap();
        assert!(format!("{:#}", super::page(&path, &stage(folder.path(), false)).unwrap_err()).contains("p.md:3"));
        assert_eq!(super::page(&path, &stage(folder.path(), true)).unwrap(), 2);
        let written = std::fs::read_to_string(&path).unwrap();
        // The command was told `there`, and the page is told `here` again.
        assert!(written.contains("$ ls made; echo $WHO here\nmade\nyou here\n$ seq 4; exit 3\n1\n2\n…\n```\nend\n"), "{written}");
        assert_eq!(super::page(&path, &stage(folder.path(), false)).unwrap(), 2);
    }

    #[test]
    fn a_command_that_ends_otherwise_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.md");
        std::fs::write(&path, "<!-- run: files -->\n```console\n$ echo no; false\n```\n").unwrap();
        let error = format!("{:#}", super::page(&path, &stage(folder.path(), true)).unwrap_err());
        assert!(error.contains("exited with 1, not with 0:\nno"), "{error}");
    }
}
