//! From what was written down to cause, plain words and the way out.
//!
//! ```text
//!   a migration: status, timeline, events ─┐
//!   dump.log, restore.log, a log of runc ──┼─▶ Explanation ─▶ text, JSON
//!   a checkpoint archive, a directory ─────┘
//! ```

mod archive;
mod file;
mod migration;

pub use file::explain as of_file;
pub use migration::{Happened, explain as of_migration};

use serde::Serialize;

/// What there is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What it is about, one line.
    pub subject: String,
    /// The reason word; empty when nothing failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether the reason is known.
    pub known: bool,
    /// What was seen.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seen: String,
    /// Why it comes about, in plain words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Where to read more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// More that is worth knowing.
    pub facts: Vec<String>,
    /// The lines that say so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// What a report needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collect: Vec<String>,
}

impl Explanation {
    /// The exit code: 0 when it is explained or nothing failed, 1 when it is not known.
    #[must_use]
    pub fn code(&self) -> u8 {
        u8::from(!self.reason.is_empty() && !self.known)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> Vec<String> {
        let mut lines = vec![self.subject.clone()];
        if self.reason.is_empty() {
            lines.push("✔ nothing went wrong".to_owned());
        } else {
            lines.push(format!("{} {}", if self.known { '✘' } else { '?' }, self.reason));
        }
        for (label, text) in [("seen", &self.seen), ("cause", &self.cause), ("what to do", &self.remedy), ("read more", &self.link)] {
            if !text.is_empty() {
                lines.push(format!("  {label:<11} {}", text.replace('\t', " ")));
            }
        }
        lines.extend(self.facts.iter().map(|fact| format!("  · {fact}")));
        if !self.log.is_empty() {
            lines.push("  the lines that say so".to_owned());
            lines.extend(self.log.iter().map(|line| format!("    {}", line.replace('\t', " "))));
        }
        if !self.collect.is_empty() {
            lines.push("  this error is not known here. A report needs".to_owned());
            lines.extend(self.collect.iter().map(|line| format!("    - {line}")));
        }
        lines
    }
}
