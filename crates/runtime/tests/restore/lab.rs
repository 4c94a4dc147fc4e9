//! Pods, bundles and containers inside the test's node. The test is the node's process 1 and plays conmon: it owns the log pipe and reaps the container.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};
use serde_json::{Value, json};

pub const WRAPPER: &str = "/opt/godwit/bin/godwit-runtime";
pub const RUNC: &str = "/usr/sbin/runc";
/// Directory for everything that the tests make.
pub const WORK: &str = "/work";

/// Counts in memory and prints the count; TERM ends it with 3, USR1 with 7.
const APP: &str = r#"
import time,signal,os,sys
n=0
def leave(code):
    def handler(*_):
        print('leave',code,flush=True); os._exit(code)
    return handler
signal.signal(signal.SIGTERM,leave(3)); signal.signal(signal.SIGUSR1,leave(7))
while True:
    n+=1
    print('count',n,flush=True)
    time.sleep(0.01)
"#;

/// Whether the node has version 2 of the cgroups. The test's node then has no controllers if the machine uses them in version 1.
pub fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a program that must succeed and gives what it printed.
pub fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {:?}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A sandbox: a process with network, IPC and UTS namespaces of its own.
pub struct Pod {
    pub uid: String,
    pub pause: i32,
    sandbox: Child,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.sandbox.kill();
        let _ = self.sandbox.wait();
    }
}

impl Pod {
    pub fn new(uid: &str) -> Self {
        let sandbox = Command::new("unshare")
            .args(["-n", "-i", "-u", "sh", "-c", "ip link set lo up; exec sleep 100000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pause = i32::try_from(sandbox.id()).unwrap();
        let comm = format!("/proc/{pause}/comm");
        until("sandbox up", || fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep"));
        Self { uid: uid.into(), pause, sandbox }
    }

    pub fn namespace(&self, name: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/ns/{name}", self.pause)).unwrap()
    }
}

/// A container and its log.
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub cgroup: String,
    /// The pid in the pid file.
    pub pid: i32,
    lines: Arc<Mutex<Vec<String>>>,
    closed: Arc<AtomicBool>,
}

impl Container {
    /// Makes the bundle.
    pub fn new(pod: &Pod, id: &str, migration: Option<&str>) -> Self {
        let bundle = Path::new(WORK).join(id);
        let cgroup = format!("/kubepods/pod{}/{id}", pod.uid);
        bundle_for(pod, &bundle, id, &cgroup, migration);
        Self { id: id.into(), bundle, cgroup, pid: 0, lines: Arc::default(), closed: Arc::default() }
    }

    /// `create` with a log pipe, as conmon calls it.
    pub fn create(&mut self, runtime: &str) -> Output {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let pid_file = self.bundle.join("pid");
        let log = self.bundle.join("runtime.log");
        // The runtime's own messages go to the pipe too; `output` would make pipes of its own.
        let mut child = Command::new(runtime)
            .args([
                "--log",
                log.to_str().unwrap(),
                "--log-format=json",
                "create",
                "--bundle",
                self.bundle.to_str().unwrap(),
                "--pid-file",
                pid_file.to_str().unwrap(),
                &self.id,
            ])
            .stdin(Stdio::null())
            .stdout(write.try_clone().unwrap())
            .stderr(write)
            .spawn()
            .unwrap();
        let (lines, closed) = (self.lines.clone(), self.closed.clone());
        thread::spawn(move || {
            for line in BufReader::new(fs::File::from(read)).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
            closed.store(true, Ordering::SeqCst);
        });
        let status = child.wait().unwrap();
        self.pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        Output { status, stdout: Vec::new(), stderr: fs::read(log).unwrap_or_default() }
    }

    pub fn created(&mut self, runtime: &str) {
        let output = self.create(runtime);
        assert!(output.status.success(), "create {}: {}\n{:?}", self.id, String::from_utf8_lossy(&output.stderr), self.lines());
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The last count in the log, 0 if there is none.
    pub fn count(&self) -> u64 {
        self.lines().iter().rev().find_map(|line| line.strip_prefix("count ")?.parse().ok()).unwrap_or(0)
    }

    /// The first count in the log.
    pub fn first(&self) -> u64 {
        self.lines().iter().find_map(|line| line.strip_prefix("count ")?.parse().ok()).unwrap_or(0)
    }

    pub fn log_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// `state` by the wrapper.
    pub fn state(&self) -> Value {
        serde_json::from_str(&must(WRAPPER, &["state", &self.id])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().into()
    }

    /// Waits for the process of the pid file, as conmon does.
    pub fn exit_code(&self) -> i32 {
        match waitpid(Pid::from_raw(self.pid), None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 1000 + signal as i32,
            other => panic!("{other:?}"),
        }
    }

    /// Directories of its cgroup.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let roots: Vec<PathBuf> =
            if v2() { vec!["/sys/fs/cgroup".into()] } else { fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()).collect() };
        roots.into_iter().map(|root| root.join(self.cgroup.trim_start_matches('/'))).collect()
    }

    /// Asserts that a process sits in the container's cgroup in every hierarchy.
    pub fn in_cgroup(&self, pid: i32) {
        for cgroup in self.cgroups() {
            let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
            assert!(members.lines().any(|line| line == pid.to_string()), "{pid} is not in {}: {members:?}", cgroup.display());
        }
    }

    pub fn delete(&self) {
        must(WRAPPER, &["delete", "--force", &self.id]);
        assert!(!Path::new(godwit_runtime::protocol::CONTAINERS).join(&self.id).exists(), "directory left");
        for cgroup in self.cgroups() {
            assert!(!cgroup.exists(), "{} left", cgroup.display());
        }
        assert!(!run(RUNC, &["state", &self.id]).status.success(), "runc still knows {}", self.id);
    }
}

/// A bundle as a container runtime makes it for a container of a pod.
fn bundle_for(pod: &Pod, bundle: &Path, id: &str, cgroup: &str, migration: Option<&str>) {
    let rootfs = bundle.join("rootfs");
    for directory in ["upper", "work", "rootfs", "files/sa", "files/shm", "files/data"] {
        fs::create_dir_all(bundle.join(directory)).unwrap();
    }
    for file in ["resolv.conf", "hostname", "hosts", "termination-log"] {
        fs::write(bundle.join("files").join(file), "").unwrap();
    }
    let overlay = format!("lowerdir=/image,upperdir={0}/upper,workdir={0}/work", bundle.display());
    must("mount", &["-t", "overlay", "overlay", "-o", &overlay, rootfs.to_str().unwrap()]);
    fs::write(rootfs.join("app.py"), APP).unwrap();
    let mount =
        |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    for (destination, file) in [
        ("/etc/resolv.conf", "resolv.conf"),
        ("/etc/hostname", "hostname"),
        ("/etc/hosts", "hosts"),
        ("/dev/termination-log", "termination-log"),
        ("/var/run/secrets/kubernetes.io/serviceaccount", "sa"),
        ("/dev/shm", "shm"),
        ("/data", "data"),
    ] {
        mounts.push(mount(destination, "bind", bundle.join("files").join(file).to_str().unwrap(), &["rbind", "rprivate", "rw"]));
    }
    let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"];
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        namespaces.push(json!({"type": kind, "path": format!("/proc/{}/ns/{name}", pod.pause)}));
    }
    if v2() {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut annotations = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": id,
        "io.kubernetes.cri.sandbox-uid": pod.uid,
    });
    if let Some(migration) = migration {
        annotations["godwit.dev/migration"] = migration.into();
        annotations["godwit.dev/source-uid"] = "source".into();
    }
    let config = json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["python3", "-u", "/app.py"], "env": ["PATH=/usr/bin:/usr/sbin:/bin"], "cwd": "/", "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}, "oomScoreAdj": 900,
        },
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": cgroup,
            "resources": if v2() { json!({}) } else { json!({"devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 268_435_456}, "cpu": {"shares": 102}}) },
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
}

/// Freezes a container and gives the directory of its freezer.
pub fn freeze(source: &Container) -> String {
    let v2 = v2();
    let cgroup = source.cgroup.trim_start_matches('/');
    let (freezer, file, frozen) =
        if v2 { (format!("/sys/fs/cgroup/{cgroup}"), "cgroup.freeze", "1") } else { (format!("/sys/fs/cgroup/freezer/{cgroup}"), "freezer.state", "FROZEN") };
    fs::write(format!("{freezer}/{file}"), frozen).unwrap();
    until("frozen", || {
        if v2 {
            fs::read_to_string(format!("{freezer}/cgroup.events")).unwrap().contains("frozen 1")
        } else {
            fs::read_to_string(format!("{freezer}/{file}")).unwrap().trim() == "FROZEN"
        }
    });
    freezer
}

/// Freezes and dumps a container of plain runc the way the source agent does: CRIU called directly, inside the pod's namespaces. It stays frozen.
pub fn dump(pod: &Pod, source: &Container, images: &Path) -> Duration {
    dump_behind(pod, source, images, &[])
}

/// The same with more in CRIU's environment.
pub fn dump_behind(pod: &Pod, source: &Container, images: &Path, environment: &[(&str, &str)]) -> Duration {
    fs::create_dir_all(images).unwrap();
    let state: Value = serde_json::from_str(&must(RUNC, &["state", &source.id])).unwrap();
    let init = state["pid"].to_string();
    let v2 = v2();
    let freezer = freeze(source);
    let links: Vec<String> = (0..3).map(|fd| fs::read_link(format!("/proc/{init}/fd/{fd}")).unwrap().to_str().unwrap().into()).collect();
    fs::write(images.join("descriptors.json"), serde_json::to_vec(&links).unwrap()).unwrap();
    let mut external = Vec::new();
    let table = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (root, destination) = (fields[3], fields[4]);
        if root == "/null" {
            external.push(format!("mnt[{destination}]:/dev/null"));
        } else if root.contains("/files/") || (line.contains(" - cgroup ") && !v2) {
            external.push(format!("mnt[{destination}]:{destination}"));
        }
    }
    let pause = pod.pause.to_string();
    let work = images.with_extension("dump");
    fs::create_dir_all(&work).unwrap();
    let root = source.bundle.join("rootfs");
    let mut arguments = vec![
        "-t",
        &pause,
        "-n",
        "-i",
        "-u",
        "criu",
        "dump",
        "-t",
        &init,
        "-D",
        images.to_str().unwrap(),
        "-W",
        work.to_str().unwrap(),
        "-o",
        "dump.log",
        "-v4",
    ];
    arguments.extend([
        "--root",
        root.to_str().unwrap(),
        "--tcp-established",
        "--file-locks",
        "--manage-cgroups=ignore",
        "--network-lock",
        "skip",
        "--freeze-cgroup",
        &freezer,
        "--leave-running",
    ]);
    for value in &external {
        arguments.extend(["--external", value]);
    }
    let begin = Instant::now();
    let output = Command::new("nsenter").args(&arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "criu dump: {}", errors(&work.join("dump.log")));
    begin.elapsed()
}

/// The errors in a log of CRIU.
pub fn errors(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default().lines().filter(|line| line.contains("Error")).collect::<Vec<_>>().join("\n")
}

/// Thaws everything: a frozen process would outlive the node.
pub fn thaw() {
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        let _ = fs::write(directory.join("freezer.state"), "THAWED");
        let _ = fs::write(directory.join("cgroup.freeze"), "0");
        open.extend(fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()));
    }
}
