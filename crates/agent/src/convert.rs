//! From the words of the crates below to those of the contract.

use godwit_memory::Range;
use godwit_migration::handover::PeerState;
use godwit_node::Finding;
use godwit_rpc::v1::{AskReply, Failure, NodeFacts, ask_reply};

/// A finding of the node's inspection.
#[must_use]
pub fn finding(finding: Finding) -> Failure {
    Failure { reason: finding.reason, message: finding.message, remedy: finding.remedy, log: String::new() }
}

/// What CRIU said about a container.
#[must_use]
pub fn criu_failure(failure: &godwit_criu::Failure, container: &str) -> Failure {
    Failure {
        reason: failure.reason.clone(),
        message: format!("container {container}: {}", failure.message),
        remedy: failure.remedy.clone(),
        log: failure.log.clone(),
    }
}

/// What must match between two nodes.
#[must_use]
pub fn facts(facts: godwit_node::facts::Facts) -> NodeFacts {
    NodeFacts {
        architecture: facts.architecture,
        cpu_flags: facts.cpu_flags,
        kernel: facts.kernel,
        criu: facts.criu.unwrap_or_default(),
        cgroup: facts.cgroup.to_string(),
        agent: env!("CARGO_PKG_VERSION").into(),
        boot_id: facts.boot_id,
    }
}

/// A failure in the protocol's words.
#[must_use]
pub fn to_migration(failure: Failure) -> godwit_migration::Failure {
    godwit_migration::Failure { reason: failure.reason, message: failure.message, remedy: failure.remedy, log: failure.log }
}

/// A failure in the contract's words.
#[must_use]
pub fn from_migration(failure: godwit_migration::Failure) -> Failure {
    Failure { reason: failure.reason, message: failure.message, remedy: failure.remedy, log: failure.log }
}

/// Where the target stands, from the contract's words; `None` when it does not know the migration.
#[must_use]
pub fn peer_state(reply: AskReply) -> Option<PeerState> {
    let why = to_migration(reply.failure.clone().unwrap_or_default());
    Some(match reply.state() {
        ask_reply::State::Unknown => return None,
        ask_reply::State::Prepared => PeerState::Prepared,
        ask_reply::State::Restoring => PeerState::Restoring,
        ask_reply::State::Swapped => PeerState::Swapped,
        ask_reply::State::Running => PeerState::Running,
        ask_reply::State::Withdrawing => PeerState::Withdrawing(why),
        ask_reply::State::Never => PeerState::Never(why),
    })
}

/// Where the target stands, in the contract's words.
#[must_use]
pub fn ask_reply(state: PeerState) -> AskReply {
    let (state, failure) = match state {
        PeerState::Prepared => (ask_reply::State::Prepared, None),
        PeerState::Restoring => (ask_reply::State::Restoring, None),
        PeerState::Swapped => (ask_reply::State::Swapped, None),
        PeerState::Running => (ask_reply::State::Running, None),
        PeerState::Withdrawing(why) => (ask_reply::State::Withdrawing, Some(why)),
        PeerState::Never(why) => (ask_reply::State::Never, Some(why)),
    };
    AskReply { state: state.into(), failure: failure.map(from_migration) }
}

/// Ranges of pages from the contract's pairs of addresses; `None`: one is half.
#[must_use]
pub fn page_ranges(words: &[u64]) -> Option<Vec<Range>> {
    let pairs = words.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| Range { start: pair[0], end: pair[1] }).collect())
}

/// The other way round.
#[must_use]
pub fn page_words(ranges: &[Range]) -> Vec<u64> {
    ranges.iter().flat_map(|range| [range.start, range.end]).collect()
}
