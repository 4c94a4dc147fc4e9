//! A node in namespaces: its own mounts, pids, network, IPC, UTS and cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount};

/// Set for the program that runs as PID 1 of the node: `v1` or `v2`.
pub const INSIDE: &str = "GODWIT_CRIU_INSIDE";
/// Images and logs are copied there if `GODWIT_CRIU_KEEP` names a directory.
pub const KEEP: &str = "keep";
const HIERARCHIES: [&str; 10] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified"];

/// The two root file systems, or why there are none.
fn roots() -> std::result::Result<(PathBuf, PathBuf), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".into());
    }
    let cache = std::env::var("GODWIT_CACHE").unwrap_or_else(|_| "/var/cache/godwit".into());
    let node = std::env::var("GODWIT_NODE_ROOT").map_or_else(|_| Path::new(&cache).join("rootfs/node"), PathBuf::from);
    let app = std::env::var("GODWIT_APP_ROOT").map_or_else(|_| node.with_file_name("app"), PathBuf::from);
    for needed in [node.join("usr/sbin/criu"), node.join("usr/sbin/runc"), app.join("usr/bin/python3")] {
        if !needed.exists() {
            return Err(format!("no {}", needed.display()));
        }
    }
    Ok((node, app))
}

fn groups() -> impl Iterator<Item = PathBuf> {
    HIERARCHIES.iter().map(|name| Path::new("/sys/fs/cgroup").join(name)).filter(|path| path.join("cgroup.procs").exists())
}

/// Starts this program again as PID 1 of a node, once for each version of cgroups, and cleans up after it.
pub fn outside(wanted: &[String]) -> Result<()> {
    let (node, app) = match roots() {
        Ok(roots) => roots,
        Err(why) => {
            println!("live tests skipped: {why}");
            return Ok(());
        }
    };
    let name = format!("godwit-criu-{}", std::process::id());
    let versions: &[&str] =
        if Path::new("/sys/fs/cgroup/freezer").exists() && Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() { &["v1", "v2"] } else { &[] };
    if versions.is_empty() {
        println!("live tests skipped: this machine has not both versions of cgroups under /sys/fs/cgroup");
    }
    let work = tempfile::tempdir()?;
    let mut failed = false;
    for version in versions {
        // The cgroup namespace is rooted where the process is when it unshares.
        let script = format!(
            "for c in {}; do g=/sys/fs/cgroup/$c/{name}; [ -e /sys/fs/cgroup/$c/cgroup.procs ] || continue; mkdir -p $g; \
             [ $c = cpuset ] && {{ cat /sys/fs/cgroup/cpuset/cpuset.cpus > $g/cpuset.cpus; cat /sys/fs/cgroup/cpuset/cpuset.mems > $g/cpuset.mems; }}; \
             echo $$ > $g/cgroup.procs; done; exec unshare -C -m -p -u -i -n -f --kill-child=SIGKILL \"$0\" \"$@\"",
            HIERARCHIES.join(" ")
        );
        let status = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe()?)
            .args(wanted)
            .env(INSIDE, version)
            .env("GODWIT_CRIU_NODE", &node)
            .env("GODWIT_CRIU_APP", &app)
            .env("GODWIT_CRIU_WORK", work.path())
            .env("GODWIT_CRIU_KEEP", std::env::var_os("GODWIT_CRIU_KEEP").unwrap_or_default())
            .status()?;
        failed |= !status.success();
        for group in groups() {
            remove(&group.join(&name));
        }
    }
    if failed { bail!("some scenarios failed") } else { Ok(()) }
}

fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path());
    }
    for _ in 0..50 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(16) => std::thread::sleep(std::time::Duration::from_millis(20)),
            _ => break,
        }
    }
}

/// As PID 1: makes the node's file systems and changes into them.
pub fn enter(cgroup: &str) -> Result<()> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).with_context(|| format!("{name} is not set"));
    let (node, app, work) = (var("GODWIT_CRIU_NODE")?, var("GODWIT_CRIU_APP")?, var("GODWIT_CRIU_WORK")?);
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    tmpfs(&work, "")?;
    let root = work.join("root");
    for part in ["root", "upper", "work"] {
        fs::create_dir(work.join(part))?;
    }
    // The workloads' Python is also the node's.
    let layers = format!("lowerdir={}:{},upperdir={w}/upper,workdir={w}/work", node.display(), app.display(), w = work.display());
    mount("overlay", &root, "overlay", MountFlags::empty(), Some(std::ffi::CString::new(layers)?.as_c_str()))?;
    mount("proc", root.join("proc"), "proc", MountFlags::empty(), None)?;
    mount("sysfs", root.join("sys"), "sysfs", MountFlags::empty(), None)?;
    mount_bind_recursive("/dev", root.join("dev"))?;
    for place in ["run", "tmp", "srv"] {
        tmpfs(&root.join(place), "mode=755")?;
    }
    for place in ["app", "old", "run/lock"] {
        fs::create_dir_all(root.join(place))?;
    }
    mount_bind(&app, root.join("app"))?;
    // Where images and logs are kept, for whoever wants to look.
    if let Some(keep) = std::env::var_os("GODWIT_CRIU_KEEP").filter(|keep| !keep.is_empty()) {
        fs::create_dir_all(root.join(KEEP))?;
        mount_bind(keep, root.join(KEEP))?;
    }
    cgroups(&root.join("sys/fs/cgroup"), cgroup)?;
    std::env::set_current_dir(&root)?;
    rustix::process::pivot_root(".", "old")?;
    std::env::set_current_dir("/")?;
    unmount("/old", UnmountFlags::DETACH)?;
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    run(&["ip", "link", "set", "lo", "up"]).map(drop)
}

fn cgroups(place: &Path, version: &str) -> Result<()> {
    if version == "v2" {
        return Ok(mount("cgroup2", place, "cgroup2", MountFlags::empty(), None)?);
    }
    tmpfs(place, "mode=755")?;
    for name in HIERARCHIES.iter().filter(|name| **name != "unified") {
        let directory = place.join(name);
        fs::create_dir(&directory)?;
        let options = std::ffi::CString::new(if *name == "systemd" { "name=systemd" } else { name })?;
        mount("cgroup", &directory, "cgroup", MountFlags::empty(), Some(options.as_c_str()))?;
    }
    Ok(())
}

/// A tmpfs.
pub fn tmpfs(place: &Path, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).with_context(|| format!("tmpfs {}", place.display()))
}

/// Runs a command of the node; gives what it wrote.
pub fn run<S: AsRef<std::ffi::OsStr>>(command: &[S]) -> Result<String> {
    let output = Command::new(&command[0]).args(&command[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let words: Vec<_> = command.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        bail!("{}: {}{}", words.join(" "), text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}
