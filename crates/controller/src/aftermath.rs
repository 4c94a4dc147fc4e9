//! Whether what was moved or restored still runs after a while: said in the record's condition `Healthy`, with a diagnosis if it does not. Never taken back: the commit was.
//!
//! ```text
//!   Succeeded ── 10 s ──▶ the pod's containers, its events, signals to it, its logs ─▶ Runs | Ended | ContainerDied | NotReady | LogSilent | PodGone
//! ```
//! A restored container that dies looks like any other that crashed: exit code 137 says SIGKILL, but not whose. What the kubelet or the kernel's OOM killer did is known
//! to Kubernetes; other senders are known to nobody but the kernel, which tells the agent of the pod's node: that watches until some time after the pod has begun to run.
//! The agent also knows how often a container used to write to its log before, and whether it does still.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use godwit_api::migration::Phase;
use godwit_rpc::v1::{AftermathReply, AftermathRequest, Death, agent_client::AgentClient};
use tonic::transport::Channel;

use crate::context::Context;
use crate::error::Error;
use crate::pods;
use crate::record::{Record, set_condition};

/// After which time it is looked.
const SETTLE: Duration = Duration::from_secs(10);
/// Later than this nothing is said any more: what happens then has other causes.
const LATE: Duration = Duration::from_secs(120);
/// How long the agent of the pod's node may be away.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the kubelet calls an end by the kernel's hand.
const OUT_OF_MEMORY: &str = "OOMKilled";
/// The condition.
const HEALTHY: &str = "Healthy";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many containers have run all the time.
    Runs(usize),
    /// A container has ended with exit code 0.
    Ended(String),
    /// A container has died.
    Died {
        /// Its name.
        container: String,
        /// What ended it.
        how: String,
    },
    /// It runs, but its probes fail.
    NotReady(String),
    /// It runs and is Ready, but logs nothing any more.
    Silent {
        /// The container's name.
        container: String,
        /// For how long.
        silent: Duration,
        /// Its longest silence before.
        before: Duration,
    },
    /// The pod was deleted.
    Gone,
}

impl Verdict {
    fn reason(&self) -> &'static str {
        match self {
            Self::Runs(_) => "Runs",
            Self::Ended(_) => "Ended",
            Self::Died { .. } => "ContainerDied",
            Self::NotReady(_) => "NotReady",
            Self::Silent { .. } => "LogSilent",
            Self::Gone => "PodGone",
        }
    }

    fn is_well(&self) -> bool {
        matches!(self, Self::Runs(_) | Self::Ended(_))
    }

    /// Says it.
    pub fn write(&self, conditions: &mut Vec<Condition>, generation: Option<i64>) {
        set_condition(conditions, generation, HEALTHY, self.is_well(), self.reason(), &self.to_string());
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = SETTLE.as_secs();
        match self {
            Self::Runs(1) => write!(f, "its container has run for {seconds} s"),
            Self::Runs(count) => write!(f, "its {count} containers have run for {seconds} s"),
            Self::Ended(container) => write!(f, "container {container} has ended by itself, with exit code 0"),
            Self::Died { container, how } => {
                write!(f, "container {container} died within {seconds} s: {how}. See kubectl logs --previous -c {container}")
            }
            Self::NotReady(why) => write!(f, "it runs, but is not Ready after {seconds} s: {why}"),
            Self::Silent { container, silent, before } => {
                let (silent, before) = (silent.as_secs(), before.as_secs_f64());
                write!(
                    f,
                    "container {container} runs, but has logged nothing for {silent} s; before, it was never silent for more than {before:.1} s. See kubectl logs -c \
                     {container}, and whether its clients still reach it"
                )
            }
            Self::Gone => write!(f, "the pod was deleted within {seconds} s"),
        }
    }
}

/// A pod that was moved or restored.
pub struct Arrival<'a> {
    /// Where it is.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Its node.
    pub node: &'a str,
    /// Since when it runs.
    pub since: Timestamp,
}

/// What a look has brought.
#[derive(Debug)]
pub enum Look {
    /// It is too early for one for so long.
    Early(Duration),
    /// It is too late for one.
    Late,
    /// What became of the pod.
    Done(Verdict),
}

impl Arrival<'_> {
    /// Looks when it is time.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn look(&self, context: &Context) -> Result<Look, Error> {
        let age = Duration::try_from(Timestamp::now().duration_since(self.since)).unwrap_or_default();
        if age > LATE {
            return Ok(Look::Late);
        }
        if age < SETTLE {
            return Ok(Look::Early(SETTLE - age));
        }
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), self.namespace);
        let pod = pods.get_opt(self.name).await?.filter(|pod| pod.uid().as_deref() == Some(self.uid));
        let events: Api<Event> = Api::namespaced(context.client.clone(), self.namespace);
        let events = events.list(&ListParams::default().fields(&format!("regarding.uid={}", self.uid))).await?.items;
        let seen = self.told(context).await;
        Ok(Look::Done(judge(pod.as_ref(), &events, &seen)))
    }

    /// What the agent of the pod's node has seen of it.
    async fn told(&self, context: &Context) -> AftermathReply {
        let ask = |mut agent: AgentClient<Channel>| {
            let request = AftermathRequest { pod_uid: self.uid.to_owned() };
            async move { agent.aftermath(request).await }
        };
        let told = context.agents.call(self.node, PATIENCE, ask).await;
        told.unwrap_or_else(|error| AftermathReply { blind: format!("the agent of its node does not answer: {}", error.cause()), ..AftermathReply::default() })
    }
}

/// Looks at what was moved when it is time, once. Returns how long that is off.
///
/// # Errors
/// When the API server does not answer.
pub async fn look(context: &Context, record: &mut Record) -> Result<Option<Duration>, Error> {
    let status = record.status();
    if status.phase != Phase::Succeeded || is_judged(&status.conditions) || record.object().metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let (Some(end), Some(name), Some(uid)) = (&status.completion_time, &status.target_pod, &status.target_pod_uid) else { return Ok(None) };
    let node = status.target_node.as_deref().unwrap_or_default();
    let verdict = match (Arrival { namespace: &record.namespace(), name, uid, node, since: end.0 }).look(context).await? {
        Look::Early(left) => return Ok(Some(left)),
        Look::Late => return Ok(None),
        Look::Done(verdict) => verdict,
    };
    record.write(|status| verdict.write(&mut status.conditions, status.observed_generation)).await?;
    let event = match verdict {
        Verdict::Died { .. } => "DiedAfterMove",
        Verdict::Silent { .. } => "SilentAfterMove",
        _ => return Ok(None),
    };
    context.event(record, true, event, &verdict.to_string()).await;
    Ok(None)
}

/// Whether it was looked.
#[must_use]
pub fn is_judged(conditions: &[Condition]) -> bool {
    conditions.iter().any(|one| one.type_ == HEALTHY)
}

/// What became of a pod; `seen` is what the agent of its node knows.
#[must_use]
pub fn judge(pod: Option<&Pod>, events: &[Event], seen: &AftermathReply) -> Verdict {
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Verdict::Gone };
    let containers = pods::containers(pod);
    let ends = || containers.iter().filter_map(|status| Some((status, ended(status)?)));
    if let Some((status, end)) = ends().find(|(_, end)| end.exit_code != 0) {
        return Verdict::Died { container: status.name.clone(), how: how(status, end, events, seen) };
    }
    if let Some((status, said)) = ends().find_map(|(status, _)| Some((status, notes(events, &["Killing"], &status.name)?))) {
        return Verdict::Died { container: status.name.clone(), how: format!("exit code 0, asked for by the kubelet, which says: {said}") };
    }
    if let Some((status, _)) = ends().next() {
        return Verdict::Ended(status.name.clone());
    }
    if pods::is(pod, "Ready") {
        let silent = seen.silences.first().map(|silence| Verdict::Silent {
            container: silence.container.clone(),
            silent: Duration::from_millis(silence.silent_ms),
            before: Duration::from_millis(silence.before_ms),
        });
        return silent.unwrap_or(Verdict::Runs(containers.len()));
    }
    Verdict::NotReady(notes(events, &["Unhealthy"], "").unwrap_or_else(|| "see its probes and readiness gates".to_owned()))
}

/// How a container's last life ended, if it did.
fn ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref().and_then(|state| state.terminated.as_ref()))
}

/// How it ended. What the kernel has told is about its first life here.
fn how(status: &ContainerStatus, end: &ContainerStateTerminated, events: &[Event], seen: &AftermathReply) -> String {
    if end.reason.as_deref() == Some(OUT_OF_MEMORY) {
        return format!("the kernel killed it (exit code {}): it had no memory left below its limit", end.exit_code);
    }
    let signal = end.exit_code - 128;
    let first_life = lives(status) == 1;
    let told = |death: &&Death| first_life && death.container == status.name && death.signal == signal;
    let sent = seen.deaths.iter().rev().find(told).map(|death| death.told.as_str());
    match (signal, sent) {
        // A probe that fails is blamed only if nobody else was seen.
        (9, Some(sent)) => match notes(events, &["Killing"], &status.name).filter(|_| sent.contains("container runtime")) {
            Some(said) => format!("exit code 137: SIGKILL from the kubelet, which says: {said} (the kernel: {sent})"),
            None => format!("exit code 137: {sent}"),
        },
        (9, None) => match notes(events, &["Killing", "Unhealthy"], &status.name) {
            Some(said) => format!("exit code 137: SIGKILL from the kubelet, which says: {said}"),
            None if seen.blind.is_empty() && first_life => {
                "exit code 137, but its first process was sent no SIGKILL: the program has ended with that code itself, as shells do whose child was killed"
                    .to_owned()
            }
            None => format!(
                "exit code 137: SIGKILL, and nobody that Kubernetes knows of has sent it. What the kernel knows could not be seen: {}. Its log on the node says whether it \
                 was out of memory",
                if first_life { &seen.blind } else { "it was started again since it came" }
            ),
        },
        (signal @ 1..=31, Some(sent)) => {
            let hint = name(signal).and_then(|name| name.split_once(": ")).map(|(_, hint)| format!(": {hint}")).unwrap_or_default();
            format!("exit code {}: {sent}{hint}", end.exit_code)
        }
        (signal @ 1..=31, None) => format!("exit code {}: signal {signal}{}", end.exit_code, name(signal).map(|name| format!(" ({name})")).unwrap_or_default()),
        _ => format!("exit code {}", end.exit_code),
    }
}

/// How often a container has ended.
fn lives(status: &ContainerStatus) -> i32 {
    let now = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    status.restart_count + i32::from(now)
}

/// What the kubelet says of a container, last first.
fn notes(events: &[Event], reasons: &[&str], container: &str) -> Option<String> {
    let fits = |event: &&Event| {
        event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason))
            && event.note.as_deref().is_some_and(|note| note.contains(container) || note.contains("probe"))
    };
    let mut said: Vec<&str> = events.iter().filter(fits).filter_map(|event| event.note.as_deref()).collect();
    said.dedup();
    (!said.is_empty()).then(|| said.join("; "))
}

fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        4 => "SIGILL: an instruction that this CPU does not have?",
        6 => "SIGABRT",
        7 => "SIGBUS: memory that is not there",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS: a system call that seccomp refuses",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use godwit_rpc::v1::Silence;
    use serde_json::json;

    use super::*;

    fn pod(container: serde_json::Value, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"phase": "Running", "containerStatuses": [container], "conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"name": "web-0-m1"}, "status": status})).unwrap()
    }

    fn container(rest: &serde_json::Value) -> serde_json::Value {
        let mut all = json!({"name": "main", "image": "app", "imageID": "", "ready": true, "restartCount": 0});
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        all
    }

    fn event(reason: &str, note: &str) -> Event {
        serde_json::from_value(json!({"metadata": {}, "eventTime": null, "reason": reason, "note": note})).unwrap()
    }

    fn unseen() -> AftermathReply {
        AftermathReply::default()
    }

    fn said(rest: &serde_json::Value, events: &[Event]) -> String {
        said_with(rest, events, &AftermathReply { blind: "no tracefs".into(), ..AftermathReply::default() })
    }

    fn said_with(rest: &serde_json::Value, events: &[Event], seen: &AftermathReply) -> String {
        let verdict = judge(Some(&pod(container(rest), true)), events, seen);
        assert_eq!(verdict.reason(), "ContainerDied");
        verdict.to_string()
    }

    #[test]
    fn what_runs_is_well_and_what_has_ended_by_itself_too() {
        let runs = judge(Some(&pod(container(&json!({"state": {"running": {}}})), true)), &[], &unseen());
        assert_eq!((runs.is_well(), runs.to_string().as_str()), (true, "its container has run for 10 s"));
        let ended = judge(Some(&pod(container(&json!({"state": {"terminated": {"exitCode": 0}}})), false)), &[], &unseen());
        assert_eq!(ended, Verdict::Ended("main".into()));
        assert!(ended.is_well());
        assert_eq!(judge(None, &[], &unseen()), Verdict::Gone);
        let asked = event("Killing", "Container main failed liveness probe, will be restarted");
        assert!(said(&json!({"restartCount": 1, "lastState": {"terminated": {"exitCode": 0}}}), &[asked]).contains("asked for by the kubelet"));
    }

    #[test]
    fn a_kill_is_told_by_who_did_it_as_far_as_that_is_known() {
        let killed = |reason: &str| json!({"restartCount": 1, "lastState": {"terminated": {"exitCode": 137, "reason": reason}}});
        assert!(said(&killed("OOMKilled"), &[]).contains("no memory left"));
        let probe = event("Killing", "Container main failed liveness probe, will be restarted");
        assert!(said(&killed("Error"), &[probe]).contains("SIGKILL from the kubelet, which says: Container main failed liveness probe"));
        assert!(said(&killed("Error"), &[event("Killing", "Stopping container other")]).contains("nobody that Kubernetes knows of"));
        assert!(said(&json!({"state": {"terminated": {"exitCode": 139}}}), &[]).contains("signal 11 (SIGSEGV)"));
        assert!(said(&json!({"state": {"terminated": {"exitCode": 3}}}), &[]).contains("exit code 3."));
    }

    #[test]
    fn the_kernel_knows_who_sent_a_signal() {
        let death = |container: &str, signal| Death {
            at_us: 1,
            container: container.into(),
            signal,
            told: format!("signal {signal} to python3[4711], sent by bash[812], a process of the node"),
        };
        let seen = AftermathReply { deaths: vec![death("other", 9), death("main", 15), death("main", 9), death("", 9)], ..AftermathReply::default() };
        let ended = |code: i32| json!({"restartCount": 1, "lastState": {"terminated": {"exitCode": code, "reason": "Error"}}});
        assert!(said_with(&ended(137), &[], &seen).contains("exit code 137: signal 9 to python3[4711], sent by bash[812]"));
        assert!(said_with(&ended(143), &[], &seen).contains("exit code 143: signal 15 to"));
        let probe = || event("Killing", "Container main failed liveness probe, will be restarted");
        // Somebody else was faster than the kubelet.
        assert!(said_with(&ended(137), &[probe()], &seen).contains("exit code 137: signal 9 to python3[4711], sent by bash[812]"));
        let runtime = Death { container: "main".into(), signal: 9, told: "SIGKILL, sent by runc[5] of the container runtime".into(), at_us: 1 };
        let by_runtime = AftermathReply { deaths: vec![runtime], ..AftermathReply::default() };
        assert!(
            said_with(&ended(137), &[probe()], &by_runtime)
                .contains("from the kubelet, which says: Container main failed liveness probe, will be restarted (the kernel:")
        );
        let again = json!({"restartCount": 2, "lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}});
        assert!(said_with(&again, &[], &by_runtime).contains("it was started again since it came"));
        assert!(said_with(&ended(137), &[], &unseen()).contains("was sent no SIGKILL"));
        assert!(said_with(&ended(139), &[], &unseen()).contains("SIGSEGV"));
        assert!(said(&ended(137), &[]).contains("could not be seen: no tracefs"));
    }

    #[test]
    fn a_log_that_stands_still_is_told() {
        let silence = Silence { container: "main".into(), silent_ms: 10_300, before_ms: 240 };
        let seen = AftermathReply { silences: vec![silence], ..AftermathReply::default() };
        let pod = |ready| pod(container(&json!({"state": {"running": {}}})), ready);
        let verdict = judge(Some(&pod(true)), &[], &seen);
        assert_eq!((verdict.reason(), verdict.is_well()), ("LogSilent", false));
        assert!(
            verdict.to_string().starts_with("container main runs, but has logged nothing for 10 s; before, it was never silent for more than 0.2 s"),
            "{verdict}"
        );
        // What its probes say explains more.
        assert_eq!(judge(Some(&pod(false)), &[], &seen).reason(), "NotReady");
    }

    #[test]
    fn a_pod_that_is_not_ready_is_told_with_what_its_probes_say() {
        let verdict = judge(Some(&pod(container(&json!({"state": {"running": {}}})), false)), &[event("Unhealthy", "Readiness probe failed: 503")], &unseen());
        assert_eq!(verdict, Verdict::NotReady("Readiness probe failed: 503".into()));
        assert!(!verdict.is_well());
    }
}
