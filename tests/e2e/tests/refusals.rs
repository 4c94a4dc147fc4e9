//! What is refused is refused before anything is touched, with a reason and a remedy: unknown names, the same node, a user without rights, a dry run.

use std::process::Command;

use anyhow::{Result, ensure};
use godwit_demo::migrate::{self, LIMIT, Move, migrate_with, records};
use godwit_demo::objects::{Pod, container};
use godwit_demo::shell;
use godwit_demo::witness::Witness;
use godwit_e2e::case::MINUTE;
use godwit_e2e::user::User;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario = Scenario::new("refusals", "What cannot be done is refused with a reason, the pod untouched.", run);

fn run(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("settled")?;
    let refused = |to: &str, reason: &str| case.untouched(&witness, &pod, || case.migrate(&pod, to)?.refused(reason).and_then(explained));

    case.migrate("nobody", &case.pair.b)?.refused("PodNotFound").and_then(explained)?;
    refused("nowhere", "NodeNotFound")?;
    refused(&case.pair.a, "SameNode")?;
    not_running(case)?;
    usage(case)?;
    no_rights(case, &witness, &pod)?;
    dry_run(case, &witness, &pod)?;
    deadline(case, &witness, &pod)?;
    witness.wait_for_ticks(20, MINUTE)?;
    witness.exactly_one_runner().map(drop)
}

/// Reason, message and remedy stand in the record, and the remedy is printed.
pub fn explained(moved: Move) -> Result<Move> {
    if moved.record.is_some() {
        for field in ["reason", "message", "remedy"] {
            let text = moved.status(&format!("/failure/{field}")).as_str().unwrap_or_default().to_owned();
            ensure!(!text.is_empty(), "the record has no {field}: {}", moved.status("/failure"));
            ensure!(field != "remedy" || moved.text().contains(text.split('.').next().unwrap_or_default()), "the remedy {text:?} is not in:\n{}", moved.text());
        }
    }
    Ok(moved)
}

/// A pod whose image is nowhere.
fn not_running(case: &Case) -> Result<()> {
    let mut container = container("main", &["true"]);
    container["image"] = json!("localhost/nowhere:1");
    case.apply(&[Pod::new("waiting", [container]).on(&case.pair.a).object()])?;
    case.migrate("waiting", &case.pair.b)?.refused("PodNotRunning").and_then(explained).map(drop)
}

fn usage(case: &Case) -> Result<()> {
    let moved = migrate_with(&case.lab, &case.namespace, &["settled", "--nonsense"])?;
    ensure!(moved.output.code == 3 && moved.record.is_none(), "a wrong command line exited with {}:\n{}", moved.output.code, moved.text());
    let mut command = Command::new("kubectl-migrate");
    command.args(["settled", "--to", &case.pair.b, "-n", &case.namespace]).env("KUBECONFIG", "/nonexistent");
    let output = shell::finish(command, None, LIMIT)?;
    ensure!(output.code == 4, "without a cluster it exited with {}: {}{}", output.code, output.stdout, output.stderr);
    Ok(())
}

/// Who may create PodMigrations but may not delete this pod, or may not create pods, may not migrate it.
fn no_rights(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let migrations = rule("godwit.dev", "podmigrations", &["create", "get", "list", "watch"]);
    for (name, verbs, missing) in [("may-create", &["get", "list", "watch", "create"], "delete"), ("may-delete", &["get", "list", "watch", "delete"], "create")]
    {
        let user = User::with(case, name, &json!([migrations, rule("", "pods", verbs)]))?;
        let kubeconfig = user.kubeconfig();
        case.untouched(witness, pod, || {
            let moved = migrate_with(&case.lab, &case.namespace, &[pod, "--to", &case.pair.b, "--kubeconfig", &kubeconfig])?;
            ensure!([1, 5].contains(&moved.output.code), "{name} exited with {}:\n{}", moved.output.code, moved.text());
            ensure!(moved.text().contains(missing) && moved.text().contains(user.name()), "neither {missing} nor {name} is named in:\n{}", moved.text());
            ensure!(moved.record.is_none(), "a PodMigration was made for {name}");
            Ok(())
        })?;
    }
    Ok(())
}

fn dry_run(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    case.untouched(witness, pod, || {
        let planned = migrate_with(&case.lab, &case.namespace, &[pod, "--to", &case.pair.b, "--dry-run"])?.moved()?;
        ensure!(planned.text().contains("plan"), "no plan in:\n{}", planned.text());
        let plan = planned.status("/plan").clone();
        ensure!(planned.record.is_none() || plan["containers"] == 1, "a strange plan: {plan}");
        ensure!(case.standing_pods()?.len() == 2, "a dry run made a pod");
        Ok(())
    })
}

/// A deadline that has passed before anything could be done.
fn deadline(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    case.untouched(witness, pod, || {
        migrate::order(&case.lab, &case.namespace, "hasty", pod, &case.pair.b, &json!({"deadlineSeconds": 1}))?;
        let record = migrate::wait_final(&case.lab, &case.namespace, "hasty")?;
        let known: Vec<Value> = records(&case.lab, &case.namespace)?;
        ensure!(known.iter().any(|one| one["metadata"]["name"] == "hasty"), "the record went");
        let reason = record["status"]["failure"]["reason"].as_str().unwrap_or_default();
        ensure!(reason == "DeadlineExceeded", "one second was enough, or it failed otherwise: {}", record["status"]);
        Ok(())
    })
}
