//! Configuration of the container runtimes: handlers `runc` and `crun`, both plain. Godwit's own handler is not here:
//! its agent installs it, as on any cluster, by a drop-in (`/etc/containerd/conf.d/*.toml`, `/etc/crio/crio.conf.d/*`).

use anyhow::{Result, anyhow};

use crate::client::wait_until;
use crate::images::PAUSE;
use crate::kubelet::lacks_resource;
use crate::machine::{Bind, Machine, MachineSpec, Program};
use crate::settings::Settings;
use crate::topology::{Node, Runtime};

/// Writes the runtime's configuration.
pub fn prepare(settings: &Settings, node: &Node, spec: &mut MachineSpec) -> Result<()> {
    match node.runtime {
        Runtime::Containerd => {
            spec.write("/etc/containerd/conf.d/.keep", 0o644, "")?;
            spec.write("/etc/containerd/config.toml", 0o644, containerd_config(node.systemd(), lacks_resource(node)?))
        }
        Runtime::Crio => {
            let folder = settings.crio.as_ref().ok_or_else(|| anyhow!("GODWIT_CRIO names no folder with crio and pinns, but {} wants CRI-O", node.name))?;
            spec.binds.push(Bind { source: folder.clone(), target: "/opt/crio/bin".into(), read_only: true });
            spec.write("/etc/crio/crio.conf.d/.keep", 0o644, "")?;
            spec.write("/etc/crio/crio.conf", 0o644, crio_config(node.cgroup_driver()))?;
            let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
            spec.write("/etc/containers/policy.json", 0o644, policy)?;
            let registries = "unqualified-search-registries = []\nshort-name-mode = \"disabled\"\n";
            spec.write("/etc/containers/registries.conf", 0o644, registries)?;
            spec.write(
                "/etc/containers/storage.conf",
                0o644,
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"/var/lib/containers/storage\"\nrunroot = \"/run/containers/storage\"\n",
            )
        }
    }
}

/// Starts the runtime.
pub fn start(node: &Node, machine: &Machine) -> Result<()> {
    match node.runtime {
        Runtime::Containerd => {
            machine.keep(&Program { name: "containerd", after: &[], reads: &["/etc/containerd/config.toml"], argv: &["/usr/bin/containerd"] })
        }
        Runtime::Crio => machine.keep(&Program { name: "crio", after: &[], reads: &["/etc/crio/crio.conf"], argv: &["/opt/crio/bin/crio"] }),
    }
}

/// Waits until it answers.
pub fn wait(node: &Node, machine: &Machine) -> Result<()> {
    let seconds = if node.vm.is_some() { 180 } else { 30 };
    wait_until(seconds, &format!("{} does not answer; see its log", node.runtime.name()), || machine.listens(node.runtime.socket()))
}

fn containerd_config(systemd: bool, restrict_oom_score: bool) -> String {
    format!(
        r#"version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {restrict_oom_score}
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = {systemd}
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
        BinaryName = "/usr/bin/crun"
        SystemdCgroup = {systemd}
"#
    )
}

fn crio_config(cgroup_manager: &str) -> String {
    format!(
        r#"[crio]
root = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
storage_driver = "overlay"
log_dir = "/var/log/crio/pods"
version_file = "/run/crio/version"
clean_shutdown_file = "/var/lib/containers/crio.clean"

[crio.api]
listen = "/run/crio/crio.sock"

[crio.runtime]
default_runtime = "runc"
cgroup_manager = "{cgroup_manager}"
conmon_cgroup = "pod"
pinns_path = "/opt/crio/bin/pinns"
seccomp_profile = ""
apparmor_profile = "unconfined"
drop_infra_ctr = true
hooks_dir = []

[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
runtime_type = "oci"
runtime_root = "/run/runc"
monitor_path = "/usr/bin/conmon"

[crio.runtime.runtimes.crun]
runtime_path = "/usr/bin/crun"
runtime_type = "oci"
runtime_root = "/run/crun"
monitor_path = "/usr/bin/conmon"

[crio.image]
pause_image = "{PAUSE}"
pause_command = "/pause"

[crio.network]
network_dir = "/etc/cni/net.d/"
plugin_dirs = ["/usr/lib/cni"]

[crio.metrics]
enable_metrics = false
"#
    )
}
