//! When memory travels: decided from what the user wants and what the source's agent says.

use godwit_api::migration::{Engine, Failure, MemoryStrategy, NotConverging, PodMigrationSpec, Tracking};
use godwit_rpc::v1::InspectReply;

use crate::failure;

/// Memory travels while the pod runs.
pub const PRE_COPY: &str = "PreCopy";
/// Memory travels while the pod runs, and what changes meanwhile after the switch.
pub const POST_COPY: &str = "PostCopy";
/// Memory travels while the pod stands still.
pub const STOP_AND_COPY: &str = "StopAndCopy";
/// Which pages change is told by digests.
const DIGESTS: &str = "Digests";
/// Below this, in bytes, there is nothing to gain.
const WORTH_IT: u64 = 1 << 20;

/// Forked processes that share more than one part in so many of their memory keep it shared.
const SHARED: u64 = 4;

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// [`PRE_COPY`], [`POST_COPY`] or [`STOP_AND_COPY`].
    pub strategy: &'static str,
    /// [`DIGESTS`], or nothing: by write protection.
    pub tracking: &'static str,
    /// What the user should know about it.
    pub warnings: Vec<String>,
}

/// What the user wants, and what the cluster allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// When memory is to travel.
    pub strategy: MemoryStrategy,
    /// And if it does not get less.
    pub if_not_converging: NotConverging,
    /// How changes are to be told.
    pub tracking: Tracking,
    /// Memory may travel after the switch.
    pub post_copy_allowed: bool,
    /// It can travel only while the pod stands still: there is no handler that would take it in before.
    pub frozen: bool,
}

impl Wish {
    /// From a PodMigration, before it is known what else the engine may have to be.
    #[must_use]
    pub fn of(spec: &PodMigrationSpec, post_copy_allowed: bool) -> Self {
        Self {
            strategy: spec.memory.unwrap_or_default(),
            if_not_converging: spec.if_not_converging.unwrap_or_default(),
            tracking: spec.tracking.unwrap_or_default(),
            post_copy_allowed,
            frozen: spec.engine == Some(Engine::Checkpoint),
        }
    }
}

/// Chooses.
///
/// # Errors
/// When what the user insists on cannot be done.
pub fn choose(wish: Wish, inspected: &InspectReply) -> Result<Choice, Failure> {
    let (strategy, warning) = strategy(wish, inspected)?;
    let mut choice = Choice { strategy, tracking: "", warnings: warning.into_iter().collect() };
    let why = if wish.tracking == Tracking::Digests { "as wished" } else { &inspected.digests };
    if strategy != STOP_AND_COPY && !why.is_empty() {
        choice.tracking = DIGESTS;
        let mib = inspected.private_bytes >> 20;
        choice
            .warnings
            .push(format!("which pages change is told by digests ({why}): all {mib} MiB are read in each round, and once more while the pod stands still"));
    }
    Ok(choice)
}

/// Bytes that will fill the restored pod page by page, and need room at the target once: those that need not travel in the freeze.
#[must_use]
pub fn filled(wish: Wish, inspected: &InspectReply) -> u64 {
    match strategy(wish, inspected) {
        Ok((PRE_COPY | POST_COPY, _)) => inspected.filled_bytes,
        _ => 0,
    }
}

fn strategy(wish: Wish, inspected: &InspectReply) -> Result<(&'static str, Option<String>), Failure> {
    let without = "without Godwit's runtime handler nobody would take it in";
    let why_not = if wish.frozen { without } else { inspected.stop_and_copy.as_str() };
    let if_stuck = wish.if_not_converging == NotConverging::PostCopy;
    if !wish.post_copy_allowed && (wish.strategy == MemoryStrategy::PostCopy || if_stuck) {
        return Err(failure::new(
            "PostCopyNotAllowed",
            "in this cluster no memory may travel after the switch: until it has come the pod would be lost with either node",
            "Use memory: PreCopy or Auto, or have it allowed: the chart's value postCopy.allowed.",
        ));
    }
    let of_late = "memory that changes too late travels after the switch: if the old pod or its node is lost before it has come, so is the pod";
    Ok(match wish.strategy {
        MemoryStrategy::StopAndCopy => (STOP_AND_COPY, None),
        MemoryStrategy::PostCopy if why_not.is_empty() => (POST_COPY, Some(of_late.to_owned())),
        MemoryStrategy::PreCopy | MemoryStrategy::PostCopy if !why_not.is_empty() => {
            return Err(failure::new(
                "PreCopyNotPossible",
                format!("memory cannot travel while the pod runs: {why_not}"),
                "Use memory: Auto or StopAndCopy; the freeze is then the longer the more memory the pod has.",
            ));
        }
        MemoryStrategy::PreCopy | MemoryStrategy::PostCopy => (PRE_COPY, if_stuck.then(|| format!("if it does not get less, {of_late}"))),
        MemoryStrategy::Auto if inspected.private_bytes < WORTH_IT => (STOP_AND_COPY, None),
        MemoryStrategy::Auto if !why_not.is_empty() => {
            let mib = inspected.private_bytes >> 20;
            (STOP_AND_COPY, Some(format!("{mib} MiB of memory travel while the pod stands still: {why_not}")))
        }
        MemoryStrategy::Auto if inspected.forked_bytes > inspected.private_bytes / SHARED => {
            let mib = inspected.forked_bytes >> 20;
            (STOP_AND_COPY, Some(format!("memory travels while the pod stands still: forked processes share {mib} MiB, which would be copied otherwise")))
        }
        MemoryStrategy::Auto => (PRE_COPY, if_stuck.then(|| format!("if it does not get less, {of_late}"))),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn choose(strategy: MemoryStrategy, inspected: &InspectReply) -> Result<Choice, Failure> {
        super::choose(Wish { strategy, ..Wish::default() }, inspected)
    }

    #[test]
    fn what_travels_ahead_needs_room_once() {
        let filled = |strategy, why: &str| super::filled(Wish { strategy, ..Wish::default() }, &InspectReply { filled_bytes: 1 << 30, ..pod(1 << 30, why) });
        assert_eq!([filled(MemoryStrategy::Auto, ""), filled(MemoryStrategy::PreCopy, "")], [1 << 30; 2]);
        assert_eq!([filled(MemoryStrategy::Auto, "why"), filled(MemoryStrategy::PreCopy, "why"), filled(MemoryStrategy::StopAndCopy, "")], [0; 3]);
        assert_eq!(super::filled(Wish { frozen: true, ..Wish::default() }, &InspectReply { filled_bytes: 1 << 30, ..pod(1 << 30, "") }), 0);
    }

    #[test]
    fn after_the_switch_only_where_that_is_allowed() {
        let wish = Wish { strategy: MemoryStrategy::PostCopy, ..Wish::default() };
        let if_stuck = Wish { if_not_converging: NotConverging::PostCopy, ..Wish::default() };
        for refused in [wish, if_stuck] {
            assert_eq!(super::choose(refused, &pod(1 << 30, "")).unwrap_err().reason, "PostCopyNotAllowed");
        }
        let allowed = |wish: Wish| Wish { post_copy_allowed: true, ..wish };
        let chosen = super::choose(allowed(wish), &pod(1 << 30, "")).unwrap();
        assert!(chosen.strategy == POST_COPY && chosen.warnings[0].contains("lost"));
        assert_eq!(super::choose(allowed(wish), &pod(1 << 30, "why")).unwrap_err().reason, "PreCopyNotPossible");
        assert_eq!(super::choose(allowed(if_stuck), &pod(1 << 30, "")).unwrap().strategy, PRE_COPY);
    }

    fn pod(private_bytes: u64, stop_and_copy: &str) -> InspectReply {
        InspectReply { private_bytes, stop_and_copy: stop_and_copy.into(), ..InspectReply::default() }
    }

    #[test]
    fn how_changes_are_told_is_said() {
        let old = InspectReply { digests: "this kernel cannot track memory".into(), ..pod(1 << 30, "") };
        let wished = Wish { tracking: Tracking::Digests, ..Wish::default() };
        for (wish, inspected, why) in [(Wish::default(), &old, "cannot track"), (wished, &pod(1 << 30, ""), "as wished")] {
            let chosen = super::choose(wish, inspected).unwrap();
            assert_eq!((chosen.strategy, chosen.tracking), (PRE_COPY, DIGESTS));
            assert!(chosen.warnings[0].contains(why) && chosen.warnings[0].contains("1024 MiB"), "{:?}", chosen.warnings);
        }
        assert_eq!(choose(MemoryStrategy::StopAndCopy, &old).unwrap().tracking, "");
        assert_eq!(choose(MemoryStrategy::PreCopy, &pod(1 << 30, "")).unwrap().tracking, "");
    }

    #[test]
    fn large_pods_travel_while_they_run() {
        let large = 1 << 30;
        assert_eq!(choose(MemoryStrategy::Auto, &pod(large, "")).unwrap(), Choice { strategy: PRE_COPY, tracking: "", warnings: vec![] });
        assert_eq!(choose(MemoryStrategy::Auto, &pod(1 << 19, "")).unwrap().strategy, STOP_AND_COPY);
        assert_eq!(choose(MemoryStrategy::PreCopy, &pod(1 << 20, "")).unwrap().strategy, PRE_COPY);
        assert_eq!(choose(MemoryStrategy::StopAndCopy, &pod(large, "")).unwrap().strategy, STOP_AND_COPY);
    }

    #[test]
    fn without_a_handler_memory_travels_in_the_freeze() {
        let frozen = |strategy| super::choose(Wish { strategy, frozen: true, ..Wish::default() }, &pod(1 << 30, ""));
        let told = frozen(MemoryStrategy::Auto).unwrap();
        assert!(told.strategy == STOP_AND_COPY && told.warnings[0].contains("1024 MiB of memory travel while the pod stands still"));
        assert_eq!(frozen(MemoryStrategy::PreCopy).unwrap_err().reason, "PreCopyNotPossible");
    }

    #[test]
    fn forked_processes_go_on_sharing() {
        let forked = InspectReply { forked_bytes: 1 << 29, ..pod(1 << 30, "") };
        let told = choose(MemoryStrategy::Auto, &forked).unwrap();
        assert!(told.strategy == STOP_AND_COPY && told.warnings[0].contains("512 MiB"));
        assert_eq!(choose(MemoryStrategy::PreCopy, &forked).unwrap().strategy, PRE_COPY);
        assert_eq!(choose(MemoryStrategy::Auto, &InspectReply { forked_bytes: 1 << 25, ..forked }).unwrap().strategy, PRE_COPY);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let told = choose(MemoryStrategy::Auto, &pod(1 << 30, "process 7 has an io_uring (fd 3)")).unwrap();
        assert_eq!(told.strategy, STOP_AND_COPY);
        assert!(told.warnings[0].contains("io_uring"));
        assert_eq!(choose(MemoryStrategy::Auto, &pod(1 << 19, "why")).unwrap().warnings, Vec::<String>::new());
        assert_eq!(choose(MemoryStrategy::PreCopy, &pod(1 << 30, "why")).unwrap_err().reason, "PreCopyNotPossible");
    }
}
