//! The record of one migration: its object, and the one way in which its status is written.
//!
//! Every write names the resourceVersion on which it is based. When only the rest of the object has changed meanwhile (a user has set `cancel`), the write
//! is repeated on the new version; when the *status* has changed, another controller is at work and this one stops.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};

use godwit_api::migration::{Failure, Phase, PodMigrationStatus, Step};
use godwit_api::{PodMigration, names};
use godwit_migration::timeline;
use godwit_rpc::v1;

use crate::error::Error;
use crate::finalizer;

/// Seconds for everything before the commit, if the user names none: so many, and so many more for each GiB of memory.
const DEADLINE: u32 = 120;
const DEADLINE_PER_GIB: u32 = 60;

/// A write that took longer is a step of its own, in microseconds.
const SLOW: i64 = 2000;

/// See the module.
pub struct Record {
    api: Api<PodMigration>,
    object: PodMigration,
    steps: Mutex<Vec<Step>>,
    /// Steps that wait for the next write but are no reason for one.
    late: Vec<Step>,
}

/// Seconds for a pod with `memory` bytes, of which `bandwidth` bytes a second may travel (0: no limit).
fn usual_deadline(memory: u64, bandwidth: u64) -> u32 {
    let travel = if bandwidth == 0 { 0 } else { memory.div_ceil(bandwidth).saturating_mul(2) };
    let memory = memory.saturating_mul(DEADLINE_PER_GIB.into()) >> 30;
    u32::try_from(travel.saturating_add(memory)).unwrap_or(u32::MAX).saturating_add(DEADLINE)
}

impl Record {
    /// Reads the object from the API server, past all caches. `None` when it is gone.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Self>, Error> {
        let api: Api<PodMigration> = Api::namespaced(client.clone(), namespace);
        Ok(api.get_opt(name).await?.map(|object| Self { api, object, steps: Mutex::default(), late: Vec::new() }))
    }

    /// The object as it was last seen.
    #[must_use]
    pub fn object(&self) -> &PodMigration {
        &self.object
    }

    /// The status as it was last written or read.
    #[must_use]
    pub fn status(&self) -> PodMigrationStatus {
        self.object.status.clone().unwrap_or_default()
    }

    /// Namespace of the object and of both pods.
    #[must_use]
    pub fn namespace(&self) -> String {
        self.object.namespace().unwrap_or_default()
    }

    /// Name of the source pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.object.spec.pod_name
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.object.status.as_ref().map_or(Phase::Pending, |status| status.phase)
    }

    /// When everything before the commit must be over.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let start = self.object.status.as_ref()?.start_time.as_ref()?.0;
        Some(start + std::time::Duration::from_secs(u64::from(self.deadline_seconds())))
    }

    /// Seconds for everything before the commit.
    #[must_use]
    pub fn deadline_seconds(&self) -> u32 {
        let memory = self.object.status.as_ref().and_then(|status| status.plan.as_ref()).map_or(0, |plan| plan.bytes);
        let spec = &self.object.spec;
        spec.deadline_seconds.unwrap_or_else(|| usual_deadline(memory, u64::from(spec.bandwidth_mib.unwrap_or_default()) << 20))
    }

    /// Changes the status and writes it, with the steps taken since the last write. Nothing is written when nothing changes.
    ///
    /// # Errors
    /// [`Error::Superseded`] when another controller has written it, [`Error::Gone`] when the object is gone.
    pub async fn write(&mut self, change: impl Fn(&mut PodMigrationStatus)) -> Result<(), Error> {
        let before = self.phase();
        loop {
            let mut next = self.object.clone();
            let status = next.status.get_or_insert_default();
            change(status);
            let steps = self.steps.get_mut().unwrap_or_else(PoisonError::into_inner).clone();
            if next.status == self.object.status && steps.is_empty() {
                return Ok(());
            }
            let status = next.status.get_or_insert_default();
            status.timeline.extend(self.late.iter().cloned().chain(steps));
            bound(&mut status.timeline);
            let watch = Stopwatch::start(before, "status");
            // `replace` wants the resourceVersion, which the clone carries.
            match self.api.replace_status(&self.object.name_any(), &PostParams::default(), &next).await {
                Ok(written) => {
                    self.object = written;
                    self.late.clear();
                    self.steps.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
                    let written = watch.stop();
                    // While the pod travels its progress is written again and again: of that only what took long is worth a line.
                    if self.phase() != before || before != Phase::Switching || written.duration_us > SLOW {
                        self.late.push(written);
                    }
                    return Ok(());
                }
                Err(kube::Error::Api(error)) if error.is_conflict() => self.refresh().await?,
                Err(kube::Error::Api(error)) if error.is_not_found() => return Err(Error::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the object again.
    ///
    /// # Errors
    /// [`Error::Superseded`] when the status is another than the one last seen.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        let seen = self.api.get_opt(&self.object.name_any()).await?.ok_or(Error::Gone)?;
        if seen.status != self.object.status {
            return Err(Error::Superseded);
        }
        self.object = seen;
        Ok(())
    }

    /// Notes a step for the next write.
    pub fn note(&self, step: Step) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Notes a step of an agent: in which phase, and only once, however often it is told.
    pub fn note_agent(&self, phase: Phase, step: v1::Step) {
        let step = Step { phase, step: step.step, who: step.who, start_us: step.start_us, duration_us: step.duration_us, detail: step.detail };
        let mut waiting = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.object.status.as_ref().is_some_and(|status| status.timeline.contains(&step));
        if !known && !waiting.contains(&step) {
            waiting.push(step);
        }
    }

    /// Takes a step of the controller and notes how long it took.
    pub async fn step<T>(&self, name: &str, work: impl Future<Output = T>) -> T {
        let watch = Stopwatch::start(self.phase(), name);
        let result = work.await;
        self.note(watch.stop());
        result
    }

    /// Whether there are steps that are not written yet.
    #[must_use]
    pub fn has_notes(&self) -> bool {
        !self.steps.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Puts our finalizer on the object, or takes it away.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn hold(&mut self, hold: bool) -> Result<(), Error> {
        loop {
            let Some(patch) = finalizer::patch(&self.object.metadata, names::FINALIZER, hold) else { return Ok(()) };
            match self.api.patch(&self.object.name_any(), &PatchParams::default(), &patch).await {
                Ok(written) => {
                    self.object = written;
                    return Ok(());
                }
                Err(kube::Error::Api(error)) if error.is_conflict() => self.refresh().await?,
                Err(kube::Error::Api(error)) if error.is_not_found() => return if hold { Err(Error::Gone) } else { Ok(()) },
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Who takes its steps, in the timeline.
const CONTROLLER: &str = "controller";
/// No step of the controller's takes so long, in microseconds.
const LONG: i64 = 24 * 3600 * 1_000_000;

/// A step of the controller that is being taken.
pub struct Stopwatch {
    step: Step,
    began: tokio::time::Instant,
}

impl Stopwatch {
    /// Starts it.
    #[must_use]
    pub fn start(phase: Phase, name: &str) -> Self {
        let start_us = Timestamp::now().as_microsecond();
        Self { step: Step { phase, step: name.into(), who: CONTROLLER.into(), start_us, ..Step::default() }, began: tokio::time::Instant::now() }
    }

    /// Ends it.
    #[must_use]
    pub fn stop(self) -> Step {
        Step { duration_us: i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX), ..self.step }
    }
}

/// Keeps the record small: of too many steps the shortest go, the controller's own before those of the agents, which tell where a freeze went. (A controller that cannot reach an agent takes the
/// same step again and again, and each takes long.)
fn bound(steps: &mut Vec<Step>) {
    let own = |step: &Step| step.who == CONTROLLER;
    let durations: Vec<i64> = steps.iter().map(|step| if own(step) { step.duration_us } else { step.duration_us.saturating_add(LONG) }).collect();
    let keep = timeline::worth_keeping(&durations);
    let mut index = 0;
    steps.retain(|_| {
        index += 1;
        keep.get(index - 1).copied().unwrap_or(true)
    });
}

/// Sets a condition; the time of the last transition changes only with its status.
pub fn condition(status: &mut PodMigrationStatus, type_: &str, value: bool, reason: &str, message: &str) {
    set_condition(&mut status.conditions, status.observed_generation, type_, value, reason, message);
}

/// The same among any conditions.
pub fn set_condition(conditions: &mut Vec<Condition>, generation: Option<i64>, type_: &str, value: bool, reason: &str, message: &str) {
    let value = if value { "True" } else { "False" };
    let now = Time(Timestamp::now());
    if let Some(old) = conditions.iter_mut().find(|one| one.type_ == type_) {
        if old.status != value {
            old.last_transition_time = now;
        }
        value.clone_into(&mut old.status);
        reason.clone_into(&mut old.reason);
        message.clone_into(&mut old.message);
        old.observed_generation = generation;
        return;
    }
    conditions.push(Condition {
        type_: type_.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: now,
        observed_generation: generation,
    });
}

/// Ends a migration: phase, time and the condition `Complete`.
pub fn end(status: &mut PodMigrationStatus, phase: Phase, failure: Option<&Failure>) {
    status.phase = phase;
    status.completion_time = Some(Time(Timestamp::now()));
    if let Some(failure) = failure {
        status.failure = Some(failure.clone());
    }
    let (reason, message) = failure.map_or((format!("{phase:?}"), String::new()), |failure| (failure.reason.clone(), failure.message.clone()));
    condition(status, "Complete", phase == Phase::Succeeded, &reason, &message);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn large_pods_have_longer() {
        assert_eq!(usual_deadline(0, 0), 120);
        assert_eq!(usual_deadline(8 << 30, 0), 120 + 8 * 60);
        assert_eq!(usual_deadline(1 << 30, 10 << 20), 120 + 60 + 206);
        assert_eq!(usual_deadline(u64::MAX, 1), u32::MAX);
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut status = PodMigrationStatus::default();
        condition(&mut status, "Planned", false, "Waiting", "");
        let long_ago = Time(Timestamp::UNIX_EPOCH);
        status.conditions[0].last_transition_time = long_ago.clone();
        condition(&mut status, "Planned", false, "Blocked", "x");
        assert_eq!((status.conditions.len(), &status.conditions[0].last_transition_time), (1, &long_ago));
        condition(&mut status, "Planned", true, "Planned", "");
        assert_ne!(status.conditions[0].last_transition_time, long_ago);
    }

    #[test]
    fn what_the_agents_did_outlives_what_the_controller_tried() {
        let step = |who: &str, duration_us| Step { phase: Phase::Switching, step: "s".into(), who: who.into(), duration_us, ..Step::default() };
        let mut steps = vec![step("source", 40), step("target", 5)];
        steps.extend((0..400).map(|_| step(CONTROLLER, 5_000_000)));
        bound(&mut steps);
        assert_eq!((steps.len(), steps[0].who.as_str(), steps[1].who.as_str()), (timeline::LIMIT, "source", "target"));
    }

    #[test]
    fn the_end_names_its_reason() {
        let mut status = PodMigrationStatus::default();
        end(&mut status, Phase::Failed, Some(&crate::failure::cancelled()));
        assert_eq!(status.failure.unwrap().reason, "Cancelled");
        assert_eq!((status.conditions[0].status.as_str(), status.conditions[0].reason.as_str()), ("False", "Cancelled"));
        let mut good = PodMigrationStatus::default();
        end(&mut good, Phase::Succeeded, None);
        assert_eq!((good.conditions[0].status.as_str(), good.conditions[0].reason.as_str()), ("True", "Succeeded"));
    }
}
