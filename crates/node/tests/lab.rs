//! Looks at every pod of every node of a running lab (`godwit-lab up`) through this crate's eyes: containerd and CRI-O, runc and crun, as they come.
//!
//! For each node this test runs itself once more as an agent would run there: in the node's pid and network namespaces, with mounts of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Instant;

use godwit_node::cgroup::Cgroup;
use godwit_node::cri::{Client, Container, Runtime, Sandbox, State};
use godwit_node::volumes::{self, Index, Side};
use godwit_node::{Host, blockers, facts, process};

const MACHINES: &str = "/var/lib/godwit-lab/machines";
const INSIDE: &str = "GODWIT_TEST_INSIDE_NODE";

#[test]
fn every_pod_of_the_lab_is_understood() {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let mut nodes = 0;
    for machine in fs::read_dir(MACHINES).into_iter().flatten().filter_map(Result::ok) {
        let Some(pid) = fs::read_to_string(machine.path().join("pid")).ok().and_then(|text| text.split_whitespace().next()?.parse::<i32>().ok()) else {
            continue;
        };
        if !machine.path().join("root/run").is_dir() && fs::read_link(format!("/proc/{pid}/ns/pid")).is_err() {
            continue;
        }
        let script = "mount -t proc proc /proc && exec \"$0\" --exact a_node_is_understood_from_inside --nocapture";
        let status = Command::new("nsenter")
            .args(["-p", "-n", "-t", &pid.to_string(), "unshare", "-m", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, machine.file_name())
            .status()
            .unwrap();
        assert!(status.success(), "{}", machine.file_name().display());
        nodes += 1;
    }
    if nodes == 0 {
        eprintln!("skipped: needs a running lab (godwit-lab up) and root");
    }
}

#[tokio::test]
async fn a_node_is_understood_from_inside() {
    let Some(name) = std::env::var_os(INSIDE) else { return };
    let host = Host::detect();
    let client = match Client::detect(&host).await {
        Ok(client) => client,
        Err(error) => return println!("{}: {}", name.display(), error.finding().message),
    };
    let facts = facts::gather(&host).await;
    println!(
        "{}: {} {}, criu {:?}, cgroup {}, /run {} MB",
        name.display(),
        client.runtime_name(),
        client.runtime_version(),
        facts.criu,
        facts.cgroup,
        facts.run_free >> 20
    );
    assert!(facts.criu.is_some());
    for entry in fs::read_dir(host.path("/var/lib/kubelet/pods")).into_iter().flatten().filter_map(Result::ok) {
        let uid = entry.file_name().into_string().unwrap();
        let Some(sandbox) = client.sandbox_of(&uid).await.unwrap().filter(|sandbox| sandbox.ready) else { continue };
        let containers = client.containers_of(&uid).await.unwrap();
        check_sandbox(&host, &uid, &sandbox);
        for container in containers.iter().filter(|container| container.state == State::Running) {
            check_container(&host, &uid, &sandbox, container);
            assert_eq!(client.container(&container.id).await.unwrap().as_ref(), Some(container));
        }
        for directory in volumes::directories(&host, Side::Source, &uid, &sandbox, &containers).unwrap() {
            let index = Index::read(&directory, BTreeSet::new()).unwrap();
            println!(
                "      {} {:?}: {} entries, {} bytes, memory {}, seen at {:?}",
                directory.kind,
                directory.container,
                index.len(),
                index.bytes(),
                directory.memory,
                directory.seen_at
            );
            assert!(directory.data.is_dir());
        }
        let started = Instant::now();
        let findings = blockers::inspect(&blockers::Subject { host: &host, sandbox: &sandbox, containers: &containers });
        println!("      {findings:#?} in {:?}", started.elapsed());
    }
}

fn check_sandbox(host: &Host, uid: &str, sandbox: &Sandbox) {
    println!(
        "  pod {}/{} {:?} host network {} {:?} shm {:?} hostname {} cgroup {} handler {:?}",
        sandbox.namespace,
        sandbox.name,
        sandbox.ips,
        sandbox.host_network,
        sandbox.namespaces,
        sandbox.shm,
        sandbox.hostname,
        sandbox.cgroup_parent,
        sandbox.runtime_handler
    );
    assert_eq!(sandbox.uid, uid);
    if !sandbox.host_network {
        assert!(!sandbox.ips.is_empty() && !sandbox.hostname.is_empty() && sandbox.shm.as_ref().is_some_and(|shm| host.path(shm).is_dir()));
        for path in [&sandbox.namespaces.net, &sandbox.namespaces.ipc, &sandbox.namespaces.uts] {
            let path = path.as_ref().unwrap();
            assert!(fs::File::open(host.path(path)).is_ok(), "{}", path.display());
        }
    }
}

fn check_container(host: &Host, uid: &str, sandbox: &Sandbox, container: &Container) {
    println!(
        "    {} {} pid {} attempt {} image {} log {} bundle {} rootfs {} upper {:?}",
        container.name,
        container.runtime,
        container.pid,
        container.attempt,
        container.image_ref,
        container.log_path.display(),
        container.bundle.display(),
        container.rootfs.display(),
        container.upper
    );
    assert!(container.pid > 0 && matches!(container.runtime, Runtime::Runc | Runtime::Crun), "{}", container.runtime);
    assert!(host.path(&container.bundle).join("config.json").exists() && host.path(&container.log_path).exists());
    assert!(host.path(&container.rootfs).is_dir() && host.path(container.upper.as_ref().unwrap()).is_dir());
    assert_eq!(container.sandbox_id, sandbox.id);
    let cgroup = Cgroup::of(host, container.pid).unwrap();
    let tree = process::tree(&cgroup).unwrap();
    println!(
        "      cgroup {} processes {} fds {} stdio {:?}",
        cgroup.path().display(),
        tree.len(),
        tree.iter().map(|process| process.fds.len()).sum::<usize>(),
        process::descriptors(container.pid)
    );
    assert!(tree.iter().any(|process| process.pid == container.pid && (process.nspid == 1 || sandbox.host_network)));
    let pod = cgroup.pod().unwrap();
    assert!(pod.name().to_string_lossy().replace('_', "-").contains(uid) && cgroup.parent().as_ref() == Some(&pod) && pod.exists());
    assert!(!cgroup.frozen().unwrap());
    let shape = process::Shape::of(container.pid, &tree);
    assert!(shape.missing_in(&shape).is_empty() && !shape.processes.is_empty());
    let connections = process::connections(container.pid).unwrap();
    assert!(sandbox.host_network || sandbox.ips.iter().all(|ip| connections.is_local(*ip)));
}
