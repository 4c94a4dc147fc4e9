//! Checkpoints in a real registry (CNCF Distribution, over TLS, with a login): made, restored on both nodes, encrypted, damaged, deleted; and what is said when the registry
//! is away, does not let one in, or was never allowed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::lab::CLIENT_ADDRESS;
use godwit_demo::objects::{Pod, container};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::{Good, MINUTE};
use godwit_e2e::user::User;
use godwit_e2e::{Case, Scenario};
use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::checkpoint::{self, ok};
use crate::checkpoint_encrypted::{KEY, allow, expect, program};

pub const SCENARIO: Scenario =
    Scenario::new("checkpoint-registry", "Checkpoints are kept in an OCI registry, and pods are made of them on both nodes; the registry may be away.", run);

/// Who may log in, and his password.
const USER: &str = "ada";
const PASSWORD: &str = "a-word-for-the-lab";
/// As htpasswd has it: bcrypt of that password.
const HTPASSWD: &str = "ada:$2a$04$7yw8bnDfnoxvv.SMGS4v4.CTqbAbkuscIvP9SX714xyYkAEZvudIy\n";
/// Where an agent keeps what is on its way.
const SPOOL: &str = "/var/lib/godwit/spool";
/// How long the registry may take to answer.
const STARTING: Duration = Duration::from_secs(20);

/// A registry that goes when the test ends.
struct Registry {
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(case: &Case) -> Result<()> {
    let marker = format!("marker-{}-in-a-registry", case.namespace);
    let pod = case.start(Pod::new("shelved", [container("counter", &["sh", "-c", &program(&marker)])]))?;
    case.good(&pod, "counter", 10)?;
    secrets(case)?;
    let mut registry = Registry::prepare(case)?;
    let store = registry.store();
    unwilling(case, &pod, &store)?;
    registry.start(case)?;
    denied(case, &pod, &store)?;

    let counted = case.good(&pod, "counter", 0)?;
    let said = ok(keep(case, &pod, "kept", &store, &[])?)?;
    ensure!(said.contains("checkpoint kept of pod"), "it says:\n{said}");
    ok(keep(case, &pod, "closed", &store, &["--encrypt-with", "vault"])?)?;
    case.goes_on(&pod, "counter", &counted)?;
    told(case, &registry)?;
    let plain = registry.blobs_with(&marker)?;
    ensure!(!plain.is_empty(), "the marker is not in what is not encrypted: nothing is proven by looking for it");
    for (checkpoint, name, node) in [("kept", "beside", &case.pair.a), ("kept", "there", &case.pair.b), ("closed", "opened", &case.pair.b)] {
        restored(case, checkpoint, name, node, &counted, &marker)?;
    }
    checkpoint::crashed(case, &pod, &["--store", &store, "--registry-secret", "login"])?;
    spools_are_empty(case)?;

    // What is not what it was is refused; then the registry is away.
    let whole = plain.iter().map(|blob| Ok((blob, fs::read(blob)?))).collect::<Result<Vec<_>>>()?;
    for (blob, content) in &whole {
        let mut other = content.clone();
        *other.last_mut().context("an empty blob")? ^= 1;
        fs::write(blob, other)?;
    }
    refused(case, "CheckpointDamaged")?;
    whole.iter().try_for_each(|(blob, content)| fs::write(blob, content))?;
    registry.stop();
    refused(case, "StoreUnreachable")?;
    let before = case.good(&pod, "counter", 0)?;
    expect(&keep(case, &pod, "late", &store, &[])?, "StoreUnreachable", "refused")?;
    case.goes_on(&pod, "counter", &before)?;
    registry.start(case)?;
    restored(case, "kept", "again", &case.pair.b, &counted, &marker)?;

    for name in ["kept", "closed", "after-a-crash"] {
        ok(case.kubectl_migrate(&["checkpoints", "delete", name])?)?;
    }
    let left = registry.tags()?;
    ensure!(left.is_empty(), "the registry still has {left:?}");
    spools_are_empty(case)?;
    case.unspoken(&[PASSWORD])
}

fn keep(case: &Case, pod: &str, name: &str, store: &str, more: &[&str]) -> Result<godwit_demo::shell::Output> {
    case.kubectl_migrate(&[&["checkpoint", pod, "--name", name, "--store", store, "--registry-secret", "login"], more].concat())
}

/// A login, one with another password, one for another registry, and a key.
fn secrets(case: &Case) -> Result<()> {
    let server = format!("{CLIENT_ADDRESS}:{}", port(case));
    let login = |name: &str, server: &str, password: &str| {
        let config = json!({"auths": {server: {"username": USER, "password": password}}}).to_string();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config}})
    };
    case.apply(&[
        login("login", &server, PASSWORD),
        login("wrong", &server, "another-word"),
        login("elsewhere", "registry.example", PASSWORD),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault"}, "stringData": {"key": KEY}}),
    ])
}

/// What is refused before a registry is there.
fn unwilling(case: &Case, pod: &str, store: &str) -> Result<()> {
    let order = |store: &str, secret: &str| case.kubectl_migrate(&["checkpoint", pod, "--store", store, "--registry-secret", secret]);
    expect(&order(store, "login")?, "RegistryLoginMissing", "may not read Secret login")?;
    allow(case, &["login", "wrong", "elsewhere", "vault", "nothing"])?;
    expect(&order(store, "nothing")?, "RegistryLoginMissing", "no Secret nothing")?;
    expect(&order(store, "elsewhere")?, "RegistryLoginMissing", "has no name and password")?;
    expect(&order(store, "vault")?, "RegistryLoginMissing", ".dockerconfigjson")?;
    expect(&order(store, "login")?, "StoreUnreachable", "refused")?;
    let elsewhere = case.kubectl_migrate(&["checkpoint", pod, "--store", "oci://registry.example/shop"])?;
    expect(&elsewhere, "StoreNotAllowed", "registry.example/shop")?;
    for bad in ["oci://", "oci://host", "oci://host/Upper", "oci://host/x:tag", "https://host/x", "oci://host/x/../y"] {
        let output = case.kubectl_migrate(&["checkpoint", pod, "--store", bad])?;
        let text = format!("{}{}", output.stdout, output.stderr);
        ensure!(output.code != 0 && text.contains("store must be"), "{bad}: exit code {}:\n{text}", output.code);
    }
    Ok(())
}

/// What is refused by the registry, and by the cluster.
fn denied(case: &Case, pod: &str, store: &str) -> Result<()> {
    expect(&case.kubectl_migrate(&["checkpoint", pod, "--store", store])?, "StoreDenied", "anybody who does not log in")?;
    expect(&case.kubectl_migrate(&["checkpoint", pod, "--store", store, "--registry-secret", "wrong"])?, "StoreDenied", "user ada")?;
    let rules = json!([
        {"apiGroups": ["godwit.dev"], "resources": ["podcheckpoints"], "verbs": ["create", "get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
    ]);
    let user = User::with(case, "keyless", &rules)?;
    let output = keep(case, pod, "never", store, &["--kubeconfig", &user.kubeconfig()])?;
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.code == 5 && text.contains("may not read Secret login"), "exit code {}:\n{text}", output.code);
    Ok(())
}

/// Where it is: in the status, in the registry, and not in the directory that the installation names.
fn told(case: &Case, registry: &Registry) -> Result<()> {
    let object = case.lab.get(&["podcheckpoint", "-n", &case.namespace, "kept"])?;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    ensure!(object["status"]["path"] == format!(":kept-{uid}"), "{}", object["status"]["path"]);
    let described = ok(case.kubectl_migrate(&["checkpoints", "describe", "kept"])?)?;
    ensure!(described.contains(&format!("{}:kept-{uid}", registry.store())) && described.contains("Secret login"), "it describes:\n{described}");
    ensure!(registry.tags()?.contains(&format!("kept-{uid}")), "the registry has {:?}", registry.tags()?);
    let manifests = registry.manifests()?;
    ensure!(manifests.iter().any(|one| one["artifactType"] == "application/vnd.godwit.checkpoint.v1"), "the registry has {manifests:?}");
    let shared = case.lab.script_on_node(&case.pair.a, &format!("ls -A {}/{} 2>/dev/null || true", checkpoint::STORE, case.namespace))?;
    ensure!(shared.trim().is_empty(), "in the directory there is\n{shared}");
    spools_are_empty(case)
}

fn restored(case: &Case, checkpoint: &str, name: &str, node: &str, counted: &Good, marker: &str) -> Result<()> {
    let said = ok(case.kubectl_migrate(&["restore", checkpoint, "--name", name, "--node", node])?)?;
    ensure!(said.contains(&format!("pod {name} runs on {node}")), "it says:\n{said}");
    case.ready(name)?;
    case.goes_on(name, "counter", counted)?;
    let file = case.exec(name, "counter", &["cat", "/root/marker"])?;
    ensure!(file.trim() == marker, "{name} has in its file: {file}");
    ensure!(pods::restarts(&case.pod(name)?) == 0, "{name} was restarted");
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, name, "--wait=false"]).map(drop)
}

fn refused(case: &Case, reason: &str) -> Result<()> {
    expect(&case.kubectl_migrate(&["restore", "kept", "--name", "worse", "--node", &case.pair.b])?, reason, "")?;
    pods::wait_gone(&case.lab, &case.namespace, "worse", case.patience())
}

fn spools_are_empty(case: &Case) -> Result<()> {
    for node in [&case.pair.a, &case.pair.b] {
        wait_until(&format!("nothing is left on {node}"), MINUTE, || {
            let left = case.lab.script_on_node(node, &format!("ls -A {SPOOL} 2>/dev/null || true"))?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
    }
    Ok(())
}

/// Each runtime's scenario has a registry of its own: lab/godwit/values.yaml.
fn port(case: &Case) -> u16 {
    if case.pair.runtime == "crio" { 5444 } else { 5443 }
}

impl Registry {
    /// Certificate, logins and configuration; it is not there yet.
    fn prepare(case: &Case) -> Result<Self> {
        let registry = Self { child: None, folder: std::env::temp_dir().join(format!("{}-registry", case.namespace)), port: port(case) };
        fs::create_dir_all(&registry.folder)?;
        let [authority, key] = case.lab.authority();
        let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(authority)?, KeyPair::from_pem(&fs::read_to_string(key)?)?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([CLIENT_ADDRESS.to_owned()])?.signed_by(&key, &issuer)?;
        let path = |name: &str| registry.folder.join(name);
        // JSON is YAML.
        let config = json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": path("data")}, "delete": {"enabled": true}},
            "http": {"addr": format!("{CLIENT_ADDRESS}:{}", registry.port), "secret": "lab", "tls": {"certificate": path("tls.crt"), "key": path("tls.key")}},
            "auth": {"htpasswd": {"realm": "lab", "path": path("htpasswd")}},
        });
        let files = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("htpasswd", HTPASSWD.to_owned()), ("config.yml", config.to_string())];
        files.iter().try_for_each(|(name, text)| fs::write(path(name), text))?;
        Ok(registry)
    }

    fn store(&self) -> String {
        format!("oci://{CLIENT_ADDRESS}:{}/checkpoints/of/tests", self.port)
    }

    fn start(&mut self, case: &Case) -> Result<()> {
        let log = fs::File::options().append(true).create(true).open(self.folder.join("log"))?;
        let child = Command::new("registry")
            .arg("serve")
            .arg(self.folder.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the registry cannot be started; make services builds it")?;
        self.child = Some(child);
        let url = format!("https://{CLIENT_ADDRESS}:{}/v2/", self.port);
        let there = wait_until("the registry answers", STARTING, || {
            let script = format!("timeout 2 bash -c '</dev/tcp/{CLIENT_ADDRESS}/{}' 2>/dev/null && echo yes || true", self.port);
            Ok((case.lab.script_on_node(&case.pair.a, &script)?.trim() == "yes").then_some(()))
        });
        there.with_context(|| format!("{url}: {}", fs::read_to_string(self.folder.join("log")).unwrap_or_default()))
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data/docker/registry/v2")
    }

    /// What has a name.
    fn tags(&self) -> Result<Vec<String>> {
        let folder = self.data().join("repositories/checkpoints/of/tests/_manifests/tags");
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn blobs(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        files(&self.data().join("blobs"), &mut found)?;
        Ok(found)
    }

    fn manifests(&self) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        for blob in self.blobs()? {
            found.extend(serde_json::from_slice::<Value>(&fs::read(blob)?).ok().filter(|value| value["schemaVersion"] == 2));
        }
        Ok(found)
    }

    fn blobs_with(&self, text: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for blob in self.blobs()? {
            if fs::read(&blob)?.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(blob);
            }
        }
        Ok(found)
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}
