//! The inside of a virtual machine: what the script of the first root starts (see [`super::initrd`]), and its door.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::MsFlags;

use super::{door, units};
use crate::init::{bind, on, propagation, settle};
use crate::machine::MachineSpec;

/// Where the shared folder is mounted.
pub const SHARE: &str = "/run/godwit-lab/share";
/// Where the node's disk is mounted.
const DISK: &str = "/run/godwit-lab/disk";
/// PID 1 of a server.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

fn spec() -> Result<MachineSpec> {
    MachineSpec::read(&Path::new(SHARE).join("spec.json"))
}

/// The first program of a virtual machine: sets up what the lab's nodes have of their own, and becomes systemd. Never returns unless that fails; then the machine stops.
pub fn vm_init() -> Result<()> {
    let spec = spec()?;
    mounts(&spec).context("mounts")?;
    network(&spec).context("network")?;
    settle(&spec.name)?;
    units::prepare()?;
    let error = Command::new(SYSTEMD).arg(format!("--unit={}", units::TARGET)).env_clear().exec();
    Err(error).context("systemd cannot be started")
}

/// The door: see its module.
pub fn vm_door() -> Result<()> {
    let spec = spec()?;
    let vm = spec.vm.as_ref().context("it is no virtual machine")?;
    let token = fs::read_to_string(Path::new(SHARE).join("token")).context("the token is unreadable")?;
    door::serve(vm.address, &token)
}

fn mounts(spec: &MachineSpec) -> Result<()> {
    let none = MsFlags::empty();
    let dev = Path::new("/dev");
    on("devpts", &dev.join("pts"), none, "newinstance,ptmxmode=0666,mode=620,gid=5")?;
    on("tmpfs", &dev.join("shm"), none, "mode=1777")?;
    on("mqueue", &dev.join("mqueue"), none, "")?;
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")] {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    on("tmpfs", Path::new("/tmp"), none, "mode=1777")?;
    let mount = |source: &Path, target: &Path, read_only: bool| -> Result<()> {
        fs::create_dir_all(source)?;
        fs::create_dir_all(target)?;
        bind(source, target, read_only)
    };
    mount(&Path::new(SHARE).join("modules"), Path::new("/usr/lib/modules"), true)?;
    for (name, folder) in spec.shared() {
        mount(&Path::new(SHARE).join(name), &folder.target, folder.read_only)?;
    }
    for folder in spec.data() {
        mount(&Path::new(DISK).join("lib").join(folder.target.file_name().unwrap_or_default()), &folder.target, false)?;
    }
    propagation(MsFlags::MS_SHARED)
}

fn network(spec: &MachineSpec) -> Result<()> {
    let vm = spec.vm.as_ref().context("it is no virtual machine")?;
    for module in ["virtio_net", "bridge"] {
        let status = Command::new("/sbin/modprobe").arg(module).status().context("modprobe cannot be run")?;
        if !status.success() {
            bail!("the kernel module {module} does not load");
        }
    }
    let mut ip = Command::new("/sbin/ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("ip cannot be run")?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(vm.network.as_bytes())?;
    }
    if !ip.wait()?.success() {
        bail!("the network cannot be set up");
    }
    Ok(())
}
