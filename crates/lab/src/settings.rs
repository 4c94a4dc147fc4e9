//! Where the lab keeps things: the state folder (dies with `down`) and the cache folder (stays).
//!
//! ```text
//! $GODWIT_LAB   lab.json  lock  kubeconfig  pki/  shared/  machines/<name>/{spec.json,pid,init.log,upper,work,root,lib,log}  trash/
//!                                                   a virtual machine has share, disk.img and console.log besides
//! $GODWIT_CACHE rootfs/{node,app,vm-tools}  vm/  kubernetes/  helm/  coredns/  collector/  registry/  compiled/  images/  build/  log/  target/  tools/
//! ```

use std::path::{Path, PathBuf};

/// The folders of one lab.
#[derive(Debug, Clone)]
pub struct Settings {
    /// State folder, `GODWIT_LAB`.
    pub state: PathBuf,
    /// Cache folder, `GODWIT_CACHE`.
    pub cache: PathBuf,
    /// Folder with `crio` and `pinns`, `GODWIT_CRIO`.
    pub crio: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let folder = |name: &str, default: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map_or_else(|| PathBuf::from(default), PathBuf::from);
        Self {
            state: folder("GODWIT_LAB", "/var/lib/godwit-lab"),
            cache: folder("GODWIT_CACHE", "/var/cache/godwit"),
            crio: std::env::var_os("GODWIT_CRIO").filter(|value| !value.is_empty()).map(PathBuf::from),
        }
    }

    /// Kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Folder of the cluster's certificates.
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// Folder of one machine (a node or the switch).
    pub fn machine(&self, name: &str) -> PathBuf {
        self.state.join("machines").join(name)
    }

    /// Folder that all machines have at `/srv/shared`.
    pub fn shared(&self) -> PathBuf {
        self.state.join("shared")
    }

    /// Folder of OCI archives.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Root of the nodes.
    pub fn node_root(&self) -> PathBuf {
        self.cache.join("rootfs/node")
    }

    /// Root of the workload images.
    pub fn app_root(&self) -> PathBuf {
        self.cache.join("rootfs/app")
    }

    /// Folder of the Kubernetes binaries.
    pub fn kubernetes(&self) -> PathBuf {
        self.cache.join("kubernetes")
    }

    /// The Helm program.
    pub fn helm(&self) -> PathBuf {
        self.cache.join("helm/helm")
    }

    /// The CoreDNS program.
    pub fn coredns(&self) -> PathBuf {
        self.cache.join("coredns/coredns")
    }

    /// The OpenTelemetry collector, a program for clients.
    pub fn collector(&self) -> PathBuf {
        self.cache.join("collector/otelcol")
    }

    /// The OCI registry, a program for clients.
    pub fn registry(&self) -> PathBuf {
        self.cache.join("registry/registry")
    }

    /// Log of one build step in the cache.
    pub fn build_log(&self, name: &str) -> PathBuf {
        self.cache.join("log").join(format!("{name}.log"))
    }

    /// Folders a client's PATH begins with: kubectl, helm, the collector, the registry, and the project's own binaries.
    pub fn client_path(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.kubernetes()];
        folders.extend(["helm", "collector", "registry"].map(|name| self.cache.join(name)));
        folders.extend(own_folder());
        folders
    }
}

/// The folder in which this binary lies: `cargo build` puts its sisters there.
pub fn own_folder() -> Option<PathBuf> {
    std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf))
}
