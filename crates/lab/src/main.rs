//! godwit-lab: a real Kubernetes cluster of several nodes on one Linux machine, for tests, demo and benchmarks.
//!
//! Nodes are sets of namespaces with an own root file system, cgroup and network; everything in them is the real
//! program: kubelet, containerd or CRI-O, runc, crun, CRIU. A node can be a virtual machine too, see [`vm`]. See
//! [`cluster`] for the order of things, [`topology`] for the addresses, [`fabric`] for the pods' networks, [`machine`]
//! for what a node is made of.

mod bird;
mod cache;
mod cgroups;
mod cli;
mod client;
mod cluster;
mod cni;
mod control;
mod descriptors;
mod elf;
mod fabric;
mod images;
mod ingredients;
mod init;
mod kubelet;
mod loading;
mod machine;
mod namespaces;
mod network;
mod oci;
mod owner;
mod pki;
mod plugin;
mod prerequisites;
mod progress;
mod record;
mod runtimes;
mod settings;
mod six;
mod status;
mod supervisor;
mod switch;
mod topology;
mod trash;
mod vm;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = plugin::run() {
        return code;
    }
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("godwit-lab: {error:#}");
            // Tests tell by the code that this machine is not made for what they want.
            if error.is::<prerequisites::Missing>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}
