//! The cgroups of the lab's machines: `godwit-lab/<machine>` in every hierarchy.
//!
//! They are the lab's list of its own processes too: whatever a killed run has left is found here and only here.
//! A node is shown either the v1 controllers or the v2 tree, never both: crun refuses the mixture.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The parent of all machines' cgroups.
const PARENT: &str = "godwit-lab";

/// One mounted hierarchy of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Mount option that selects it: `memory`, `cpu,cpuacct`, `name=systemd`; none for v2.
    pub option: Option<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

/// All hierarchies of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cgroups {
    /// v1 hierarchies, and the v2 tree last.
    pub hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Reads the mount table.
    pub fn detect() -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("the mount table is unreadable")?;
        let found = Self::parse(&table);
        if found.hierarchies.is_empty() {
            bail!("no cgroup hierarchy is mounted; mount cgroup v2 on /sys/fs/cgroup");
        }
        Ok(found)
    }

    fn parse(table: &str) -> Self {
        let mut v1 = Vec::new();
        let mut v2 = None;
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if v2.is_none() => {
                    v2 = Some(Hierarchy { option: None, mount });
                }
                Some("cgroup") => {
                    let controllers: Vec<&str> =
                        right.nth(1).unwrap_or_default().split(',').filter(|word| CONTROLLERS.contains(word) || word.starts_with("name=")).collect();
                    let option = controllers.join(",");
                    let known = |seen: &Hierarchy| seen.option.as_deref() == Some(option.as_str());
                    if !option.is_empty() && !v1.iter().any(known) {
                        v1.push(Hierarchy { option: Some(option), mount });
                    }
                }
                _ => {}
            }
        }
        v1.extend(v2);
        Self { hierarchies: v1 }
    }

    /// Whether nodes see the v1 controllers (else the v2 tree).
    pub fn is_v1(&self) -> bool {
        self.hierarchies.iter().any(|h| matches!(&h.option, Some(o) if !o.starts_with("name=")))
    }

    /// The controllers that nodes can be given.
    pub fn controllers(&self) -> Vec<String> {
        let of = |hierarchy: &Hierarchy| match &hierarchy.option {
            Some(option) => option.split(',').map(str::to_owned).collect::<Vec<_>>(),
            None if self.is_v1() => Vec::new(),
            None => {
                let text = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
                text.split_whitespace().map(str::to_owned).collect()
            }
        };
        self.hierarchies.iter().flat_map(of).collect()
    }

    /// Makes the cgroups of a machine.
    pub fn create(&self, machine: &str) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let parent = hierarchy.mount.join(PARENT);
            let own = parent.join(machine);
            for (folder, above) in [(&parent, &hierarchy.mount), (&own, &parent)] {
                fs::create_dir_all(folder).with_context(|| format!("cgroup {} cannot be made", folder.display()))?;
                inherit_cpuset(folder, above)?;
                if hierarchy.option.is_none() && !self.is_v1() {
                    delegate_all(above)?;
                }
            }
        }
        Ok(())
    }

    /// Moves this process into a machine's cgroups (into the leaf `init` where v2 is delegated).
    pub fn join(&self, machine: &str) -> Result<()> {
        let me = std::process::id().to_string();
        for hierarchy in &self.hierarchies {
            let own = hierarchy.mount.join(PARENT).join(machine);
            let leaf = own.join("init");
            let target = if hierarchy.option.is_none() && leaf.exists() { leaf } else { own };
            fs::write(target.join("cgroup.procs"), &me).with_context(|| format!("cgroup {} cannot be joined", target.display()))?;
        }
        Ok(())
    }

    /// Kills every process in the cgroups of one machine or of the whole lab, frozen ones too, and removes the cgroups.
    pub fn clear(&self, machine: Option<&str>) -> Result<()> {
        let below = machine.map_or_else(|| PathBuf::from(PARENT), |machine| Path::new(PARENT).join(machine));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut alive = 0;
            for hierarchy in &self.hierarchies {
                for folder in tree(&hierarchy.mount.join(&below)) {
                    let thaw = [("freezer.state", "THAWED"), ("cgroup.freeze", "0")];
                    for (file, word) in thaw {
                        let file = folder.join(file);
                        if file.exists() {
                            // A cgroup that vanishes meanwhile needs no thaw.
                            let _ = fs::write(file, word);
                        }
                    }
                    for pid in pids(&folder) {
                        alive += 1;
                        // Dead already is as good.
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
            }
            if alive == 0 && self.remove(&below) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let name = below.display();
                bail!("processes in the cgroups {name} do not die; see cgroup.procs there");
            }
            sleep(Duration::from_millis(30));
        }
    }

    fn remove(&self, below: &Path) -> bool {
        let mut gone = true;
        for hierarchy in &self.hierarchies {
            for folder in tree(&hierarchy.mount.join(below)).into_iter().rev() {
                gone &= fs::remove_dir(&folder).is_ok();
            }
        }
        gone
    }

    /// Whether any cgroup of the lab exists.
    pub fn any(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.mount.join(PARENT).exists())
    }
}

const CONTROLLERS: &[&str] =
    &["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"];

/// A cpuset without processors admits nobody: fill it from the one above.
fn inherit_cpuset(folder: &Path, above: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = folder.join(file);
        let empty = fs::read_to_string(&path).is_ok_and(|text| text.trim().is_empty());
        if empty && folder.join("cgroup.clone_children").exists() {
            let value = fs::read_to_string(above.join(file))?;
            fs::write(&path, value.trim()).with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    Ok(())
}

/// Hands all controllers of a v2 cgroup down to its children.
pub fn delegate_all(folder: &Path) -> Result<()> {
    let available = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        // Some controllers cannot be delegated everywhere (cpu with real-time tasks): the others still are.
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(())
}

/// Whether the v1 hierarchy `hugetlb`, which runc asks for under CRI-O, is to be had and not mounted.
pub fn lacks_hugetlb(cgroups: &Cgroups) -> bool {
    let has = |h: &Hierarchy| matches!(&h.option, Some(o) if o.split(',').any(|c| c == "hugetlb"));
    let enabled = fs::read_to_string("/proc/cgroups").unwrap_or_default().lines().any(|line| line.starts_with("hugetlb\t") && line.ends_with("\t1"));
    cgroups.is_v1() && enabled && !cgroups.hierarchies.iter().any(has)
}

/// Mounts it: that can only be done in the initial cgroup namespace.
pub fn mount_hugetlb() -> Result<()> {
    let folder = Path::new("/sys/fs/cgroup/hugetlb");
    fs::create_dir_all(folder).context("/sys/fs/cgroup/hugetlb cannot be made")?;
    mount(Some("cgroup"), folder, Some("cgroup"), MsFlags::empty(), Some("hugetlb")).context("the cgroup hierarchy hugetlb cannot be mounted")
}

/// Undoes [`mount_hugetlb`].
pub fn unmount_hugetlb() {
    let folder = Path::new("/sys/fs/cgroup/hugetlb");
    // Left mounted only if something else uses it: then it is not ours to take away.
    if umount2(folder, MntFlags::empty()).is_ok() {
        let _ = fs::remove_dir(folder);
    }
}

/// A folder and all below it, parents first.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        open.extend(entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
        all.push(folder);
    }
    all
}

fn pids(folder: &Path) -> Vec<i32> {
    fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_controllers_and_the_v2_tree_are_told_apart() {
        let table = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                     32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::parse(table);
        let options: Vec<_> = found.hierarchies.iter().map(|h| h.option.as_deref()).collect();
        assert_eq!(options, [Some("memory"), Some("name=systemd"), None]);
        assert!(found.is_v1());
        let pure = Cgroups::parse("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(!pure.is_v1());
    }
}
