//! One file a phase, in the order of the road; then the way back and the end.

pub mod anchored;
pub mod copying;
pub mod filling;
pub mod finished;
pub mod pending;
pub mod planning;
pub mod preparing;
pub mod settling;
pub mod switching;
pub mod undo;

use godwit_api::migration::Failure;

use crate::context::Context;
use crate::error::{AgentError, Error};
use crate::failure;
use crate::reconcile::Next;
use crate::record::Record;

/// Writes why the migration ends; what was done so far is undone next.
///
/// # Errors
/// When it cannot be written.
pub async fn fail(context: &Context, record: &mut Record, why: Failure) -> Result<Next, Error> {
    tracing::info!(pod = record.pod(), phase = ?record.phase(), reason = why.reason, message = why.message, "failed");
    record.write(|status| status.failure = Some(why.clone())).await?;
    context.point("controller.undo.written").await?;
    Ok(Next::Again)
}

/// What an agent's error means for the user.
#[must_use]
pub fn explain(error: &AgentError) -> Failure {
    match error {
        AgentError::NoNode(node) => failure::node_not_found(node),
        AgentError::NoAddress(node) | AgentError::Lookup { node, .. } | AgentError::Connect { node, .. } => failure::agent_unreachable(node, &error.cause()),
        AgentError::Call { node, source } => match godwit_rpc::failure::of(source) {
            Some(said) => api_failure(said),
            None if error.passes() => failure::agent_unreachable(node, &error.cause()),
            None => failure::agent_refused(node, &error.cause()),
        },
    }
}

/// The agents' failure as the API has it.
#[must_use]
pub fn api_failure(said: godwit_rpc::v1::Failure) -> Failure {
    Failure { reason: said.reason, message: said.message, remedy: said.remedy, log: said.log }
}
