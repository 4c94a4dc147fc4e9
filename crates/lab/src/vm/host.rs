//! The outside of a virtual machine: qemu and virtiofsd in the machine's cgroups, in a mount namespace of their own (where its folders are bound together) and in the
//! switch's network namespace (where its tap is). All of it goes with the last of the two processes.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};

use super::tools::Tools;
use crate::cgroups::Cgroups;
use crate::init::{bind, propagation};
use crate::machine::MachineSpec;
use crate::settings::Settings;
use crate::{descriptors, namespaces};

/// Memory of a node, in MiB; taken from this machine as it is used.
pub const MEMORY: u32 = 2560;

/// What makes a machine a virtual one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmSpec {
    /// Folder of its kernel.
    pub kernel: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its number, also of its tap and in its network card's address.
    pub number: u8,
    /// What `ip -batch` is told inside.
    pub network: String,
}

/// Starts qemu and virtiofsd, its tap a port of the switch; prints qemu's process id.
pub fn vm_start(settings: &Settings, path: &Path, network: i32) -> Result<()> {
    descriptors::keep_from_children();
    let spec = MachineSpec::read(path)?;
    let vm = spec.vm.as_ref().context("it is no virtual machine")?;
    let tools = Tools::of(settings);
    let cgroups = Cgroups::detect()?;
    cgroups.create(&spec.name)?;
    cgroups.join(&spec.name)?;
    setsid().context("no session of its own")?;
    unshare(CloneFlags::CLONE_NEWNS).context("the mount namespace cannot be made")?;
    propagation(nix::mount::MsFlags::MS_PRIVATE)?;
    for (source, name, read_only) in shares(&spec, vm) {
        let target = spec.share().join(name);
        fs::create_dir_all(&target)?;
        bind(&source, &target, read_only)?;
    }
    namespaces::join_network(network)?;
    let log = || File::create(spec.folder.join("virtiofsd.log"));
    let socket = spec.folder.join("virtiofs.sock");
    crate::cache::remove(&socket)?;
    let mut server = tools.command("usr/libexec/virtiofsd");
    server.args(virtiofsd(&spec.share(), &socket)).stdin(Stdio::null()).stdout(log()?).stderr(log()?);
    let mut server = server.spawn().context("virtiofsd cannot be started")?;
    wait("virtiofsd does not listen", &spec.folder.join("virtiofsd.log"), || Ok(socket.exists()), || Ok(server.try_wait()?.is_some()))?;
    let log = File::create(spec.folder.join("qemu.log"))?;
    let mut qemu = tools.command("usr/bin/qemu-system-x86_64");
    qemu.args(arguments(&spec, vm, &tools)).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut qemu = qemu.spawn().context("qemu cannot be started")?;
    let tap = format!("sw{}", vm.number);
    let seen = || Ok(Command::new("ip").args(["link", "show", &tap]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success());
    wait("qemu made no tap", &spec.folder.join("qemu.log"), seen, || Ok(qemu.try_wait()?.is_some()))?;
    let joined = Command::new("ip").args(["link", "set", &tap, "master", "br0", "up"]).status()?;
    if !joined.success() {
        bail!("{tap} cannot join the switch's bridge");
    }
    println!("{}", qemu.id());
    Ok(())
}

/// Waits until something is seen; an error with a log's last line if a process ends before, or after 10 s.
fn wait(otherwise: &str, log: &Path, seen: impl Fn() -> Result<bool>, mut ended: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !seen()? {
        if ended()? || Instant::now() > deadline {
            let text = fs::read_to_string(log).unwrap_or_default();
            bail!("{otherwise}: {}", text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing"));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What is bound into the shared folder: source, name, and whether it is read-only.
fn shares(spec: &MachineSpec, vm: &VmSpec) -> Vec<(PathBuf, String, bool)> {
    let mut all = vec![(spec.upper(), "upper".to_owned(), true), (vm.kernel.join("modules"), "modules".to_owned(), true)];
    all.extend(spec.shared().map(|(name, bind)| (bind.source.clone(), name, bind.read_only)));
    all
}

fn virtiofsd(folder: &Path, socket: &Path) -> Vec<String> {
    let (folder, socket) = (folder.display(), socket.display());
    // Its own sandbox would hide the folders that are bound together, and raising limits may not be allowed here.
    ["--sandbox=none", "--no-announce-submounts", "--rlimit-nofile=0", "--inode-file-handles=never", "--log-level=warn"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("--shared-dir={folder}"), format!("--socket-path={socket}")])
        .collect()
}

/// The command line of qemu.
fn arguments(spec: &MachineSpec, vm: &VmSpec, tools: &Tools) -> Vec<String> {
    let number = vm.number;
    let file = |name: &str| spec.folder.join(name).display().to_string();
    let mut all = Vec::new();
    let mut say = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_owned()));
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        say(&["-L", &tools.path(folder).display().to_string()]);
    }
    // The same CPU everywhere: whatever can be emulated, whatever this machine has.
    say(&["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "1", "-machine", "q35"]);
    // virtiofsd reads and writes the machine's memory: it must be a file.
    say(&["-m", &format!("{MEMORY}M"), "-object", &format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on"), "-numa", "node,memdev=memory"]);
    say(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", &format!("file:{}", file("console.log"))]);
    say(&["-kernel", &vm.kernel.join("vmlinuz").display().to_string(), "-initrd", &vm.kernel.join("initrd").display().to_string()]);
    say(&["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"]);
    say(&["-drive", &format!("file={},if=virtio,format=raw,readonly=on,aio=threads", spec.lower.display())]);
    say(&["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe,aio=threads,discard=unmap", file("disk.img"))]);
    say(&["-netdev", &format!("tap,id=network,ifname=sw{number},script=no,downscript=no,vhost=off")]);
    say(&["-device", &format!("virtio-net-pci,netdev=network,mac=52:54:00:88:00:{number:02x},romfile=")]);
    say(&["-chardev", &format!("socket,id=share,path={}", file("virtiofs.sock")), "-device", "vhost-user-fs-pci,chardev=share,tag=share"]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_what_is_the_machines_own() {
        let settings = Settings { state: "/s".into(), cache: "/c".into(), crio: None };
        let vm = VmSpec { kernel: "/c/vm/kernel-sid".into(), address: Ipv4Addr::new(10, 88, 26, 1), number: 26, network: String::new() };
        let mut spec = MachineSpec::new(&settings, "node-v", &["kubelet"]);
        spec.lower = "/c/vm/root.img".into();
        let line = arguments(&spec, &vm, &Tools::of(&settings)).join(" ");
        for part in [
            "file=/c/vm/root.img,if=virtio,format=raw,readonly=on",
            "/s/machines/node-v/disk.img",
            "ifname=sw26",
            "88:00:1a",
            "-kernel /c/vm/kernel-sid/vmlinuz",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let names: Vec<String> = shares(&spec, &vm).into_iter().map(|(_, name, _)| name).collect();
        assert_eq!(names, ["upper", "modules", "0", "1", "2", "3"], "data is on the disk, not shared");
    }
}
