//! A node: kubelet, kube-proxy, CNI and what they need; the container runtime is in [`crate::runtimes`].

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use crate::fabric::Fabric;
use crate::ingredients::prlimit_library;
use crate::loading::storage;
use crate::machine::{Machine, MachineSpec, Program};
use crate::pki::{Authority, kubeconfig};
use crate::settings::Settings;
use crate::switch::server;
use crate::topology::{DNS_SERVICE, Node, Topology};
use crate::vm::host::VmSpec;
use crate::vm::{disks, kernel};
use crate::{bird, cni, network, plugin, runtimes, six};

/// Writes certificates and configuration of a node.
pub fn prepare(settings: &Settings, topology: &Topology, node: &Node, authority: &Authority) -> Result<MachineSpec> {
    let data = ["kubelet", storage(node.runtime)];
    let mut spec = MachineSpec::new(settings, &node.name, &data);
    runtimes::prepare(settings, node, &mut spec)?;
    if let Some(kernel) = node.vm {
        spec.lower = disks::root(settings);
        let (kernel, network) = (kernel::folder(settings, kernel), network::inside_vm(topology.fabric, node));
        spec.vm = Some(VmSpec { kernel, address: node.address().parse()?, number: node.number, network });
    }

    let user = authority.client(&format!("system:node:{}", node.name), Some("system:nodes"))?;
    let proxy = authority.client("system:kube-proxy", None)?;
    let cni = authority.client(plugin::USER, None)?;
    let six = six::on();
    let (four, more) = (node.address(), six::address(node));
    let names: Vec<&str> = [four.as_str(), &node.name].into_iter().chain(six.then_some(more.as_str())).collect();
    let serving = authority.server(&node.name, &names)?;
    let ca = &authority.ca.cert;
    for (name, content) in [
        ("ca.crt", ca.clone()),
        ("kubelet.crt", serving.cert),
        ("kubelet.key", serving.key),
        ("kubelet.conf", kubeconfig(&server(), ca, &user)),
        ("kube-proxy.conf", kubeconfig(&server(), ca, &proxy)),
        ("kubelet.json", kubelet_config(node).to_string()),
        ("kube-proxy.json", proxy_config(topology.fabric, node, six).to_string()),
        ("cni.conf", kubeconfig(&server(), ca, &cni)),
    ] {
        spec.write(&format!("/etc/kubernetes/{name}"), 0o600, content)?;
    }
    prepare_network(topology.fabric, node, &spec)?;
    let hosts = topology.nodes.iter().fold(String::from("127.0.0.1 localhost\n"), |hosts, node| format!("{hosts}{} {}\n", node.address(), node.name));
    spec.write("/etc/hosts", 0o644, hosts)?;
    spec.write("/etc/hostname", 0o644, format!("{}\n", node.name))?;
    spec.write("/etc/machine-id", 0o444, machine_id(node))?;
    if lacks_resource(node)? {
        let library = prlimit_library(settings);
        let bytes = fs::read(&library).with_context(|| format!("{} is unreadable", library.display()))?;
        spec.write("/usr/lib/godwit-lab/prlimit.so", 0o755, bytes)?;
        spec.write("/etc/ld.so.preload", 0o644, "/usr/lib/godwit-lab/prlimit.so\n")?;
    }
    Ok(spec)
}

/// The pods' network: its configuration, and the plugin of the lab's own that it names.
fn prepare_network(fabric: Fabric, node: &Node, spec: &MachineSpec) -> Result<()> {
    spec.write(cni::CONFIG, 0o644, cni::config(fabric, node, six::on()).to_string())?;
    let name = match fabric {
        Fabric::Bridge => plugin::IPAM,
        Fabric::Routed => {
            spec.write(bird::CONFIG, 0o644, bird::node_config(node))?;
            plugin::ROUTED
        }
    };
    let own = std::env::current_exe().and_then(fs::read).context("this program's file is unreadable")?;
    spec.write(&format!("{}/{name}", plugin::FOLDER), 0o755, own)
}

/// Starts kubelet and kube-proxy; the runtime has been started.
pub fn start(node: &Node, machine: &Machine) -> Result<()> {
    let label = format!("--node-labels=godwit.dev/lab-runtime={}", node.runtime.name());
    let six = six::on().then(|| six::address(node));
    let address = format!("--node-ip={}", six::both(&node.address(), six.as_deref()));
    let name = format!("--hostname-override={}", node.name);
    let mut arguments = vec![
        "/opt/godwit-lab/bin/kubelet",
        "--config=/etc/kubernetes/kubelet.json",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        &address,
        &name,
        &label,
        "--v=2",
    ];
    if node.vm.is_some() {
        // Emulated, it is slow: what may run elsewhere better does.
        arguments.push("--register-with-taints=godwit.dev/lab-vm=:PreferNoSchedule");
    }
    machine.keep(&Program {
        name: "kubelet",
        after: &[node.runtime.socket()],
        reads: &["/etc/kubernetes/kubelet.json", "/etc/kubernetes/kubelet.conf", "/etc/kubernetes/kubelet.crt"],
        argv: &arguments,
    })?;
    machine.keep(&Program {
        name: "kube-proxy",
        after: &[],
        reads: &["/etc/kubernetes/kube-proxy.json", "/etc/kubernetes/kube-proxy.conf"],
        argv: &["/opt/godwit-lab/bin/kube-proxy", "--config=/etc/kubernetes/kube-proxy.json", &name],
    })
}

/// Whether root on a node lacks CAP_SYS_RESOURCE (bit 24, capabilities(7)), as it does where this machine's does.
pub fn lacks_resource(node: &Node) -> Result<bool> {
    if node.vm.is_some() {
        return Ok(false);
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("/proc/self/status tells no capabilities")?;
    let bits = u64::from_str_radix(effective.trim(), 16)?;
    Ok(bits & (1 << 24) == 0)
}

fn machine_id(node: &Node) -> String {
    format!("{:.32}\n", crate::cache::digest(&["machine", &node.name]))
}

fn kubelet_config(node: &Node) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", node.runtime.socket()),
        "cgroupDriver": node.cgroup_driver(),
        "failCgroupV1": false,
        "failSwapOn": false,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "featureGates": {"ContainerCheckpoint": true},
        // A node here is a part of a machine: it cannot raise limits and must not guard the machine's memory or disk.
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": false,
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "50Mi"},
        // 100 switches the collection off: images here come from no registry and would not come back.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": false,
        // A container that is killed again and again comes back within 1 to 2 s: tests kill Godwit's own all the time.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        // The lease is renewed every 3 s; the node controller waits 15 s for it.
        "nodeLeaseDurationSeconds": 12,
        "nodeStatusUpdateFrequency": "5s",
    })
}

fn proxy_config(fabric: Fabric, node: &Node, six: bool) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.conf"},
        "hostnameOverride": node.name,
        "mode": "nftables",
        "clusterCIDR": six::both(fabric.pods(), six.then_some(six::pods(fabric))),
        // On a flat network an answer would bypass the node that translated the request. On the routed one only clients' requests are masqueraded.
        "nftables": {"masqueradeAll": fabric == Fabric::Bridge},
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}
