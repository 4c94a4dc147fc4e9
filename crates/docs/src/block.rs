//! Shell blocks of a page, and the marks above them.
//!
//! ```text
//!  <!-- before: kubectl wait --for=condition=Ready pod/web-0 -->      run first, not shown
//!  <!-- run: lab -->                                                  how it is run, see docs/documentation.md; or <!-- not run: why -->
//!  ```console
//!  $ kubectl migrate web-0 --to node-b                                a command; it goes on in lines after one that ends in a backslash
//!  moved …                                                            what it printed, up to the next command
//!  ```
//! ```

use anyhow::{Context, Result, bail, ensure};

/// Languages of blocks that hold commands.
const SHELLS: [&str; 4] = ["console", "sh", "shell", "bash"];

/// Where a block is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the lab, on each container runtime.
    Lab,
    /// Anywhere: it needs only the program and the files of the stage.
    Files,
}

/// How a block is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It is.
    Run {
        /// Where.
        place: Place,
        /// How its commands end.
        code: i32,
        /// Whether what it prints differs from time to time, so that only its exit code counts.
        loose: bool,
        /// Whether what it prints is not shown.
        quiet: bool,
        /// What is shown of an output, in lines; the rest is `…`.
        lines: Option<usize>,
    },
    /// It is not, for this reason.
    Not(String),
}

/// A command and what the page says that it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its lines, without the prompt.
    pub command: String,
    /// Lines of the page that hold its output, the first and the one after the last, counted from 0.
    pub output: (usize, usize),
}

/// One shell block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Line of its fence, counted from 1, as editors do.
    pub line: usize,
    /// How it is run.
    pub way: Way,
    /// Commands that are run first and not shown.
    pub before: Vec<String>,
    /// Commands that are run afterwards and not shown.
    pub after: Vec<String>,
    /// What it shows.
    pub steps: Vec<Step>,
}

/// All shell blocks of a page.
///
/// # Errors
/// When one has no mark, or one that is not understood: the line and what is wrong.
pub fn read(page: &str) -> Result<Vec<Block>> {
    let lines: Vec<&str> = page.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(info) = lines[at].strip_prefix("```") else {
            at += 1;
            continue;
        };
        let end = (at + 1..lines.len()).find(|line| lines[*line].trim_end() == "```").with_context(|| format!("line {}: the block does not end", at + 1))?;
        if SHELLS.contains(&info.split_whitespace().next().unwrap_or_default()) {
            let block = block(&lines, at, end).with_context(|| format!("line {}", at + 1))?;
            blocks.push(block);
        }
        at = end + 1;
    }
    Ok(blocks)
}

fn block(lines: &[&str], fence: usize, end: usize) -> Result<Block> {
    let (mut way, mut before, mut after) = (None, Vec::new(), Vec::new());
    let first = (0..fence).rev().take_while(|line| lines[*line].starts_with("<!--")).last().unwrap_or(fence);
    for line in &lines[first..fence] {
        let mark = line.strip_prefix("<!--").and_then(|rest| rest.trim().strip_suffix("-->")).with_context(|| format!("a mark is one line: {line}"))?.trim();
        let (name, value) = mark.split_once(':').with_context(|| format!("not a mark: {mark}"))?;
        match name {
            "before" => before.push(value.trim().to_owned()),
            "after" => after.push(value.trim().to_owned()),
            "run" | "not run" => ensure!(way.replace(self::way(name, value.trim())?).is_none(), "more than one mark says how it is run"),
            other => bail!("not a mark: {other}"),
        }
    }
    let way = way.context("no mark above the block says how it is run (`<!-- run: lab -->`), or why it is not (`<!-- not run: … -->`)")?;
    let steps = steps(lines, fence + 1, end)?;
    Ok(Block { line: fence + 1, way, before, after, steps })
}

fn way(name: &str, value: &str) -> Result<Way> {
    if name == "not run" {
        ensure!(value.split_whitespace().count() > 2, "say in some words why it is not run");
        return Ok(Way::Not(value.to_owned()));
    }
    let mut words = value.split(',').map(str::trim);
    let place = match words.next() {
        Some("lab") => Place::Lab,
        Some("files") => Place::Files,
        other => bail!("a block is run in the `lab` or with `files`, not {other:?}"),
    };
    let (mut code, mut loose, mut quiet, mut lines) = (0, false, false, None);
    for word in words {
        match word.split_once(' ').unwrap_or((word, "")) {
            ("exit", number) => code = number.parse().context("exit N")?,
            ("lines", number) => lines = Some(number.parse().context("lines N")?),
            ("loose", "") => loose = true,
            ("quiet", "") => quiet = true,
            _ => bail!("not understood: {word}"),
        }
    }
    Ok(Way::Run { place, code, loose, quiet, lines })
}

fn steps(lines: &[&str], from: usize, end: usize) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut at = from;
    while at < end {
        if let Some(command) = lines[at].strip_prefix("$ ") {
            let mut command = command.to_owned();
            while command.ends_with('\\') && at + 1 < end {
                at += 1;
                command.push('\n');
                command.push_str(lines[at]);
            }
            steps.push(Step { command, output: (at + 1, at + 1) });
        } else {
            steps.last_mut().context("a block begins with a command: `$ …`")?.output.1 = at + 1;
        }
        at += 1;
    }
    ensure!(!steps.is_empty(), "there is no command in the block");
    Ok(steps)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const PAGE: &str = "# T\n\n<!-- before: true -->\n<!-- run: lab, exit 1, lines 3 -->\n```console\n$ a \\\n    b\nout\n\nput\n$ c   # why\n```\n\n```text\n$ no\n```\n\n<!-- not run: needs a registry -->\n```console\n$ d\n```\n";

    #[test]
    fn blocks_have_marks_commands_and_outputs() {
        let blocks = read(PAGE).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].way, Way::Run { place: Place::Lab, code: 1, loose: false, quiet: false, lines: Some(3) });
        assert_eq!((blocks[0].line, blocks[0].before.as_slice()), (5, ["true".to_owned()].as_slice()));
        assert_eq!(blocks[0].steps[0], Step { command: "a \\\n    b".into(), output: (7, 10) });
        assert_eq!(blocks[0].steps[1], Step { command: "c   # why".into(), output: (11, 11) });
        assert_eq!(blocks[1].way, Way::Not("needs a registry".into()));
    }

    #[test]
    fn a_block_without_a_mark_is_an_error() {
        for (page, why) in [
            ("```console\n$ a\n```\n", "line 1: no mark above"),
            ("<!-- run: moon -->\n```console\n$ a\n```\n", "in the `lab` or with `files`"),
            ("<!-- not run: no -->\n```console\n$ a\n```\n", "some words"),
            ("<!-- run: lab -->\n```sh\na\n```\n", "begins with a command"),
            ("```console\n$ a\n", "does not end"),
        ] {
            let error = format!("{:#}", read(page).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
