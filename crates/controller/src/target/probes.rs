//! Probes that give a keeper time.
//!
//! The kubelet probes the target's containers from their start on, while they are keepers and nothing can answer. Liveness waits longer before it begins,
//! a startup probe may fail longer; readiness stays as it is, it only keeps the pod unready. Both values are floors, so a second move changes nothing.

use k8s_openapi::api::core::v1::Container;

/// Seconds for which nobody may conclude that a container is dead, at least.
pub const PATIENCE: u32 = 120;

/// Adjusts the probes of one container. `patience`: seconds, longer than the time between the keepers' start and the switch.
pub fn make_patient(container: &mut Container, patience: u32) {
    let patience = i32::try_from(patience.max(PATIENCE)).unwrap_or(i32::MAX);
    if let Some(probe) = &mut container.liveness_probe {
        probe.initial_delay_seconds = Some(probe.initial_delay_seconds.unwrap_or(0).max(patience));
    }
    if let Some(probe) = &mut container.startup_probe {
        let period = probe.period_seconds.unwrap_or(10).max(1);
        let tries = patience.saturating_add(period - 1) / period;
        probe.failure_threshold = Some(probe.failure_threshold.unwrap_or(3).max(tries));
    }
}
