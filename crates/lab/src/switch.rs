//! The switch: the machine with the control plane, in whose network the clients are too.

use anyhow::Result;

use crate::bird;
use crate::fabric::Fabric;
use crate::machine::{Machine, MachineSpec, Program};
use crate::pki::{Authority, kubeconfig};
use crate::settings::Settings;
use crate::six;
use crate::topology::{API_SERVICE, SERVICE_NETWORK, SWITCH, SWITCH_ADDRESS};

/// Where the API server answers.
pub fn server() -> String {
    format!("https://{SWITCH_ADDRESS}:6443")
}

/// Writes certificates and configuration of the control plane.
pub fn prepare(settings: &Settings, fabric: Fabric, authority: &Authority) -> Result<MachineSpec> {
    let spec = MachineSpec::new(settings, SWITCH, &["etcd"]);
    let put = |name: &str, content: &str| spec.write(&format!("/etc/kubernetes/{name}"), 0o600, content);
    put("ca.crt", &authority.ca.cert)?;
    put("ca.key", &authority.ca.key)?;
    put("sa.key", &authority.service_account_key)?;
    put("sa.pub", &authority.service_account_public)?;
    let names = [
        SWITCH_ADDRESS,
        API_SERVICE,
        "127.0.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let serving = authority.server("kube-apiserver", &names)?;
    put("apiserver.crt", &serving.cert)?;
    put("apiserver.key", &serving.key)?;
    let to_kubelets = authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
    put("kubelet-client.crt", &to_kubelets.cert)?;
    put("kubelet-client.key", &to_kubelets.key)?;
    for (file, user) in [("controller-manager.conf", "system:kube-controller-manager"), ("scheduler.conf", "system:kube-scheduler")] {
        let pair = authority.client(user, None)?;
        put(file, &kubeconfig(&server(), &authority.ca.cert, &pair))?;
    }
    spec.write("/etc/hosts", 0o644, "127.0.0.1 localhost\n")?;
    if fabric == Fabric::Routed {
        spec.write(bird::CONFIG, 0o644, bird::switch_config())?;
    }
    Ok(spec)
}

fn services() -> String {
    format!("--service-cluster-ip-range={}", six::both(SERVICE_NETWORK, six::on().then_some(six::SERVICES)))
}

/// Starts etcd and the API server.
pub fn start_api(machine: &Machine) -> Result<()> {
    machine.keep(&Program {
        name: "etcd",
        after: &[],
        reads: &[],
        argv: &[
            "/usr/bin/etcd",
            "--data-dir=/var/lib/etcd/data",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // A lab's data dies with it: no need to wait for the disk.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    })?;
    let services = services();
    let address = format!("--advertise-address={SWITCH_ADDRESS}");
    machine.keep(&Program {
        name: "kube-apiserver",
        after: &["/var/lib/etcd/data/member/wal"],
        reads: &["/etc/kubernetes/ca.crt", "/etc/kubernetes/apiserver.crt", "/etc/kubernetes/kubelet-client.crt", "/etc/kubernetes/sa.pub"],
        argv: &[
            "/opt/godwit-lab/bin/kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            "--bind-address=0.0.0.0",
            &address,
            &services,
            "--client-ca-file=/etc/kubernetes/ca.crt",
            "--tls-cert-file=/etc/kubernetes/apiserver.crt",
            "--tls-private-key-file=/etc/kubernetes/apiserver.key",
            "--kubelet-certificate-authority=/etc/kubernetes/ca.crt",
            "--kubelet-client-certificate=/etc/kubernetes/kubelet-client.crt",
            "--kubelet-client-key=/etc/kubernetes/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=/etc/kubernetes/sa.pub",
            "--service-account-signing-key-file=/etc/kubernetes/sa.key",
            "--allow-privileged=true",
        ],
    })
}

/// Starts the controllers and the scheduler; the API server is ready.
pub fn start_controllers(machine: &Machine) -> Result<()> {
    let services = services();
    machine.keep(&Program {
        name: "kube-controller-manager",
        after: &[],
        reads: &["/etc/kubernetes/controller-manager.conf"],
        argv: &[
            "/opt/godwit-lab/bin/kube-controller-manager",
            "--kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--bind-address=127.0.0.1",
            "--root-ca-file=/etc/kubernetes/ca.crt",
            "--cluster-signing-cert-file=/etc/kubernetes/ca.crt",
            "--cluster-signing-key-file=/etc/kubernetes/ca.key",
            "--service-account-private-key-file=/etc/kubernetes/sa.key",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            // A dead node is NotReady after 15 to 17 s (the defaults take 50): tests wait for it. See the kubelet's lease.
            "--node-monitor-grace-period=15s",
            "--node-monitor-period=2s",
            &services,
        ],
    })?;
    machine.keep(&Program {
        name: "kube-scheduler",
        after: &[],
        reads: &["/etc/kubernetes/scheduler.conf"],
        argv: &[
            "/opt/godwit-lab/bin/kube-scheduler",
            "--kubeconfig=/etc/kubernetes/scheduler.conf",
            "--authentication-kubeconfig=/etc/kubernetes/scheduler.conf",
            "--authorization-kubeconfig=/etc/kubernetes/scheduler.conf",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
    })
}
