//! What a lab is made of: two Debian roots, the programs built from Go modules, and two small C programs; for virtual machines a root with their tools,
//! kernels, and the nodes' root as a disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::cache::{Entry, run_logged};
use crate::namespaces;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::topology::Topology;
use crate::vm::{disks, kernel, tools};

/// Packages of the nodes' root.
const NODE_PACKAGES: &str = "ca-certificates,criu,libcriu2,crun,runc,conmon,containerd,containernetworking-plugins,\
nftables,iptables,iproute2,procps,systemd,dbus,etcd-server,conntrack,bird2,kmod,skopeo,socat,util-linux,podman,python3-minimal";

/// Packages of the workload image.
const APP_PACKAGES: &str = "ca-certificates,redis-server,redis-tools,python3,procps,iproute2,nftables,netcat-openbsd,curl";

/// Kubernetes programs.
const KUBERNETES: [&str; 6] = ["kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kubectl", "kube-proxy"];

const KUBERNETES_MOD: &str = include_str!("../../../lab/kubernetes/go.mod");
const KUBERNETES_SUM: &str = include_str!("../../../lab/kubernetes/go.sum");
const HELM_MOD: &str = include_str!("../../../lab/helm/go.mod");
const HELM_SUM: &str = include_str!("../../../lab/helm/go.sum");
const COREDNS_MOD: &str = include_str!("../../../lab/coredns/go.mod");
const COREDNS_SUM: &str = include_str!("../../../lab/coredns/go.sum");
const COREDNS_GO: &str = include_str!("../../../lab/coredns/main.go");
const COLLECTOR_MOD: &str = include_str!("../../../lab/collector/go.mod");
const COLLECTOR_SUM: &str = include_str!("../../../lab/collector/go.sum");
const COLLECTOR_GO: &str = include_str!("../../../lab/collector/main.go");
const REGISTRY_MOD: &str = include_str!("../../../lab/registry/go.mod");
const REGISTRY_SUM: &str = include_str!("../../../lab/registry/go.sum");
const PRLIMIT_C: &str = include_str!("../../../lab/prlimit/prlimit.c");
const PAUSE_C: &str = include_str!("../../../lab/pause/pause.c");

type Make = Box<dyn Fn(&Path) -> Result<()> + Send + Sync>;

/// One thing to have, and how to make it.
pub struct Ingredient {
    /// Shown while it is made.
    pub title: String,
    entry: Entry,
    make: Make,
}

impl Ingredient {
    /// Something that `make` fills a path with.
    pub fn new(title: String, entry: Entry, make: impl Fn(&Path) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { title, entry, make: Box::new(make) }
    }
}

/// All ingredients.
pub struct Ingredients {
    all: Vec<Ingredient>,
}

impl Ingredients {
    /// The list for a lab of these nodes: what virtual machines need only if there are any.
    pub fn of(settings: &Settings, topology: &Topology) -> Result<Self> {
        let mut all = vec![
            debian(settings, "node", settings.node_root(), NODE_PACKAGES),
            debian(settings, "app", settings.app_root(), APP_PACKAGES),
            compiled(settings, "prlimit.so", PRLIMIT_C, &["-shared", "-fPIC", "-O2"]),
            compiled(settings, "pause", PAUSE_C, &["-static", "-Os", "-s"]),
        ];
        let version = module_version(KUBERNETES_MOD, "k8s.io/kubernetes")?;
        for program in KUBERNETES {
            all.push(go(
                settings,
                &GoProgram {
                    module: "kubernetes",
                    package: format!("k8s.io/kubernetes/cmd/{program}"),
                    path: settings.kubernetes().join(program),
                    go_mod: KUBERNETES_MOD,
                    go_sum: KUBERNETES_SUM,
                    main: None,
                    flags: kubernetes_flags(&version),
                },
            ));
        }
        all.push(go(
            settings,
            &GoProgram {
                module: "helm",
                package: "helm.sh/helm/v4/cmd/helm".to_owned(),
                path: settings.helm(),
                go_mod: HELM_MOD,
                go_sum: HELM_SUM,
                main: None,
                flags: "-s -w".to_owned(),
            },
        ));
        all.push(go(
            settings,
            &GoProgram {
                module: "coredns",
                package: ".".to_owned(),
                path: settings.coredns(),
                go_mod: COREDNS_MOD,
                go_sum: COREDNS_SUM,
                main: Some(COREDNS_GO),
                flags: "-s -w".to_owned(),
            },
        ));
        let kernels = topology.kernels();
        if !kernels.is_empty() {
            // In this order: each is made with those before it.
            all.push(tools::ingredient(settings));
            all.extend(kernels.into_iter().map(|kernel| kernel::ingredient(settings, kernel)));
            let node_key = all.iter().find(|one| one.entry.path().ends_with("node")).map_or("", |one| one.entry.key()).to_owned();
            all.push(disks::ingredient(settings, &node_key));
        }
        Ok(Self { all })
    }

    /// Those for what some tests talk to, too: no cluster needs it.
    pub fn with_services(mut self, settings: &Settings) -> Self {
        self.all.push(go(
            settings,
            &GoProgram {
                module: "collector",
                package: ".".to_owned(),
                path: settings.collector(),
                go_mod: COLLECTOR_MOD,
                go_sum: COLLECTOR_SUM,
                main: Some(COLLECTOR_GO),
                flags: "-s -w".to_owned(),
            },
        ));
        self.all.push(go(
            settings,
            &GoProgram {
                module: "registry",
                package: "github.com/distribution/distribution/v3/cmd/registry".to_owned(),
                path: settings.registry(),
                go_mod: REGISTRY_MOD,
                go_sum: REGISTRY_SUM,
                main: None,
                flags: "-s -w".to_owned(),
            },
        ));
        self
    }

    /// Digest of what the nodes' root is made from.
    pub fn node_key(&self) -> &str {
        self.key_of("node")
    }

    /// Whether the nodes' root is there as it should be.
    pub fn is_node_fresh(&self) -> bool {
        self.find("node").is_some_and(Entry::is_fresh)
    }

    /// Digest of what the workload root is made from.
    pub fn app_key(&self) -> &str {
        self.key_of("app")
    }

    /// Digest of what the pause program is made from.
    pub fn pause_key(&self) -> &str {
        self.key_of("pause")
    }

    /// Digest of what CoreDNS is made from.
    pub fn coredns_key(&self) -> &str {
        self.key_of("coredns")
    }

    fn key_of(&self, file: &str) -> &str {
        self.find(file).map_or("", Entry::key)
    }

    fn find(&self, file: &str) -> Option<&Entry> {
        self.all.iter().map(|one| &one.entry).find(|entry| entry.path().ends_with(file))
    }

    /// Whether nothing has to be made.
    pub fn are_fresh(&self) -> bool {
        self.all.iter().all(|one| one.entry.is_fresh())
    }

    /// Makes the workload root if it is missing.
    pub fn ensure_app(&self, progress: &Progress) -> Result<()> {
        let stale = self.all.iter().find(|one| one.entry.path().ends_with("app") && !one.entry.is_fresh());
        stale.map_or(Ok(()), |one| outside(|| progress.step(&one.title, || one.entry.ensure(&one.make))))
    }

    /// Makes what is missing: the Debian roots beside the Go programs.
    pub fn ensure(&self, progress: &Progress) -> Result<()> {
        let stale: Vec<&Ingredient> = self.all.iter().filter(|one| !one.entry.is_fresh()).collect();
        let (built, others): (Vec<&Ingredient>, Vec<&Ingredient>) = stale.into_iter().partition(|one| one.title.starts_with("build"));
        let make = |list: &[&Ingredient]| -> Result<()> {
            for one in list {
                progress.step(&one.title, || one.entry.ensure(&one.make))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let built = scope.spawn(|| outside(|| make(&built)));
            let others = outside(|| make(&others));
            built.join().map_err(|_| anyhow!("the builder thread ended early"))?.and(others)
        })
    }
}

/// Does it on a thread in the network outside of the lab: whoever adds a node from the clients' network, as tests do, fetches nothing there.
fn outside(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| namespaces::join_outside().and_then(|()| work()));
        done.join().map_err(|_| anyhow!("the builder thread ended early"))?
    })
}

/// The compiled preload library (see lab/prlimit).
pub fn prlimit_library(settings: &Settings) -> PathBuf {
    settings.cache.join("compiled/prlimit.so")
}

/// The compiled pause program (see lab/pause).
pub fn pause_program(settings: &Settings) -> PathBuf {
    settings.cache.join("compiled/pause")
}

/// A root of Debian sid with these packages.
pub fn debian(settings: &Settings, name: &str, path: PathBuf, packages: &'static str) -> Ingredient {
    let log = settings.build_log(&format!("{name}-rootfs"));
    let make = move |target: &Path| {
        let mut command = Command::new("debootstrap");
        command.arg("--variant=minbase").arg(format!("--include={packages}")).arg("sid").arg(target);
        run_logged(&mut command, &log)?;
        for folder in ["var/cache/apt", "var/lib/apt/lists"] {
            crate::cache::remove(&target.join(folder))?;
        }
        Ok(())
    };
    Ingredient { title: format!("debootstrap the {name} root"), entry: Entry::new(path, &["debian", "sid", packages]), make: Box::new(make) }
}

fn compiled(settings: &Settings, name: &'static str, source: &'static str, flags: &'static [&'static str]) -> Ingredient {
    let log = settings.build_log(name);
    let make = move |target: &Path| {
        let file = target.with_extension("c");
        fs::write(&file, source)?;
        let mut command = Command::new("cc");
        command.args(flags).arg("-o").arg(target).arg(&file);
        let result = run_logged(&mut command, &log);
        fs::remove_file(&file)?;
        result
    };
    Ingredient {
        title: format!("compile {name}"),
        entry: Entry::new(settings.cache.join("compiled").join(name), &[source, &flags.join(" ")]),
        make: Box::new(make),
    }
}

struct GoProgram {
    module: &'static str,
    package: String,
    path: PathBuf,
    go_mod: &'static str,
    go_sum: &'static str,
    /// Source of the program, if it is not the module of somebody else.
    main: Option<&'static str>,
    flags: String,
}

fn go(settings: &Settings, program: &GoProgram) -> Ingredient {
    let name = match program.package.rsplit('/').next() {
        Some(last) if last != "." => last.to_owned(),
        _ => program.module.to_owned(),
    };
    let log = settings.build_log(&name);
    let folder = settings.cache.join("build").join(program.module);
    let (go_mod, go_sum, main) = (program.go_mod, program.go_sum, program.main);
    let (package, flags) = (program.package.clone(), program.flags.clone());
    let mut parts = vec![go_mod, go_sum, &package, &flags];
    parts.extend(main);
    let entry = Entry::new(program.path.clone(), &parts);
    let make = move |target: &Path| {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("go.mod"), go_mod)?;
        fs::write(folder.join("go.sum"), go_sum)?;
        if let Some(main) = main {
            fs::write(folder.join("main.go"), main)?;
        }
        let mut command = Command::new("go");
        command
            .current_dir(&folder)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(target)
            .arg(&package);
        run_logged(&mut command, &log)
    };
    Ingredient { title: format!("build {name}"), entry, make: Box::new(make) }
}

/// The version of a module in a go.mod.
fn module_version(go_mod: &str, module: &str) -> Result<String> {
    go_mod
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("require ").split_once(' '))
        .find(|(name, version)| *name == module && version.starts_with('v'))
        .map(|(_, version)| version.split_whitespace().next().unwrap_or(version).to_owned())
        .with_context(|| format!("go.mod does not require {module}"))
}

fn kubernetes_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    let stamp = "-X k8s.io/component-base/version.";
    format!("-s -w {stamp}gitVersion={version} {stamp}gitMajor={major} {stamp}gitMinor={minor}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_come_from_the_committed_go_mod() {
        let version = module_version(KUBERNETES_MOD, "k8s.io/kubernetes").unwrap();
        assert!(version.starts_with("v1."), "{version}");
        assert!(kubernetes_flags("v1.37.2").ends_with("gitMinor=37"));
    }
}
