//! A checkpoint that is encrypted: in the store nothing of the pod is to be read, and without its key nobody makes a pod of it.

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, container};
use godwit_demo::pods;
use godwit_demo::shell::{Output, wait_until};
use godwit_e2e::case::MINUTE;
use godwit_e2e::user::User;
use godwit_e2e::{Case, Scenario};
use serde_json::json;

use crate::checkpoint::{self, STORE, ok};

pub const SCENARIO: Scenario =
    Scenario::new("checkpoint-encrypted", "A checkpoint is encrypted with a key from a Secret: nothing of the pod is to be read in the store.", run);

/// Two keys: base64 of 32 bytes.
pub const KEY: &str = "QUVpT1UwMTIzNDU2Nzg5YWJjZGVmZ2hpamtsbW5vcHE=";
const OTHER: &str = "QUVpT1UwMTIzNDU2Nzg5YWJjZGVmZ2hpamtsbW5vcHI=";

/// Counts, and has what nobody else may read in its memory and in a file.
pub fn program(marker: &str) -> String {
    // In two halves, so that the pod's own spec, which is no part of the store anyhow, does not have it.
    let (first, second) = marker.split_at(marker.len() / 2);
    format!(
        "trap 'exit 0' TERM; marker={first}; marker=${{marker}}{second}; echo $marker > /root/marker; id=$(cat /proc/sys/kernel/random/uuid); i=0; \
         while :; do i=$((i+1)); echo good $i $id; test $(cat /root/marker) = $marker || echo bad marker; sleep 0.1; done"
    )
}

fn run(case: &Case) -> Result<()> {
    checkpoint::store(case)?;
    let marker = format!("marker-{}-of-a-secret", case.namespace);
    let pod = case.start(Pod::new("secluded", [container("counter", &["sh", "-c", &program(&marker)])]))?;
    case.good(&pod, "counter", 10)?;
    let text = |value: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": ""}, "stringData": {"key": value}});
    let mut secrets = [text(KEY), text(OTHER), text("a password")];
    for (secret, name) in secrets.iter_mut().zip(["vault", "other", "password"]) {
        secret["metadata"]["name"] = name.into();
    }
    case.apply(&secrets)?;
    let before = case.standing_pods()?.len();
    expect(&case.kubectl_migrate(&["checkpoint", &pod, "--encrypt-with", "vault"])?, "CheckpointKeyMissing", "may not read Secret vault")?;
    allow(case, &["vault", "other", "password", "nothing"])?;
    expect(&case.kubectl_migrate(&["checkpoint", &pod, "--encrypt-with", "nothing"])?, "CheckpointKeyMissing", "no Secret nothing")?;
    expect(&case.kubectl_migrate(&["checkpoint", &pod, "--encrypt-with", "vault/word"])?, "CheckpointKeyMissing", "no value word")?;
    expect(&case.kubectl_migrate(&["checkpoint", &pod, "--encrypt-with", "password"])?, "CheckpointKeyInvalid", "base64")?;
    let counted = case.good(&pod, "counter", 0)?;
    ok(case.kubectl_migrate(&["checkpoint", &pod, "--name", "plain"])?)?;
    let said = ok(case.kubectl_migrate(&["checkpoint", &pod, "--name", "closed", "--encrypt-with", "vault"])?)?;
    ensure!(said.contains("encrypted"), "it says:\n{said}");
    case.goes_on(&pod, "counter", &counted)?;
    let (open, closed) = (files_with(case, "plain", &marker)?, files_with(case, "closed", &marker)?);
    ensure!(open.contains("pages-") && open.contains(".tar"), "the marker is not where it should be in a plain one:\n{open}");
    ensure!(closed.trim().is_empty(), "the marker is to be read in:\n{closed}");
    let host = files_with(case, "closed", &pod)?;
    ensure!(host.trim().is_empty(), "the host name is to be read in:\n{host}");
    let key = told(case)?;
    refused(case, &key)?;
    let now = case.standing_pods()?.len();
    ensure!(now == before, "there were {before} pods, now there are {now}");
    for (name, order) in [("secluded-r1", &["restore", "closed"][..]), ("copy", &["restore", "closed", "--name", "copy", "--decrypt-with", "vault/key"])] {
        let mut order = order.to_vec();
        order.extend(["--node", &case.pair.b]);
        let said = ok(case.kubectl_migrate(&order)?)?;
        ensure!(said.contains(&format!("pod {name} runs on {}", case.pair.b)), "it says:\n{said}");
        case.ready(name)?;
        case.goes_on(name, "counter", &counted)?;
        let file = case.exec(name, "counter", &["cat", "/root/marker"])?;
        ensure!(file.trim() == marker, "{name} has in its file: {file}");
        ensure!(pods::restarts(&case.pod(name)?) == 0, "{name} was restarted");
    }
    crashed(case, &pod)?;
    damaged(case)?;
    case.unspoken(&[KEY, "AEiOU0123456789"])?;
    for name in ["plain", "closed", "after-a-crash"] {
        ok(case.kubectl_migrate(&["checkpoints", "delete", name])?)?;
    }
    let left = case.lab.script_on_node(&case.pair.b, &format!("ls -A {STORE}/{} 2>/dev/null || true", case.namespace))?;
    ensure!(left.trim().is_empty(), "there is left:\n{left}");
    Ok(())
}

/// The controller may read these Secrets and no others: a Role of the namespace's own.
pub fn allow(case: &Case, secrets: &[&str]) -> Result<()> {
    let name = "godwit-keys";
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": secrets, "verbs": ["get"]}]);
    case.apply(&[
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "godwit-controller", "namespace": "godwit-system"}]}),
    ])
}

/// What is said of it: which Secret, which key. Gives the id of the key.
fn told(case: &Case) -> Result<String> {
    let object = case.lab.get(&["podcheckpoint", "-n", &case.namespace, "closed"])?;
    let key = object["status"]["encryption"]["keyId"].as_str().context("the status names no key")?.to_owned();
    ensure!(object["spec"]["encryption"] == json!({"secretName": "vault", "key": "key"}), "{}", object["spec"]);
    let described = ok(case.kubectl_migrate(&["checkpoints", "describe", "closed"])?)?;
    ensure!(described.contains(&key) && described.contains("Secret vault"), "it describes:\n{described}");
    let listed = ok(case.kubectl_migrate(&["checkpoints"])?)?;
    ensure!(listed.contains(&key), "it lists:\n{listed}");
    let changed = json!({"spec": {"encryption": null}}).to_string();
    let refused = case.lab.kubectl(&["patch", "podcheckpoint", "-n", &case.namespace, "closed", "--type=merge", "-p", &changed]);
    ensure!(refused.is_err(), "encryption could be changed");
    Ok(key)
}

/// Without the key, with another one, and for one who may not read the Secret.
fn refused(case: &Case, key: &str) -> Result<()> {
    expect(&case.kubectl_migrate(&["restore", "closed", "--decrypt-with", "other"])?, "CheckpointKeyWrong", key)?;
    expect(&case.kubectl_migrate(&["restore", "closed", "--decrypt-with", "nothing"])?, "CheckpointKeyMissing", "no Secret nothing")?;
    let order = json!({"apiVersion": "godwit.dev/v1alpha1", "kind": "PodRestore", "metadata": {"name": "keyless"}, "spec": {"checkpointName": "closed"}});
    case.apply(&[order])?;
    let why = wait_until("the restore without a key is refused", MINUTE, || {
        let status = &case.lab.get(&["podrestore", "-n", &case.namespace, "keyless"])?["status"];
        Ok((status["phase"] == "Failed").then(|| status["failure"].clone()))
    })?;
    ensure!(why["reason"] == "CheckpointKeyMissing", "{why}");
    let rules = json!([
        {"apiGroups": ["godwit.dev"], "resources": ["podcheckpoints", "podrestores"], "verbs": ["create", "get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["other"], "verbs": ["get"]},
    ]);
    let user = User::with(case, "keyless", &rules)?;
    for order in [&["checkpoint", "secluded", "--encrypt-with", "vault"][..], &["restore", "closed"], &["restore", "closed", "--decrypt-with", "vault"]] {
        let mut order = order.to_vec();
        let kubeconfig = user.kubeconfig();
        order.extend(["--kubeconfig", kubeconfig.as_str()]);
        let output = case.kubectl_migrate(&order)?;
        let text = format!("{}{}", output.stdout, output.stderr);
        ensure!(output.code == 5 && text.contains("may not read Secret vault"), "exit code {}:\n{text}", output.code);
    }
    Ok(())
}

/// The agent ends while the pod stands still: the next one lets it go on, is given the key again, and makes the checkpoint.
fn crashed(case: &Case, pod: &str) -> Result<()> {
    checkpoint::crashed(case, pod, &["--encrypt-with", "vault"])?;
    let journal = case.lab.script_on_node(&case.pair.a, &format!("grep -rl {KEY} /var/lib/godwit /run/godwit /var/log 2>/dev/null || true"))?;
    ensure!(journal.trim().is_empty(), "the key is to be read in:\n{journal}");
    Ok(())
}

/// Two files that have changed places, and one of which a byte was changed.
fn damaged(case: &Case) -> Result<()> {
    let path = path(case, "closed")?;
    let (one, two) = (format!("{path}/counter/images/core-1.img"), format!("{path}/counter/images/inventory.img"));
    let swap = format!("mv {one} {one}.x; mv {two} {one}; mv {one}.x {two}");
    let flip = format!("printf '\\377' | dd of={one} bs=1 seek=70 conv=notrunc status=none");
    for (damage, repair) in [(&swap, &swap), (&flip, &String::from("true"))] {
        case.lab.script_on_node(&case.pair.a, damage)?;
        expect(&case.kubectl_migrate(&["restore", "closed", "--name", "worse", "--node", &case.pair.b])?, "CheckpointDamaged", "")?;
        pods::wait_gone(&case.lab, &case.namespace, "worse", case.patience())?;
        case.lab.script_on_node(&case.pair.a, repair)?;
    }
    Ok(())
}

fn path(case: &Case, checkpoint: &str) -> Result<String> {
    let object = case.lab.get(&["podcheckpoint", "-n", &case.namespace, checkpoint])?;
    Ok(format!("{STORE}/{}", object["status"]["path"].as_str().context("no path")?))
}

/// Files of a checkpoint in which a text is to be read.
fn files_with(case: &Case, checkpoint: &str, text: &str) -> Result<String> {
    let path = path(case, checkpoint)?;
    case.lab.script_on_node(&case.pair.b, &format!("test -s {path}/index.json; grep -rlaF -e '{text}' {path} || true"))
}

pub fn expect(output: &Output, reason: &str, word: &str) -> Result<()> {
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.code == 1 && text.contains(reason) && text.contains(word) && text.contains("What to do"),
        "exit code {}, wanted {reason}, {word}:\n{text}",
        output.code
    );
    Ok(())
}
