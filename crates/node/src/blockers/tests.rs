//! A real process with one of everything, in a cgroup of its own, described as a container.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Stdio};

use serde_json::json;

use super::*;
use crate::PodNamespaces;
use crate::cri::{Runtime, Spec, State};

const ZOO: &str = r#"
import ctypes, os, socket, sys, mmap, signal
libc = ctypes.CDLL(None, use_errno=True)
keep = []
uring = libc.syscall(425, 4, (ctypes.c_char * 256)())
inotify = libc.inotify_init1(0); libc.inotify_add_watch(inotify, b"/etc", 2)
libc.inotify_init1(0)
os.pipe2(os.O_DIRECT)
keep.append(open("/dev/fuse") if os.path.exists("/dev/fuse") else None)
keep.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
keep.append(socket.socketpair())
outside = socket.socket(socket.AF_UNIX); outside.connect(sys.argv[1])
keep.append(socket.create_server(("127.0.0.2", 0)))
keep.append(socket.create_server(("127.0.0.1", 0)))
stopped = os.fork()
if stopped == 0: os.kill(os.getpid(), signal.SIGSTOP)
keep.append(open(sys.argv[2] + "/token"))
print("ready", uring, flush=True)
signal.pause()
"#;

fn container(pid: i32, projected: &std::path::Path) -> Container {
    let spec = json!({"process": {"terminal": true}, "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/x"}]},
        "mounts": [{"destination": projected, "source": "/var/lib/kubelet/pods/u/volumes/kubernetes.io~projected/kube-api-access"}]});
    Container {
        id: "c1".into(),
        name: "zoo".into(),
        sandbox_id: "sb".into(),
        attempt: 0,
        state: State::Running,
        pid,
        image_ref: String::new(),
        image_id: String::new(),
        annotations: std::collections::BTreeMap::new(),
        log_path: "/l".into(),
        runtime: Runtime::Runc,
        handler: String::new(),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        upper: None,
        spec: Spec::from(spec),
    }
}

fn sandbox() -> Sandbox {
    Sandbox {
        id: "sb".into(),
        name: "p".into(),
        namespace: "n".into(),
        uid: "u".into(),
        attempt: 0,
        ready: true,
        ips: vec!["127.0.0.2".parse().unwrap()],
        host_network: false,
        namespaces: PodNamespaces::default(),
        runtime_handler: String::new(),
        hostname: String::new(),
        shm: None,
        cgroup_parent: String::new(),
        pid: None,
        annotations: std::collections::BTreeMap::new(),
        spec: Spec::default(),
    }
}

#[test]
fn everything_that_is_in_the_way_is_named() {
    let freezer = std::path::Path::new("/sys/fs/cgroup/freezer");
    let base = if freezer.is_dir() { freezer } else { std::path::Path::new("/sys/fs/cgroup") };
    let directory = base.join(format!("godwit-test-zoo-{}", std::process::id()));
    if std::fs::create_dir(&directory).is_err() {
        eprintln!("skipped: needs root and a writable cgroup mount");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let outside = temporary.path().join("outside.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&outside).unwrap();
    let projected = temporary.path().join("projected");
    std::fs::create_dir(&projected).unwrap();
    std::fs::write(projected.join("token"), "t").unwrap();
    let script = format!("echo $$ > {}/cgroup.procs; exec python3 -c \"$ZOO\" {} {}", directory.display(), outside.display(), projected.display());
    let mut child = Command::new("sh").args(["-c", &script]).env("ZOO", ZOO).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    let (accepted, _) = _listener.accept().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let containers = [container(child.id().cast_signed(), &projected)];
    let findings = inspect(&Subject { host: &Host::at("/"), sandbox: &sandbox(), containers: &containers });
    for pid in std::fs::read_to_string(directory.join("cgroup.procs")).unwrap().lines() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    child.wait().unwrap();
    drop(accepted);
    for _ in 0..50 {
        if std::fs::remove_dir(&directory).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("{findings:#?}");
    let mut wanted = vec![
        "BoundToPodAddress",
        "FileWatch",
        "HostIpc",
        "HostPid",
        "Mptcp",
        "OpenProjectedFile",
        "PacketPipe",
        "StoppedProcess",
        "Terminal",
        "UnixSocketToElsewhere",
    ];
    if line.trim() != "ready -1" {
        wanted.push("IoUring");
    }
    if std::path::Path::new("/dev/fuse").exists() {
        wanted.push("DeviceOpen");
    }
    wanted.sort_unstable();
    let found: Vec<&str> = findings.blockers.iter().map(|finding| finding.reason.as_str()).filter(|reason| *reason != "SystemVIpc").collect();
    let mut unique = found.clone();
    unique.dedup();
    assert_eq!(unique, wanted);
    assert!(findings.blockers.iter().all(|finding| finding.message.contains("zoo") || finding.reason == "SystemVIpc"));
    assert!(findings.blockers.iter().all(|finding| finding.remedy.len() > 10));
}
