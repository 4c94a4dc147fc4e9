//! `kubectl migrate`, and what the record says afterwards.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::shell::{self, Output, wait_until};

/// Longest time a migration may take.
pub const LIMIT: Duration = Duration::from_secs(300);

/// A migration that has ended, or was refused.
#[derive(Debug, Clone)]
pub struct Move {
    /// How the command ended: 0 moved, 1 failed untouched, 2 taken back, 3 usage, 4 no cluster.
    pub output: Output,
    /// The PodMigration, if one was made.
    pub record: Option<Value>,
}

/// A step of a migration, as its record tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When it began, in seconds since the epoch by the clock of who took it.
    pub from: f64,
    /// When it had ended.
    pub to: f64,
    /// What it was about.
    pub detail: String,
}

impl Move {
    /// All steps of this name that `source`, `target` or `controller` took.
    #[must_use]
    pub fn steps(&self, who: &str, name: &str) -> Vec<Step> {
        let read = |step: &Value| {
            let from = step["startUs"].as_f64()? / 1e6;
            let detail = step["detail"].as_str().unwrap_or_default().to_owned();
            Some(Step { from, to: from + step["durationUs"].as_f64()? / 1e6, detail })
        };
        let all = self.status("/timeline").as_array().into_iter().flatten();
        all.filter(|step| step["who"] == who && step["step"] == name).filter_map(read).collect()
    }

    /// All that the command said.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.output.stdout, self.output.stderr)
    }

    /// Name of the pod that continues.
    ///
    /// # Errors
    /// When the record does not say.
    pub fn target_pod(&self) -> Result<String> {
        let name = self.status("/targetPod").as_str().map(str::to_owned);
        name.with_context(|| format!("no target pod in the record; the command said:\n{}", self.text()))
    }

    /// A field of the record's status.
    #[must_use]
    pub fn status(&self, pointer: &str) -> &Value {
        self.record.as_ref().and_then(|record| record.pointer("/status")?.pointer(pointer)).unwrap_or(&Value::Null)
    }

    /// Milliseconds for which the pod stood still, as Godwit reports them.
    #[must_use]
    pub fn freeze_ms(&self) -> Option<u64> {
        self.status("/freeze/totalMs").as_u64()
    }

    /// Fails unless the pod was moved.
    ///
    /// # Errors
    /// With all that was said.
    pub fn moved(self) -> Result<Self> {
        ensure!(self.output.code == 0, "`{}` exited with {}, not 0 (moved):\n{}", self.output.command, self.output.code, self.text());
        Ok(self)
    }

    /// Fails unless it was refused or failed with nothing touched, for this reason.
    ///
    /// # Errors
    /// With all that was said.
    pub fn refused(self, reason: &str) -> Result<Self> {
        ensure!(self.output.code == 1, "`{}` exited with {}, not 1 (untouched):\n{}", self.output.command, self.output.code, self.text());
        ensure!(self.text().contains(reason), "the reason {reason} is not in:\n{}", self.text());
        Ok(self)
    }

    /// Fails unless it was taken back.
    ///
    /// # Errors
    /// With all that was said.
    pub fn taken_back(self) -> Result<Self> {
        ensure!(self.output.code == 2, "`{}` exited with {}, not 2 (taken back):\n{}", self.output.command, self.output.code, self.text());
        Ok(self)
    }
}

/// Moves a pod and returns however it ended.
///
/// # Errors
/// When the command hangs.
pub fn migrate(lab: &Lab, namespace: &str, pod: &str, node: &str) -> Result<Move> {
    migrate_with(lab, namespace, &[pod, "--to", node])
}

/// `kubectl migrate` with these arguments.
///
/// # Errors
/// When the command hangs.
pub fn migrate_with(lab: &Lab, namespace: &str, arguments: &[&str]) -> Result<Move> {
    let before = names(lab, namespace)?;
    let mut all = vec!["migrate"];
    all.extend(arguments);
    all.extend(["-n", namespace]);
    let output = shell::run("kubectl", &all, None, LIMIT)?;
    // Other pods may be moved at the same time.
    let is_ours = |record: &Value| arguments.first().is_some_and(|pod| record["spec"]["podName"] == **pod);
    let record = records(lab, namespace)?.into_iter().find(|record| is_ours(record) && !before.iter().any(|name| record["metadata"]["name"] == **name));
    Ok(Move { output, record })
}

/// All PodMigrations of a namespace.
///
/// # Errors
/// When kubectl does not succeed.
pub fn records(lab: &Lab, namespace: &str) -> Result<Vec<Value>> {
    Ok(lab.get(&["podmigrations", "-n", namespace])?["items"].as_array().cloned().unwrap_or_default())
}

fn names(lab: &Lab, namespace: &str) -> Result<Vec<String>> {
    Ok(records(lab, namespace)?.iter().map(|record| crate::pods::name(record).to_owned()).collect())
}

/// Orders a migration by its object, without waiting. `spec` may hold more fields.
///
/// # Errors
/// When the API server refuses it.
pub fn order(lab: &Lab, namespace: &str, name: &str, pod: &str, node: &str, spec: &Value) -> Result<()> {
    let mut object = json!({
        "apiVersion": "godwit.dev/v1alpha1",
        "kind": "PodMigration",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podName": pod, "targetNode": node},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    lab.apply(&[object])
}

/// Asks for a migration to be taken back.
///
/// # Errors
/// When the API server refuses.
pub fn cancel(lab: &Lab, namespace: &str, name: &str) -> Result<()> {
    lab.kubectl(&["patch", "podmigration", name, "-n", namespace, "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#]).map(drop)
}

/// The phase of a migration.
#[must_use]
pub fn phase(record: &Value) -> &str {
    record["status"]["phase"].as_str().unwrap_or("Pending")
}

/// Waits until a migration has ended.
///
/// # Errors
/// When it does not within [`LIMIT`].
pub fn wait_final(lab: &Lab, namespace: &str, name: &str) -> Result<Value> {
    wait_until(&format!("PodMigration {name} ended"), LIMIT, || {
        let record = lab.get(&["podmigration", "-n", namespace, name])?;
        Ok(matches!(phase(&record), "Succeeded" | "RolledBack" | "Failed").then_some(record))
    })
}
