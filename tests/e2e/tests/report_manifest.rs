//! The manifest of an earlier controller, `lpm.my.domain/v1 PodMigration`, taken as it is: the option is turned on, a pod moves by exactly that manifest, and the option
//! is taken away again.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::install;
use godwit_demo::migrate::{self, wait_final};
use godwit_demo::pods;
use godwit_demo::shell::{self, Output, wait_until};
use godwit_demo::witness::Witness;
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::faults::Order;
use godwit_e2e::user::User;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario =
    Scenario::new("report-manifest", "The manifest lpm.my.domain/v1 PodMigration moves a pod, unchanged, where the chart says so.", run).alone();

/// The kind by its full name: the short one may mean ours.
const KIND: &str = "podmigrations.lpm.my.domain";
/// The good way, in that manifest's words.
const WAY: [&str; 5] = ["Pending", "Checkpointing", "CheckpointComplete", "Restoring", "Succeeded"];
/// Until a watch is there.
const WATCHED: Duration = Duration::from_secs(3);
/// A point after the target pod was made and before anything stands still.
const POINT: &str = "controller.copying.announced";
/// Where that controller was installed, as its users know it.
const NAMESPACE: &str = "live-pod-migration-system";

fn run(case: &Case) -> Result<()> {
    ensure!(!is_there(case)?, "the kind is there although nobody has asked for it");
    rendered(case)?;
    install::configure(&case.lab, &["lpm.enabled=true"])?;
    let moved = by_that_manifest(case);
    let back = install::configure(&case.lab, &["lpm.enabled=false"]).and_then(|()| {
        wait_until("the kind is gone", MINUTE, || Ok((!is_there(case)?).then_some(())))?;
        let roles = case.lab.kubectl(&["get", "clusterroles,validatingadmissionpolicies", "-o", "name"])?;
        ensure!(!roles.contains("lpm"), "rights are left:\n{roles}");
        let account = format!("system:serviceaccount:{}:godwit-controller", install::NAMESPACE);
        let may = case.lab.try_kubectl(&["auth", "can-i", "create", "podmigrations.godwit.dev", "--as", &account])?;
        ensure!(may.stdout.trim() == "no", "the controller may still create PodMigrations: {}{}", may.stdout, may.stderr);
        Ok(())
    });
    let records = moved.and_then(|last| back.map(|()| last))?;
    // What was moved by it has a name like any other, and moves on.
    let (witness, pod) = records;
    case.move_over(&pod).context("after the option was taken away")?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    witness.exactly_one_runner().map(drop)
}

fn is_there(case: &Case) -> Result<bool> {
    Ok(case.lab.find(&["crd", KIND])?.is_some())
}

/// The chart goes into the namespace of that controller as into any other.
fn rendered(case: &Case) -> Result<()> {
    let chart = install::chart()?;
    let text = case.lab.command(&["helm", "template", "godwit", &chart.to_string_lossy(), "--namespace", NAMESPACE, "--set", "lpm.enabled=true"], MINUTE)?;
    ensure!(text.contains(&format!("system:serviceaccount:{NAMESPACE}:godwit-controller")), "the policies do not know the controller in {NAMESPACE}");
    let elsewhere: Vec<&str> = text.lines().filter(|line| line.contains("godwit-system")).collect();
    ensure!(elsewhere.is_empty(), "installed into {NAMESPACE}, the chart still names another namespace: {elsewhere:?}");
    Ok(())
}

/// The manifest as its users write it.
fn manifest(case: &Case, name: &str, pod: &str, node: &str) -> String {
    format!(
        "apiVersion: lpm.my.domain/v1\nkind: PodMigration\nmetadata:\n  name: {name}\n  namespace: {}\nspec:\n  podName: {pod}\n  targetNode: {node}\n",
        case.namespace
    )
}

fn apply(text: &str, options: &[&str]) -> Result<Output> {
    let mut arguments = vec!["apply", "-f", "-"];
    arguments.extend(options);
    shell::run("kubectl", &arguments, Some(text), MINUTE)
}

/// Returns the pod where it is now.
fn by_that_manifest(case: &Case) -> Result<(Witness, String)> {
    let (witness, pod) = case.start_pulse("analytics-counter")?;
    let target = &case.pair.b;

    // Phases as whoever watches sees them, begun before there is anything to see.
    let phases = "jsonpath={.status.phase}{\"\\n\"}";
    let mut command = Command::new("kubectl");
    command.args(["get", KIND, "-n", &case.namespace, "-w", "-o", phases]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = command.spawn()?;
    let mut pipe = watch.stdout.take().context("no pipe")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });

    thread::sleep(WATCHED);
    apply(&manifest(case, "analytics-migration", &pod, target), &[])?.success()?;
    // The short name finds what carries it out, and its watch shows the end of it.
    wait_until("kubectl get podmigration NAME", MINUTE, || Ok((get(case, "podmigration", "analytics-migration")?.code == 0).then_some(())))?;
    let waited = ["wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration/analytics-migration", "-n", &case.namespace, "--timeout=55s"];
    case.lab.kubectl(&waited)?;
    let order = wait_until("the manifest's own end", MINUTE, || {
        let order = case.lab.get(&[KIND, "-n", &case.namespace, "analytics-migration"])?;
        Ok((order["status"]["phase"] == "Succeeded").then_some(order))
    })?;
    let _ = watch.kill();
    let _ = watch.wait();
    let seen = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let mut seen: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    seen.dedup();
    // A watch that began late has missed the first ones.
    ensure!(seen.len() >= 3 && WAY.ends_with(&seen), "not {WAY:?} but {seen:?}");

    let restored = order["status"]["restoredPod"].as_str().context("it does not name the pod that continues")?.to_owned();
    ensure!(order["status"]["message"].as_str().is_some_and(|text| text.contains(&restored) && text.contains(target.as_str())), "{}", order["status"]);
    let now = case.ready(&restored)?;
    ensure!(pods::node(&now) == *target, "it runs on {}", pods::node(&now));
    let labelled = case.lab.get(&["pods", "-n", &case.namespace, "-l", &format!("migration.source-pod={pod}")])?;
    let labelled: Vec<&str> = labelled["items"].as_array().into_iter().flatten().map(pods::name).collect();
    ensure!(labelled == [restored.as_str()], "not {restored} but {labelled:?} has the label");
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    witness.exactly_one_runner()?;
    pods::wait_gone(&case.lab, &case.namespace, &pod, MINUTE)?;
    let pod = restored;

    either_is_found(case, &witness, &pod)?;
    another_order_of_that_name(case, &witness, &pod)?;
    no_way_round_the_rights(case, &witness, &pod)?;
    deleted_on_the_way(case, &witness, &pod)?;
    one_goes_with_the_other(case)?;
    Ok((witness, pod))
}

fn get(case: &Case, kind: &str, name: &str) -> Result<Output> {
    case.lab.try_kubectl(&["get", kind, name, "-n", &case.namespace, "-o", "name"])
}

/// `kubectl get podmigration NAME`, whether the order came by that manifest (and failed) or by ours.
fn either_is_found(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    case.untouched(witness, pod, || {
        apply(&manifest(case, "of-nobody", "nobody", &case.pair.a), &[])?.success()?;
        migrate::order(&case.lab, &case.namespace, "by-ours", pod, &case.pair.a, &json!({"dryRun": true}))?;
        let failed = wait_until("failed in both", MINUTE, || {
            let order = case.lab.get(&[KIND, "-n", &case.namespace, "of-nobody"])?;
            Ok((order["status"]["phase"] == "Failed").then_some(order))
        })?;
        ensure!(failed["status"]["message"].as_str().is_some_and(|text| text.starts_with("PodNotFound: ")), "it does not say why: {}", failed["status"]);
        for name in ["of-nobody", "by-ours", "analytics-migration"] {
            let found = get(case, "podmigration", name)?;
            ensure!(found.code == 0, "kubectl get podmigration {name}: {}{}", found.stdout, found.stderr);
        }
        wait_final(&case.lab, &case.namespace, "by-ours").map(drop)
    })
}

/// A PodMigration of ours that has the name already is somebody else's order.
fn another_order_of_that_name(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    case.untouched(witness, pod, || {
        apply(&manifest(case, "by-ours", pod, &case.pair.a), &[])?.success()?;
        let refused = wait_until("refused", MINUTE, || {
            let order = case.lab.get(&[KIND, "-n", &case.namespace, "by-ours"])?;
            Ok((order["status"]["phase"] == "Failed").then_some(order))
        })?;
        ensure!(refused["status"]["message"].as_str().is_some_and(|text| text.contains("another order")), "{}", refused["status"]);
        case.lab.kubectl(&["delete", KIND, "by-ours", "-n", &case.namespace])?;
        ensure!(get(case, "podmigrations.godwit.dev", "by-ours")?.code == 0, "the other order went with it");
        Ok(())
    })
}

/// Whoever may make such objects but may not delete this pod, or may not create pods, makes none.
fn no_way_round_the_rights(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let orders = rule("lpm.my.domain", "podmigrations", &["create", "get", "list", "watch", "patch"]);
    for (name, verbs, missing) in [("may-create", &["get", "create"], "delete"), ("may-delete", &["get", "delete"], "create")] {
        let user = User::with(case, name, &json!([orders, rule("", "pods", verbs)]))?;
        case.untouched(witness, pod, || {
            let said = apply(&manifest(case, name, pod, &case.pair.a), &["--kubeconfig", &user.kubeconfig()])?;
            let text = format!("{}{}", said.stdout, said.stderr);
            ensure!(said.code != 0 && text.contains(missing) && text.contains("may not"), "{name} was not refused for want of {missing}: {text}");
            ensure!(get(case, KIND, name)?.code != 0 && get(case, "podmigrations.godwit.dev", name)?.code != 0, "there is an order of {name}");
            Ok(())
        })?;
    }
    // Nor may an order be turned into one for another pod.
    let patch = r#"{"spec":{"podName":"another"}}"#;
    let said = case.lab.try_kubectl(&["patch", KIND, "analytics-migration", "-n", &case.namespace, "--type=merge", "-p", patch])?;
    ensure!(said.code != 0 && said.stderr.contains("cannot be changed"), "its pod was changed: {}{}", said.stdout, said.stderr);
    Ok(())
}

/// Deleting it while it is under way takes the migration back.
fn deleted_on_the_way(case: &Case, witness: &Witness, pod: &str) -> Result<()> {
    case.untouched(witness, pod, || {
        let held = case.fault_of_controller(POINT, Order::Delay(MINUTE / 10))?;
        apply(&manifest(case, "regretted", pod, &case.pair.a), &[])?.success()?;
        held.wait(MINUTE)?;
        case.lab.kubectl(&["delete", KIND, "regretted", "-n", &case.namespace, "--timeout=50s"])?;
        wait_until("the migration is taken back and gone", MINUTE, || Ok((get(case, "podmigrations.godwit.dev", "regretted")?.code != 0).then_some(())))?;
        let standing = case.standing_pods()?;
        ensure!(standing.iter().any(|one| pods::name(one) == pod), "{pod} is gone");
        ensure!(!standing.iter().any(|one| one["metadata"]["labels"]["migration.source-pod"] == pod), "the target pod is left");
        Ok(())
    })
}

/// `kubectl delete podmigration NAME` means ours: the manifest's object goes with it, so that the same manifest can be applied anew.
fn one_goes_with_the_other(case: &Case) -> Result<()> {
    case.lab.kubectl(&["delete", "podmigration", "analytics-migration", "-n", &case.namespace, "--timeout=50s"])?;
    for kind in [KIND, "podmigrations.godwit.dev"] {
        wait_until("the other one is gone", MINUTE, || Ok((get(case, kind, "analytics-migration")?.code != 0).then_some(())))?;
    }
    let left: Value = case.lab.get(&["podmigrations.godwit.dev", "-n", &case.namespace])?;
    ensure!(left["items"].as_array().is_some_and(|items| !items.iter().any(|one| pods::name(one) == "analytics-migration")), "it was ordered again: {left}");
    Ok(())
}
