//! What a user is told when something is in the way.

use serde::{Deserialize, Serialize};

/// Something that cannot be done, why, and the way out.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// CamelCase, stable, one word for each cause.
    pub reason: String,
    /// What was seen, with the names of the container, process, fd or mount.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// A finding of these three parts.
    #[must_use]
    pub fn new(reason: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), remedy: remedy.into() }
    }
}
