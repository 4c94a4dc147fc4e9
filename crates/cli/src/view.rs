//! The live view: what a status says, as five lines and a last one. Pure: from a status to text.
//!
//! ```text
//!   plan      live · stop-and-copy · connections close · 1.2 GiB, 14 fds, 3 tcp
//!   prepare   pod web-0-m1 on node-b                            1.8 s
//!   copy      keepers wait                                      0.4 s
//!   switch    frozen 87 ms  (dump 31 · delta 4 · restore 38 · verify 3 · commit 11)
//!   settle    source retired                                    0.9 s
//! ✔ web-0 runs on node-b. It stood still for 87 ms. …
//! ```

use godwit_api::PodMigration;
use godwit_api::migration::{Anchor, Failure, Phase, PlanSummary, PodMigrationStatus};

use crate::text::{bytes, count, time};

/// Width of the text before a duration.
const WIDTH: usize = 52;

/// One line of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `plan`, `prepare`, `copy`, `switch`, `settle`.
    pub label: &'static str,
    /// What there is to say.
    pub text: String,
    /// Nothing more will be said in it.
    pub done: bool,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  {:<9} {}", self.label, self.text)
    }
}

/// The lines so far; the last one may still change.
#[must_use]
pub fn lines(object: &PodMigration) -> Vec<Line> {
    let status = object.status.clone().unwrap_or_default();
    let mut lines = Vec::new();
    let reached = |phase| reached(&status) >= phase;
    let line = |label, text: String, done| Line { label, text, done };
    if let Some(plan) = &status.plan {
        lines.push(line("plan", self::plan(plan), true));
        lines.extend(plan.warnings.iter().map(|warning| line("", format!("! {warning}"), true)));
        lines.extend(plan.blockers.iter().map(|blocker| line("", format!("✘ {}: {}", blocker.reason, blocker.message), true)));
    } else if status.phase <= Phase::Planning && status.failure.is_none() {
        lines.push(line("plan", waiting(&status), false));
    }
    if object.spec.dry_run {
        return lines;
    }
    if reached(Phase::Preparing) {
        let place = match (&status.target_pod, &status.target_node) {
            (Some(pod), Some(node)) => format!("pod {pod} on {node}"),
            (Some(pod), None) => format!("pod {pod}"),
            _ => "target pod".into(),
        };
        let done = reached(Phase::Copying);
        lines.push(line("prepare", timed(&place, done.then(|| spent(&status, Phase::Preparing)).flatten()), done));
    }
    if reached(Phase::Copying) {
        let done = reached(Phase::Switching);
        let text = if done { "keepers wait at the target" } else { "waiting for keepers at the target" };
        lines.push(line("copy", timed(text, done.then(|| spent(&status, Phase::Copying)).flatten()), done));
    }
    if reached(Phase::Switching) {
        let done = status.freeze.is_some();
        lines.push(line("switch", switch(&status), done));
    }
    if reached(Phase::Settling) && status.failure.is_none() {
        let done = status.phase == Phase::Succeeded;
        let text = match &status.anchor {
            _ if !done => settling(&status),
            Some(anchor) if anchor.active => "endpoints moved, source sealed".to_owned(),
            _ => "endpoints moved, source retired".to_owned(),
        };
        lines.push(line("settle", timed(&text, done.then(|| spent(&status, Phase::Settling)).flatten()), done));
    }
    if let Some(ill) = status.conditions.iter().find(|condition| condition.type_ == "Healthy" && condition.status == "False") {
        lines.push(line("after", ill.message.clone(), true));
    }
    if let Some(anchor) = &status.anchor {
        let moved = status.plan.as_ref().is_some_and(|plan| plan.network == "KeepAddress");
        lines.push(line("anchor", self::anchor(anchor, moved), true));
    }
    lines
}

/// How far it came. A final phase does not say; what stands in the status does.
fn reached(status: &PodMigrationStatus) -> Phase {
    match status.phase {
        Phase::Succeeded => Phase::Settling,
        Phase::Failed if is_lost(status) => Phase::Settling,
        Phase::RolledBack => Phase::Switching,
        Phase::Failed if status.target_node.is_some() && status.timeline.iter().any(|step| step.phase == Phase::Copying) => Phase::Copying,
        Phase::Failed if status.target_pod.is_some() => Phase::Preparing,
        Phase::Failed => Phase::Planning,
        phase => phase,
    }
}

/// The plan in one line.
#[must_use]
pub fn plan(plan: &PlanSummary) -> String {
    let words = |text: &str| match text {
        "Live" => "live".to_owned(),
        "StopAndCopy" => "stop-and-copy".to_owned(),
        "PreCopy" => "pre-copy".to_owned(),
        "PostCopy" => "post-copy".to_owned(),
        "Close" => "connections close".to_owned(),
        "Anchor" => "connections kept (anchor)".to_owned(),
        "KeepAddress" => "connections kept (same address)".to_owned(),
        other => other.to_lowercase(),
    };
    format!(
        "{} · {} · {} · {}, {}, {}, {}, {} tcp",
        words(&plan.engine),
        if plan.tracking.is_empty() { words(&plan.memory) } else { format!("{} ({})", words(&plan.memory), words(&plan.tracking)) },
        words(&plan.network),
        bytes(plan.bytes),
        count(plan.containers, "container", "containers"),
        count(plan.processes, "process", "processes"),
        count(plan.fds, "fd", "fds"),
        plan.connections
    )
}

/// `moved`: the address itself, and not what is sent to it.
fn anchor(anchor: &Anchor, moved: bool) -> String {
    let addresses = anchor.addresses.join(", ");
    let text = if anchor.active && moved {
        let count = count(anchor.connections, "connection lives on", "connections live on");
        format!("{count} at {addresses}, which has moved; the old pod on {} reserves it", anchor.holder)
    } else if anchor.active {
        format!("{} through {} ({addresses})", count(anchor.connections, "connection lives on", "connections live on"), anchor.holder)
    } else {
        format!("{addresses} on {} retired", anchor.holder)
    };
    if anchor.message.is_empty() { text } else { format!("{text}: {}", anchor.message) }
}

fn waiting(status: &PodMigrationStatus) -> String {
    let queued = status.conditions.iter().find(|condition| condition.reason == "Queued");
    queued.map_or_else(|| "looking at the pod".to_owned(), |condition| format!("queued: {}", condition.message))
}

fn settling(status: &PodMigrationStatus) -> String {
    let said =
        status.conditions.iter().find(|condition| condition.status == "False" && matches!(condition.type_.as_str(), "Ready" | "Retired" | "MemoryComplete"));
    said.map_or_else(|| "retiring the source".to_owned(), |condition| condition.message.clone())
}

fn switch(status: &PodMigrationStatus) -> String {
    if let Some(freeze) = &status.freeze {
        if is_node_gone(status) {
            return "ended with the node of the old pod".into();
        }
        if freeze.total_ms == 0 {
            return "ended before the freeze".into();
        }
        return format!(
            "frozen {} ms  (dump {} · delta {} · restore {} · verify {} · commit {})",
            freeze.total_ms, freeze.dump_ms, freeze.delta_ms, freeze.restore_ms, freeze.verify_ms, freeze.commit_ms
        );
    }
    let away = status.conditions.iter().find(|condition| condition.type_ == "Committed" && condition.reason == "AgentUnreachable");
    if let Some(condition) = away {
        return condition.message.clone();
    }
    match &status.progress {
        Some(progress) if progress.round.is_some() => format!(
            "{} sent, {}/s · round {}, {} left, {}/s change",
            bytes(progress.bytes),
            bytes(progress.rate),
            progress.round.unwrap_or_default(),
            bytes(progress.remaining.unwrap_or_default()),
            bytes(progress.dirty_rate.unwrap_or_default())
        ),
        Some(progress) if progress.bytes > 0 => format!("{} sent, {}/s", bytes(progress.bytes), bytes(progress.rate)),
        _ => "the pod stands still".into(),
    }
}

/// Microseconds from the first start to the last end of the steps of a phase.
fn spent(status: &PodMigrationStatus, phase: Phase) -> Option<i64> {
    let steps = || status.timeline.iter().filter(move |step| step.phase == phase && step.who == "controller");
    let first = steps().map(|step| step.start_us).min()?;
    let last = steps().map(|step| step.start_us.saturating_add(step.duration_us)).max()?;
    Some(last.saturating_sub(first))
}

fn timed(text: &str, micros: Option<i64>) -> String {
    match micros {
        Some(micros) => format!("{text:<WIDTH$} {:>8}", time(micros)),
        None => text.to_owned(),
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The pod runs on the other node, or the plan is made.
    Moved,
    /// Nothing was touched.
    Failed,
    /// The pod runs as before.
    TakenBack,
    /// The pod runs nowhere as it was.
    Lost,
}

impl End {
    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Moved => 0,
            Self::Failed => 1,
            Self::TakenBack => 2,
            Self::Lost => 7,
        }
    }
}

fn failed_as(status: &PodMigrationStatus, reason: &str) -> bool {
    status.failure.as_ref().is_some_and(|failure| failure.reason == reason)
}

/// Whether the pod was lost: with its node before it had moved, or after its switch, which can only be with post-copy.
fn is_lost(status: &PodMigrationStatus) -> bool {
    is_node_gone(status) || failed_as(status, "PodLost")
}

/// Whether the node of the old pod was taken out of the cluster, and the old pod with it.
#[must_use]
pub fn is_node_gone(status: &PodMigrationStatus) -> bool {
    failed_as(status, "SourceNodeGone")
}

/// Whether the old pod was deleted while it was to move: nobody may say that it runs.
#[must_use]
pub fn is_deleted(status: &PodMigrationStatus) -> bool {
    failed_as(status, "PodDeleted")
}

/// How it ended, if it has.
#[must_use]
pub fn end(object: &PodMigration) -> Option<End> {
    let status = object.status.as_ref()?;
    match status.phase {
        Phase::Succeeded => Some(End::Moved),
        Phase::Failed if is_lost(status) => Some(End::Lost),
        Phase::Failed => Some(End::Failed),
        Phase::RolledBack => Some(End::TakenBack),
        _ => None,
    }
}

/// The last line (with what to do below it, when it did not work).
#[must_use]
pub fn last(object: &PodMigration) -> Option<String> {
    let status = object.status.clone().unwrap_or_default();
    let pod = &object.spec.pod_name;
    let source = status.source_node.clone().unwrap_or_default();
    let at = match source.as_str() {
        _ if is_deleted(&status) => " was deleted".to_owned(),
        "" => String::new(),
        node => format!(" runs on {node}, as before"),
    };
    let freeze = status.freeze.clone().unwrap_or_default().total_ms;
    let failure = status.failure.clone().unwrap_or_default();
    Some(match end(object)? {
        End::Moved if object.spec.dry_run => format!("✔ {pod} can be moved. Nothing was touched."),
        End::Moved => {
            let node = status.target_node.clone().unwrap_or_default();
            let name = status.target_pod.clone().unwrap_or_default();
            format!("✔ {pod} runs on {node}. It stood still for {freeze} ms. {}", lost(&status, &name))
        }
        End::TakenBack if freeze == 0 => format!("✘ taken back: {pod}{at}. It did not stand still. {}", why(&failure)),
        End::TakenBack => format!("✘ taken back: {pod}{at}. It stood still for {freeze} ms. {}", why(&failure)),
        End::Lost if is_node_gone(&status) => format!("✘ lost: {pod} was on {source}, which is gone. {}", why(&failure)),
        End::Lost => format!("✘ lost: {pod} had been switched to {}. {}", status.target_node.clone().unwrap_or_default(), why(&failure)),
        End::Failed if object.spec.dry_run => format!("✘ {pod} cannot be moved. {}", why(&failure)),
        End::Failed => format!("✘ not moved: {pod}{at}. Nothing was touched. {}", why(&failure)),
    })
}

fn lost(status: &PodMigrationStatus, name: &str) -> String {
    let closed = status.plan.as_ref().filter(|plan| plan.network == "Close").map_or(0, |plan| plan.connections);
    let kept = status.anchor.as_ref().filter(|anchor| anchor.active).map_or(0, |anchor| anchor.connections);
    let not_ready = status.conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "False");
    let mut text = format!("Its name is {name} now.");
    if closed > 0 {
        text.push_str(&format!(" {} closed; clients reconnect.", count(closed, "connection was", "connections were")));
    }
    if kept > 0 {
        text.push_str(&format!(" {} kept.", count(kept, "connection was", "connections were")));
    }
    if let Some(condition) = not_ready {
        text.push_str(&format!(" But: {}.", condition.message));
    }
    text
}

fn why(failure: &Failure) -> String {
    format!("Why: {} ({}).  What to do: {}", failure.message, failure.reason, failure.remedy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn migration(status: Value) -> PodMigration {
        serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "web-0-x"},
            "spec": {"podName": "web-0", "targetNode": "node-b"}, "status": status,
        }))
        .unwrap()
    }

    fn plan() -> Value {
        json!({"engine": "Live", "memory": "StopAndCopy", "network": "Close", "containers": 1, "processes": 4, "fds": 14, "connections": 3, "bytes": 1_288_490_189_u64})
    }

    fn text(object: &PodMigration) -> String {
        lines(object).iter().map(ToString::to_string).chain(last(object)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_move_that_works() {
        let step = |phase: &str, start: i64, took: i64| json!({"phase": phase, "step": "s", "who": "controller", "startUs": start, "durationUs": took});
        insta::assert_snapshot!(text(&migration(json!({
            "phase": "Succeeded", "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "plan": plan(),
            "timeline": [step("Preparing", 0, 1_800_000), step("Copying", 2_000_000, 400_000), step("Settling", 4_000_000, 500_000), step("Settling", 4_600_000, 300_000)],
            "freeze": {"totalMs": 87, "dumpMs": 31, "deltaMs": 4, "restoreMs": 38, "verifyMs": 3, "commitMs": 11},
        }))), @r"
          plan      live · stop-and-copy · connections close · 1.2 GiB, 1 container, 4 processes, 14 fds, 3 tcp
          prepare   pod web-0-m1 on node-b                                  1.8 s
          copy      keepers wait at the target                             400 ms
          switch    frozen 87 ms  (dump 31 · delta 4 · restore 38 · verify 3 · commit 11)
          settle    endpoints moved, source retired                        900 ms
        ✔ web-0 runs on node-b. It stood still for 87 ms. Its name is web-0-m1 now. 3 connections were closed; clients reconnect.
        ");
    }

    #[test]
    fn one_whose_connections_live_on_at_their_address() {
        let held = Anchor { active: true, addresses: vec!["10.0.0.7".into()], holder: "node-a".into(), connections: 1, ..Anchor::default() };
        assert_eq!(anchor(&held, true), "1 connection lives on at 10.0.0.7, which has moved; the old pod on node-a reserves it");
        assert_eq!(anchor(&held, false), "1 connection lives on through node-a (10.0.0.7)");
    }

    #[test]
    fn one_whose_connections_live_on() {
        let mut plan = plan();
        plan["network"] = "Anchor".into();
        let object = migration(json!({"phase": "Succeeded", "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "plan": plan,
            "freeze": {"totalMs": 87, "dumpMs": 31, "deltaMs": 4, "restoreMs": 38, "verifyMs": 3, "commitMs": 11},
            "anchor": {"active": true, "addresses": ["10.0.0.7"], "holder": "node-a", "node": "node-b", "connections": 3}}));
        insta::assert_snapshot!(text(&object), @r"
          plan      live · stop-and-copy · connections kept (anchor) · 1.2 GiB, 1 container, 4 processes, 14 fds, 3 tcp
          prepare   pod web-0-m1 on node-b
          copy      keepers wait at the target
          switch    frozen 87 ms  (dump 31 · delta 4 · restore 38 · verify 3 · commit 11)
          settle    endpoints moved, source sealed
          anchor    3 connections live on through node-a (10.0.0.7)
        ✔ web-0 runs on node-b. It stood still for 87 ms. Its name is web-0-m1 now. 3 connections were kept.
        ");
    }

    #[test]
    fn one_that_is_taken_back() {
        let object = migration(json!({
            "phase": "RolledBack", "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "plan": plan(),
            "freeze": {"totalMs": 140, "dumpMs": 31, "deltaMs": 0, "restoreMs": 0, "verifyMs": 0, "commitMs": 0},
            "failure": {"reason": "StreamBroken", "message": "node-b went away", "remedy": "Try again."},
        }));
        assert_eq!(end(&object).unwrap().code(), 2);
        assert_eq!(
            last(&object).unwrap(),
            "✘ taken back: web-0 runs on node-a, as before. It stood still for 140 ms. Why: node-b went away (StreamBroken).  What to do: Try again."
        );
    }

    #[test]
    fn of_one_that_was_deleted_nobody_says_that_it_runs() {
        let deleted = |phase: &str| {
            migration(json!({"phase": phase, "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "freeze": null,
                "failure": {"reason": "PodDeleted", "message": "pod web-0 was deleted", "remedy": "Nothing."}}))
        };
        let why = "Why: pod web-0 was deleted (PodDeleted).  What to do: Nothing.";
        assert_eq!(last(&deleted("RolledBack")).unwrap(), format!("✘ taken back: web-0 was deleted. It did not stand still. {why}"));
        assert_eq!(last(&deleted("Failed")).unwrap(), format!("✘ not moved: web-0 was deleted. Nothing was touched. {why}"));
    }

    #[test]
    fn one_whose_node_is_gone_is_lost() {
        let object = migration(json!({
            "phase": "Failed", "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "plan": plan(),
            "freeze": {"totalMs": 0, "dumpMs": 0, "deltaMs": 0, "restoreMs": 0, "verifyMs": 0, "commitMs": 0},
            "failure": {"reason": "SourceNodeGone", "message": "node node-a is gone", "remedy": "Make another."},
        }));
        assert_eq!(end(&object).unwrap().code(), 7);
        assert_eq!(lines(&object).last().unwrap().text, "ended with the node of the old pod");
        assert_eq!(last(&object).unwrap(), "✘ lost: web-0 was on node-a, which is gone. Why: node node-a is gone (SourceNodeGone).  What to do: Make another.");
    }

    #[test]
    fn one_that_never_begins() {
        let object = migration(json!({"phase": "Failed", "failure": {"reason": "PodNotFound", "message": "there is no pod web-0", "remedy": "Look."}}));
        assert_eq!(text(&object), "✘ not moved: web-0. Nothing was touched. Why: there is no pod web-0 (PodNotFound).  What to do: Look.");
        assert_eq!(end(&object).unwrap().code(), 1);
    }

    #[test]
    fn a_dry_run_lists_what_is_in_the_way() {
        let mut object = migration(json!({"phase": "Failed", "sourceNode": "node-a", "plan": plan(),
            "failure": {"reason": "HostPath", "message": "volume v", "remedy": "Use a shared volume."}}));
        object.spec.dry_run = true;
        object.status.as_mut().unwrap().plan.as_mut().unwrap().blockers =
            vec![Failure { reason: "HostPath".into(), message: "volume v".into(), remedy: "Use a shared volume.".into(), log: String::new() }];
        insta::assert_snapshot!(text(&object), @r"
          plan      live · stop-and-copy · connections close · 1.2 GiB, 1 container, 4 processes, 14 fds, 3 tcp
                    ✘ HostPath: volume v
        ✘ web-0 cannot be moved. Why: volume v (HostPath).  What to do: Use a shared volume.
        ");
    }

    #[test]
    fn the_line_at_work_is_open() {
        let object = migration(json!({"phase": "Switching", "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "plan": plan(),
            "progress": {"bytes": 1_048_576, "total": 0, "rate": 524_288}}));
        let lines = lines(&object);
        let last = lines.last().unwrap();
        assert_eq!((last.label, last.text.as_str(), last.done), ("switch", "1 MiB sent, 512 KiB/s", false));
        let object = migration(json!({"phase": "Switching", "sourceNode": "node-a", "targetNode": "node-b", "targetPod": "web-0-m1", "plan": plan(),
            "progress": {"bytes": 1_048_576, "total": 0, "rate": 524_288, "round": 3, "dirtyRate": 1024, "remaining": 2048, "forecastMs": 4}}));
        assert_eq!(super::lines(&object).last().unwrap().text, "1 MiB sent, 512 KiB/s · round 3, 2 KiB left, 1 KiB/s change");
        assert!(lines[..lines.len() - 1].iter().all(|line| line.done));
    }
}
