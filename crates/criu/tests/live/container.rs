//! A container as a kubelet's runtime makes it: overlay root, pod namespaces by path, binds, masked and read-only paths, a seccomp filter.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use crate::node::run;
use crate::pod::Pod;

const CAPABILITIES: [&str; 10] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_NET_RAW"];
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DENIED: [&str; 14] = [
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "mount",
    "umount2",
    "pivot_root",
    "swapon",
    "reboot",
    "init_module",
    "kexec_load",
    "bpf",
    "keyctl",
    "perf_event_open",
    "setns",
];

/// A container, running or not yet.
pub struct Container {
    pub id: String,
    pub runtime: String,
    pub bundle: PathBuf,
    pub spec: Value,
    pub pid: i32,
    /// Below the mounts of the hierarchies.
    pub cgroup: String,
    pub v2: bool,
    output: Option<std::io::PipeReader>,
}

impl Container {
    /// Writes the bundle; starts nothing.
    pub fn new(pod: &Pod, name: &str, runtime: &str, v2: bool, args: &[&str]) -> Result<Self> {
        let id = format!("{}-{name}", pod.name);
        let bundle = Path::new("/srv").join(&id);
        for part in ["upper", "work", "rootfs"] {
            fs::create_dir_all(bundle.join(part))?;
        }
        let text = bundle.display();
        let layers = format!("lowerdir=/app,upperdir={text}/upper,workdir={text}/work");
        mount("overlay", bundle.join("rootfs"), "overlay", MountFlags::empty(), Some(std::ffi::CString::new(layers)?.as_c_str()))?;
        fs::write(pod.path(&format!("{name}.termination-log")), "")?;
        let cgroup = format!("/kubepods/pod{}/{id}", pod.name);
        let spec = spec(pod, name, &bundle, &cgroup, v2, args);
        Ok(Self { id, runtime: runtime.into(), bundle, spec, pid: 0, cgroup, v2, output: None })
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    pub fn write_config(&self) -> Result<()> {
        Ok(fs::write(self.bundle.join("config.json"), serde_json::to_vec(&self.spec)?)?)
    }

    /// `run --detach` with pipes for standard output and error, as conmon and the shims give them.
    pub fn start(&mut self) -> Result<()> {
        self.write_config()?;
        let bundle = self.bundle.display().to_string();
        let pid_file = format!("{bundle}/pid");
        self.detached(Command::new(&self.runtime).args(["--root", &self.state(), "run", "--detach", "--bundle", &bundle, "--pid-file", &pid_file, &self.id]))
    }

    /// Runs a runtime's command that leaves a container behind, and reads its pid.
    pub fn detached(&mut self, command: &mut Command) -> Result<()> {
        let (mut reader, writer) = std::io::pipe()?;
        let status = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(OwnedFd::from(writer)).status()?;
        // The command holds copies of the writing end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if !status.success() {
            let mut text = String::new();
            reader.read_to_string(&mut text)?;
            bail!("{:?} {:?}: {text}", command.get_program(), command.get_args().collect::<Vec<_>>());
        }
        self.pid = fs::read_to_string(self.bundle.join("pid"))?.trim().parse()?;
        self.output = Some(reader);
        Ok(())
    }

    pub fn state(&self) -> String {
        format!("/run/{}", self.runtime)
    }

    /// Its cgroup with the freezer.
    pub fn freezer(&self) -> PathBuf {
        Path::new(if self.v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/freezer" }).join(&self.cgroup[1..])
    }

    pub fn freeze(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            while !self.frozen()? {
                let (file, word) = if self.v2 { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
                fs::write(self.freezer().join(file), word).context("freeze")?;
                ensure!(Instant::now() < until, "{} does not freeze", self.id);
            }
            if !self.in_vfork()? {
                return Ok(());
            }
            self.thaw()?;
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A task that waits in vfork for its child counts as frozen, but CRIU cannot seize it.
    fn in_vfork(&self) -> Result<bool> {
        let tasks = fs::read_to_string(self.freezer().join(if self.v2 { "cgroup.threads" } else { "tasks" }))?;
        Ok(tasks.lines().any(|task| fs::read_to_string(format!("/proc/{task}/wchan")).is_ok_and(|place| place == "kernel_clone")))
    }

    pub fn thaw(&self) -> Result<()> {
        let (file, word) = if self.v2 { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        fs::write(self.freezer().join(file), word).context("thaw")
    }

    pub fn frozen(&self) -> Result<bool> {
        Ok(if self.v2 {
            fs::read_to_string(self.freezer().join("cgroup.events"))?.contains("frozen 1")
        } else {
            fs::read_to_string(self.freezer().join("freezer.state"))?.trim() == "FROZEN"
        })
    }

    /// Runs a command inside, as `kubectl exec` does.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let mut words = vec![self.runtime.clone(), "--root".into(), self.state(), "exec".into(), self.id.clone()];
        words.extend(command.iter().map(|word| (*word).to_owned()));
        run(&words)
    }

    /// What it has written to standard output so far.
    pub fn output(&mut self) -> Result<String> {
        let Some(reader) = self.output.as_mut() else { return Ok(String::new()) };
        rustix::io::ioctl_fionbio(&*reader, true)?;
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.thaw();
        let _ = run(&[self.runtime.as_str(), "--root", &self.state(), "delete", "--force", &self.id]);
        let _ = unmount(self.rootfs(), UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&self.bundle);
    }
}

fn spec(pod: &Pod, name: &str, bundle: &Path, cgroup: &str, v2: bool, args: &[&str]) -> Value {
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
    namespaces.extend([("network", "net"), ("ipc", "ipc"), ("uts", "uts")].map(|(kind, file)| json!({"type": kind, "path": pod.text(file)})));
    if v2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    ];
    let log = format!("{name}.termination-log");
    let binds = [
        ("/data", "volume", "rw"),
        ("/data-again", "volume", "ro"),
        ("/data-read-only", "volume", "ro"),
        ("/etc/hosts", "hosts", "rw"),
        ("/dev/termination-log", log.as_str(), "rw"),
        ("/etc/hostname", "hostname", "rw"),
        ("/etc/resolv.conf", "resolv.conf", "rw"),
        ("/dev/shm", "shm", "rw"),
        ("/var/run/secrets/kubernetes.io/serviceaccount", "token", "ro"),
    ];
    mounts.extend(binds.map(
        |(destination, source, mode)| json!({"destination": destination, "type": "bind", "source": pod.text(source), "options": ["rbind", "rprivate", mode]}),
    ));
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "terminal": false,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", format!("HOSTNAME={}", pod.name)],
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        },
        "root": {"path": bundle.join("rootfs")},
        "mounts": mounts,
        "annotations": {},
        "linux": {
            "namespaces": namespaces, "cgroupsPath": cgroup, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY, "resources": {},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                        "syscalls": [{"names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]},
        },
    })
}
