//! How a machine comes to life: `machine-start` (outside) and `machine-init` (its PID 1).
//!
//! The root as seen inside:
//! ```text
//!   /                overlay: nodes' root below, $GODWIT_LAB/machines/<name>/upper above; rshared, as systemd has it
//!   /proc /sys       its own      /dev  this machine's, with its own pts, shm and mqueue
//!   /sys/fs/cgroup   v1 controllers, or the v2 tree, rooted in the machine's cgroup
//!   /run /tmp        tmpfs        /var/log and some of /var/lib  bound from the state folder (no overlay on overlay)
//!   /proc/sys/kernel/random/boot_id   its own: every start of a machine is a boot
//! ```
//! All mounts are private to the machine's mount namespace: when its last process dies, they are gone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::unshare;
use nix::unistd::{pivot_root, setsid};
use rustix::system::sethostname;

use crate::cgroups::{Cgroups, delegate_all};
use crate::control::{FOLDER, Reply, Request, SOCKET};
use crate::machine::MachineSpec;
use crate::supervisor::Supervisor;
use crate::{descriptors, namespaces};

/// Makes the namespaces, starts PID 1 in them and prints its process id.
pub fn machine_start(path: &Path) -> Result<()> {
    descriptors::keep_from_children();
    let spec = MachineSpec::read(path)?;
    let cgroups = Cgroups::detect()?;
    cgroups.create(&spec.name)?;
    cgroups.join(&spec.name)?;
    setsid().context("no session of its own")?;
    let exe = std::env::current_exe()?;
    unshare(namespaces::all()).context("the namespaces cannot be made")?;
    let child = Command::new(exe).arg("machine-init").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("PID 1 cannot be started")?;
    println!("{}", child.id());
    Ok(())
}

/// PID 1 of a machine. Never returns unless the set-up fails.
pub fn machine_init(path: &Path) -> Result<()> {
    let spec = MachineSpec::read(path)?;
    let cgroups = Cgroups::detect()?;
    build_root(&spec, &cgroups)?;
    settle(&spec.name)?;
    supervise(Supervisor::default())
}

/// Names the machine and sets what of the kernel is its own.
pub fn settle(name: &str) -> Result<()> {
    sethostname(name.as_bytes()).context("the host name cannot be set")?;
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ] {
        fs::write(Path::new("/proc/sys").join(name), value).with_context(|| format!("sysctl {name} cannot be set"))?;
    }
    let six = Path::new("/proc/sys/net/ipv6/conf");
    if six.exists() {
        // Nobody here announces a router, and no address is looked for twice.
        for (name, value) in [("all/forwarding", "1"), ("all/accept_ra", "0"), ("default/accept_ra", "0"), ("all/accept_dad", "0"), ("default/accept_dad", "0")]
        {
            fs::write(six.join(name), value).with_context(|| format!("sysctl net/ipv6/conf/{name} cannot be set"))?;
        }
    }
    // Translated on its way through the bridge, a packet to a Service whose pod is elsewhere would have to leave where it came in, and is dropped.
    // Routed packets are translated as well without it. The file is there only where the kernel can do this at all.
    for name in ["iptables", "ip6tables"] {
        let bridged = Path::new("/proc/sys/net/bridge").join(format!("bridge-nf-call-{name}"));
        if bridged.exists() {
            fs::write(bridged, "0").context("translation in bridges cannot be switched off")?;
        }
    }
    Ok(())
}

/// Keeps services and answers at the control socket. Never returns unless the socket cannot be made.
fn supervise(supervisor: Supervisor) -> Result<()> {
    fs::create_dir_all(FOLDER)?;
    let listener = UnixListener::bind(SOCKET).context("no control socket")?;
    let supervisor = Arc::new(supervisor);
    let keeper = Arc::clone(&supervisor);
    thread::Builder::new().spawn(move || keeper.keep())?;
    let server = Arc::clone(&supervisor);
    thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = answer(&server, &stream) {
                eprintln!("control: {error:#}");
            }
        }
    })?;
    supervisor.reap()
}

fn answer(supervisor: &Supervisor, stream: &UnixStream) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    let request: Request = serde_json::from_str(&line)?;
    let reply = match supervisor.handle(request) {
        Ok(services) => Reply { error: None, services },
        Err(error) => Reply { error: Some(format!("{error:#}")), services: Vec::new() },
    };
    let mut stream = stream;
    writeln!(stream, "{}", serde_json::to_string(&reply)?)?;
    Ok(())
}

/// Mounts a file system that needs no device; `what` is its type.
pub fn on(what: &str, target: &Path, flags: MsFlags, data: &str) -> Result<()> {
    fs::create_dir_all(target)?;
    let data = (!data.is_empty()).then_some(data);
    mount(Some(what), target, Some(what), flags, data).with_context(|| format!("{what} cannot be mounted on {}", target.display()))
}

/// Shows a folder or file at another place.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let nothing = None::<&str>;
    let failed = || format!("{} cannot be bound to {}", source.display(), target.display());
    mount(Some(source), target, nothing, MsFlags::MS_BIND, nothing).with_context(failed)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(nothing, target, nothing, flags, nothing).with_context(failed)?;
    }
    Ok(())
}

/// Sets how all mounts propagate.
pub fn propagation(flags: MsFlags) -> Result<()> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | flags, nothing).context("the mount propagation cannot be set")
}

fn build_root(spec: &MachineSpec, cgroups: &Cgroups) -> Result<()> {
    let none = MsFlags::empty();
    propagation(MsFlags::MS_PRIVATE)?;
    let root = spec.folder.join("root");
    let layers = format!("lowerdir={},upperdir={},workdir={}", spec.lower.display(), spec.upper().display(), spec.folder.join("work").display());
    // The mount of an earlier boot goes a moment after its last process.
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = on("overlay", &root, none, &layers) {
        if Instant::now() > deadline {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(50));
    }
    on("proc", &root.join("proc"), none, "")?;
    on("sysfs", &root.join("sys"), none, "")?;
    let dev = root.join("dev");
    bind(Path::new("/dev"), &dev, false)?;
    on("devpts", &dev.join("pts"), none, "newinstance,ptmxmode=0666,mode=620,gid=5")?;
    on("tmpfs", &dev.join("shm"), none, "mode=1777")?;
    if dev.join("mqueue").exists() {
        on("mqueue", &dev.join("mqueue"), none, "")?;
    }
    on("tmpfs", &root.join("run"), none, "mode=755")?;
    on("tmpfs", &root.join("tmp"), none, "mode=1777")?;
    fs::create_dir_all(root.join("run/lock"))?;
    for folder in &spec.binds {
        let relative = folder.target.strip_prefix("/").unwrap_or(&folder.target);
        let target = root.join(relative);
        fs::create_dir_all(&target)?;
        bind(&folder.source, &target, folder.read_only)?;
    }
    mount_cgroups(&root.join("sys/fs/cgroup"), cgroups)?;
    let boot_id = root.join("run/boot_id");
    fs::copy("/proc/sys/kernel/random/uuid", &boot_id)?;
    bind(&boot_id, &root.join("proc/sys/kernel/random/boot_id"), true)?;

    std::env::set_current_dir(&root)?;
    pivot_root(".", ".").context("the machine's root cannot be entered")?;
    umount2(".", MntFlags::MNT_DETACH).context("this machine's root cannot be let go")?;
    std::env::set_current_dir("/")?;
    propagation(MsFlags::MS_SHARED)
}

fn mount_cgroups(target: &Path, cgroups: &Cgroups) -> Result<()> {
    let none = MsFlags::empty();
    if cgroups.is_v1() {
        on("tmpfs", target, none, "mode=755")?;
        for option in cgroups.hierarchies.iter().filter_map(|h| h.option.as_deref()) {
            let name = option.trim_start_matches("name=");
            on("cgroup", &target.join(name), none, option)?;
        }
        return Ok(());
    }
    on("cgroup2", target, none, "")?;
    // A cgroup that hands its controllers down may hold no process: PID 1 moves to a leaf.
    let leaf = target.join("init");
    fs::create_dir_all(&leaf)?;
    fs::write(leaf.join("cgroup.procs"), "0")?;
    delegate_all(target)
}
