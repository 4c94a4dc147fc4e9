//! `runc checkpoint`, its images over TCP, `runc restore`: what one would write by hand. The nodes have no rsync; tar has less to do.

use anyhow::Result;
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::pages;
use serde_json::json;

use super::Peer;
use super::road::{on_both, shell, stream};

/// Everything of it, in memory on both nodes.
const HOME: &str = "/run/bench-runc";
const RUNC: &str = "runc --root /run/bench-runc/state";
const DELETE: &str = "runc --root /run/bench-runc/state delete -f heap 2>/dev/null || true";

/// The files of the workload image, as every node of the lab has them: the nodes' own Python lacks what the program needs.
const ROOT: &str = "/opt/godwit-lab/images/app.layer";

/// See the module.
pub struct Runc<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    node: &'a str,
}

impl<'a> Runc<'a> {
    /// A bundle on both nodes.
    pub fn new(lab: &'a Lab, pair: &'a Pair) -> Result<Self> {
        on_both(lab, pair, &format!("mkdir -p {HOME}/images {HOME}/bundle/rootfs; tar -C {HOME}/bundle/rootfs -xf {ROOT}"))?;
        Ok(Self { lab, pair, node: &pair.a })
    }

    /// Runs runc with the container's output in a pipe, as runtimes do: CRIU gives a pipe anew, a file outside of the container not. What runc complains of is there, too.
    fn speaking(&self, call: &str) -> Result<()> {
        let pipe = format!("cd {HOME}/bundle; : > {HOME}/said; setsid sh -c '{RUNC} {call} 2>&1 < /dev/null | cat > {HOME}/said' > /dev/null 2>&1 &");
        shell(self.lab, self.node, &pipe).map(drop)
    }
}

/// What is changed in the configuration that `runc spec` writes.
const CONFIGURE: &str = "import json, sys\n\
config, wanted = json.load(open('config.json')), json.load(sys.stdin)\n\
config['process'].update(wanted['process'])\n\
config['linux']['cgroupsPath'] = '/bench-runc'\n\
json.dump(config, open('config.json', 'w'))\n";

impl Peer for Runc<'_> {
    fn name(&self) -> String {
        "runc checkpoint, tar over TCP, restore".into()
    }

    fn start(&mut self, mib: u32, rate: u32) -> Result<()> {
        let arguments = json!({"process": {"terminal": false, "args": ["/usr/bin/python3", "-c", pages::PROGRAM, mib.to_string(), rate.to_string()]}});
        let configure = format!("cd {HOME}/bundle; rm -f config.json; runc spec; python3 -c \"{CONFIGURE}\" <<'WANTED'\n{arguments}\nWANTED");
        on_both(self.lab, self.pair, &configure)?;
        self.node = &self.pair.a;
        self.speaking("run -d heap")
    }

    fn carry(&mut self) -> Result<()> {
        shell(self.lab, &self.pair.a, &format!("{RUNC} checkpoint --image-path {HOME}/images heap"))?;
        stream(self.lab, (&self.pair.a, &format!("tar -C {HOME}/images -cf - .")), (&self.pair.b, &format!("tar -C {HOME}/images -xf -")))?;
        self.node = &self.pair.b;
        self.speaking(&format!("restore -d --image-path {HOME}/images heap"))
    }

    fn said(&self) -> Result<String> {
        shell(self.lab, self.node, &format!("cat {HOME}/said"))
    }

    fn clear(&mut self) -> Result<()> {
        on_both(self.lab, self.pair, &format!("{DELETE}; rm -rf {HOME}/images/* {HOME}/said"))
    }
}

impl Drop for Runc<'_> {
    fn drop(&mut self) {
        for node in [&self.pair.a, &self.pair.b] {
            let _ = shell(self.lab, node, &format!("{DELETE}; rm -rf {HOME}"));
        }
    }
}
