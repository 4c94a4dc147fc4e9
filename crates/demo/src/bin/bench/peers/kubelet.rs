//! The kubelet's checkpoint API, an image made of the archive on the second node, and a pod of that image, which CRI-O restores: the flow of Kubernetes' own documentation.

use anyhow::{Context, Result};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::objects::{Pod, container};
use godwit_demo::pages;
use serde_json::{Value, json};

use super::Peer;
use super::road::{LIMIT, bring, shell};
use crate::stage;

const NAMESPACE: &str = "godwit-bench-peers";
/// The pod's name on the first node and on the second.
const NAMES: [&str; 2] = ["heap", "heap-restored"];
const IMAGE: &str = "localhost/bench/checkpoint:1";
/// Where the image is made; `ADD` unpacks the archive.
const FOLDER: &str = "/var/lib/containers/bench";
/// Podman on CRI-O's own storage.
const PODMAN: &str = "PODMAN_IGNORE_CGROUPSV1_WARNING=1 podman --root /var/lib/containers/storage --runroot /run/containers/storage";

/// See the module.
pub struct Kubelet<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    name: &'static str,
}

impl<'a> Kubelet<'a> {
    /// Nothing is made yet.
    pub fn new(lab: &'a Lab, pair: &'a Pair) -> Self {
        Self { lab, pair, name: NAMES[0] }
    }
}

impl Peer for Kubelet<'_> {
    fn name(&self) -> String {
        "kubelet checkpoint, image, CRI-O restore".into()
    }

    fn start(&mut self, mib: u32, rate: u32) -> Result<()> {
        self.name = NAMES[0];
        stage::empty(self.lab, NAMESPACE)?;
        stage::start(self.lab, NAMESPACE, pages::pod(self.name, mib, rate).on(&self.pair.a))
    }

    fn carry(&mut self) -> Result<()> {
        let (a, b) = (self.pair.a.as_str(), self.pair.b.as_str());
        let call = format!("/api/v1/nodes/{a}/proxy/checkpoint/{NAMESPACE}/{}/{}", self.name, pages::CONTAINER);
        let answer = self.lab.command(&["kubectl", "create", "--raw", &call, "-f", "/dev/null"], LIMIT)?;
        let archive = serde_json::from_str::<Value>(&answer)?["items"][0].as_str().context("the kubelet names no archive")?.to_owned();
        self.lab.kubectl(&["delete", "pod", "-n", NAMESPACE, self.name, "--wait=false"])?;
        shell(self.lab, b, &format!("mkdir -p {FOLDER}"))?;
        bring(self.lab, (a, &archive), (b, &format!("{FOLDER}/checkpoint.tar")))?;
        let annotation = format!("io.kubernetes.cri-o.annotations.checkpoint.name={}", pages::CONTAINER);
        let build = format!("printf 'FROM scratch\\nADD checkpoint.tar /\\n' | {PODMAN} build -q --annotation {annotation} --tag {IMAGE} -f - {FOLDER}");
        shell(self.lab, b, &build)?;
        self.name = NAMES[1];
        let mut main = container(pages::CONTAINER, &[]);
        main["image"] = json!(IMAGE);
        main["imagePullPolicy"] = json!("Never");
        stage::start_within(self.lab, NAMESPACE, Pod::new(self.name, [main]).on(b), LIMIT)
    }

    fn said(&self) -> Result<String> {
        self.lab.kubectl(&["logs", "-n", NAMESPACE, self.name])
    }

    fn clear(&mut self) -> Result<()> {
        self.lab.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=50s"])?;
        shell(self.lab, &self.pair.a, &format!("rm -f /var/lib/kubelet/checkpoints/checkpoint-{}_{NAMESPACE}-*.tar", NAMES[0]))?;
        shell(self.lab, &self.pair.b, &format!("{PODMAN} rmi -f -i {IMAGE}; rm -rf {FOLDER}")).map(drop)
    }
}
