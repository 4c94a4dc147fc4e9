//! Why something cannot be done, and the way out: made here, shown in status, event and CLI.

use godwit_rpc::v1::Failure;

/// A failure with its stable reason, what was seen, and what to do.
#[must_use]
pub fn failure(reason: &str, message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), message: message.into(), remedy: remedy.into(), log: String::new() }
}

/// Something of the node or of Godwit itself did not work.
#[must_use]
pub fn internal(what: &str, error: impl std::fmt::Display) -> Failure {
    failure("NodeError", format!("{what}: {error}"), "look at the log of the agent on that node; the migration can be tried again")
}
