//! `podman container checkpoint --export`, and `restore --import`.

use anyhow::Result;
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::pages;

use super::Peer;
use super::road::{bring, on_both, shell};

/// Podman with storage of its own on the node's disk, on runc.
const PODMAN: &str =
    "PODMAN_IGNORE_CGROUPSV1_WARNING=1 podman --root /var/lib/containerd/bench/podman --runroot /run/bench-podman --cgroup-manager=cgroupfs --runtime runc";
const ARCHIVE: &str = "/var/lib/containerd/bench/heap.tar";
/// The workload image, as every node of the lab has it.
const IMAGE: &str = "oci:/opt/godwit-lab/images/app.oci";

/// See the module.
pub struct Podman<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    node: &'a str,
}

impl<'a> Podman<'a> {
    /// Gives podman the image on both nodes.
    pub fn new(lab: &'a Lab, pair: &'a Pair) -> Result<Self> {
        on_both(lab, pair, &format!("mkdir -p /var/lib/containerd/bench; {PODMAN} tag \"$({PODMAN} pull -q {IMAGE})\" localhost/bench/app:1"))?;
        Ok(Self { lab, pair, node: &pair.a })
    }
}

impl Peer for Podman<'_> {
    fn name(&self) -> String {
        "podman checkpoint and restore".into()
    }

    fn start(&mut self, mib: u32, rate: u32) -> Result<()> {
        let program = pages::PROGRAM;
        let run = format!("{PODMAN} run -d --name heap --network none --log-driver k8s-file localhost/bench/app:1");
        shell(self.lab, &self.pair.a, &format!("{run} python3 -c \"$(cat <<'THE-PROGRAM'\n{program}\nTHE-PROGRAM\n)\" {mib} {rate}"))?;
        self.node = &self.pair.a;
        Ok(())
    }

    fn carry(&mut self) -> Result<()> {
        let (a, b) = (self.pair.a.as_str(), self.pair.b.as_str());
        shell(self.lab, a, &format!("{PODMAN} container checkpoint --compress=none --export {ARCHIVE} heap"))?;
        bring(self.lab, (a, ARCHIVE), (b, ARCHIVE))?;
        shell(self.lab, b, &format!("{PODMAN} container restore --import {ARCHIVE}"))?;
        self.node = &self.pair.b;
        Ok(())
    }

    fn said(&self) -> Result<String> {
        shell(self.lab, self.node, &format!("{PODMAN} logs heap"))
    }

    fn clear(&mut self) -> Result<()> {
        on_both(self.lab, self.pair, &clear())
    }
}

/// Takes the container and its archive away.
fn clear() -> String {
    format!("{PODMAN} rm -f -t 0 --ignore heap; rm -f {ARCHIVE}")
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let storage = "umount -l /var/lib/containerd/bench/podman/overlay || true; rm -rf /var/lib/containerd/bench /run/bench-podman";
        for node in [&self.pair.a, &self.pair.b] {
            let _ = shell(self.lab, node, &format!("{}; {PODMAN} rmi -f localhost/bench/app:1; {storage}", clear()));
        }
    }
}
