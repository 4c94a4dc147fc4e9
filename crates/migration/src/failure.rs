//! `Failure`: why something cannot be done or went wrong, and the way out. The same three fields go through the proto messages, the status and the CLI.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// Reason, message and remedy: what a user needs to act.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// CamelCase, stable, one word for each cause.
    pub reason: String,
    /// What was seen, with the names of the container, process, fd, mount or node.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// The lines of a log that say so, if one was read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

impl Failure {
    /// A failure from its three parts.
    pub fn new(reason: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), remedy: remedy.into(), log: String::new() }
    }
}

/// All failures hash alike: their texts never influence a decision, so two states of the hand-over that differ in texts only are one state to the model checker.
impl Hash for Failure {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
