//! Log lines of controller and agents: which migration they are about, and in which format they are written.
//!
//! Whatever is done for a migration is done inside [`about`]: every line that is logged meanwhile then carries the field `migration`, its UID, and `object`, its
//! namespace and name. The wrapper calls the field so too.

use tracing::Span;

use crate::v1;

/// Environment variable with the format: `text`, or `json` for one object a line.
pub const FORMAT: &str = "GODWIT_LOG_FORMAT";

/// Whether lines are objects.
#[must_use]
pub fn json() -> bool {
    std::env::var(FORMAT).is_ok_and(|format| format == "json")
}

/// What is logged inside this is about that migration. It is there at every level of logging.
#[must_use]
pub fn about(uid: &str, namespace: &str, name: &str) -> Span {
    tracing::error_span!("move", migration = uid, object = format!("{namespace}/{name}"))
}

/// The same, of a migration as agents know it.
#[must_use]
pub fn about_migration(migration: &v1::Migration) -> Span {
    about(&migration.uid, &migration.namespace, &migration.name)
}
