//! Signals to the tasks of the pod, and who sent them, from the kernel's tracepoint `signal:signal_generate`.
//!
//! An instance of tracefs of our own: nobody else's tracing is touched. Where the kernel has no tracefs, or the node is not in the first pid namespace (then the
//! pids of the kernel are not those of the node), nothing can be told, and the trace says so.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use godwit_node::host::Host;
use godwit_trace::read::signal::{self, Sent};
use rustix::time::ClockId;

use super::{Listener, kernel};

/// How an instance of ours is called.
const PREFIX: &str = "godwit-";
/// Where tracefs is mounted if the node has not mounted it.
const OWN: &str = "/run/godwit-tracefs";
/// Go's runtime sends SIGURG (23) to itself all the time; SIGCHLD (17) tells nothing that exec does not.
const FILTER: &str = "sig != 23 && sig != 17";
/// For each CPU, in KiB; what the kernel takes by itself is twenty times that.
const BUFFER: &str = "64";
const LOOK: Duration = Duration::from_millis(100);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A place for our own tracing; it goes with this.
struct Instance(PathBuf);

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/signal/signal_generate/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// Signals as the kernel tells them.
pub struct Pipe {
    // The file first: an instance whose pipe is open does not go.
    file: File,
    unread: String,
    _instance: Instance,
}

impl Pipe {
    /// From now on the kernel tells of the signals that `filter` lets through (trace events' own language), to whomever they go.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn open(host: &Host, filter: &str) -> Result<Self, String> {
        if !kernel::pids_are_ours() {
            return Err("this node is not in the first pid namespace, so the kernel's tracepoints name other pids".into());
        }
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let instances = tracefs(host)?.join("instances");
        sweep(&instances);
        let place = instances.join(format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&place).map_err(failed("tracefs takes no instance"))?;
        let instance = Instance(place);
        fs::write(instance.0.join("trace_clock"), "mono").map_err(failed("trace_clock"))?;
        fs::write(instance.0.join("buffer_size_kb"), BUFFER).map_err(failed("buffer_size_kb"))?;
        let event = instance.0.join("events/signal/signal_generate");
        fs::write(event.join("filter"), filter).map_err(failed("the kernel has no tracepoint signal_generate"))?;
        fs::write(event.join("enable"), "1").map_err(failed("signal_generate"))?;
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(instance.0.join("trace_pipe")).map_err(failed("trace_pipe"))?;
        Ok(Self { file, unread: String::new(), _instance: instance })
    }

    /// What was sent since the last time.
    pub fn read(&mut self) -> Vec<Sent> {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = self.file.read(&mut buffer) {
            self.unread.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        let end = self.unread.rfind('\n').map_or(0, |at| at + 1);
        let told = self.unread.drain(..end).collect::<String>();
        told.lines().filter_map(signal::sent).collect()
    }
}

/// A thread that has sent a signal is named by its process, as long as that is there.
pub fn by_process(mut sent: Sent) -> Sent {
    if let Some(process) = process_of(sent.from.1).filter(|(_, pid)| *pid != sent.from.1) {
        sent.from = process;
    }
    sent
}

/// Takes away what agents that have ended left in the node's tracefs.
pub fn undo_leftovers(host: &Host) {
    mounted(host).iter().for_each(|root| sweep(&root.join("instances")));
}

/// Takes away what an agent that was killed has left.
fn sweep(instances: &Path) {
    let known = |name: &str| name.strip_prefix(PREFIX).and_then(|name| name.split_once('-')).is_some_and(|(pid, _)| Path::new("/proc").join(pid).exists());
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && !known(&name) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Tells of every signal to a task of the pod, until nobody listens.
pub fn follow(host: &Host, listener: &Listener) {
    let mut pipe = match Pipe::open(host, FILTER) {
        Ok(pipe) => pipe,
        Err(why) => return listener.explain_blocking(&format!("signals and their senders cannot be told: {why}")),
    };
    while !listener.gone() {
        let zero = kernel::zero_of(ClockId::Monotonic);
        for sent in pipe.read() {
            if is_ours(sent.to.1, listener) {
                listener.tell_blocking(by_process(sent).line(zero));
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Where tracefs is.
fn mounted(host: &Host) -> Vec<PathBuf> {
    let all = [host.path("/sys/kernel/tracing"), host.path("/sys/kernel/debug/tracing"), PathBuf::from("/sys/kernel/tracing"), PathBuf::from(OWN)];
    all.into_iter().filter(|path| path.join("instances").is_dir()).collect()
}

/// The node's tracefs, else one of our own.
fn tracefs(host: &Host) -> Result<PathBuf, String> {
    if let Some(found) = mounted(host).into_iter().next() {
        return Ok(found);
    }
    let failed = |error: std::io::Error| format!("no tracefs: {error}");
    fs::create_dir_all(OWN).map_err(failed)?;
    nix::mount::mount(Some("tracefs"), OWN, Some("tracefs"), nix::mount::MsFlags::empty(), None::<&str>).map_err(|errno| failed(errno.into()))?;
    Ok(PathBuf::from(OWN))
}

/// Name and pid of the process that a task belongs to; threads have names of their own. `None` when it has ended.
pub fn process_of(task: i32) -> Option<(String, i32)> {
    let status = fs::read_to_string(format!("/proc/{task}/status")).ok()?;
    let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((name.trim().to_owned(), pid))
}

/// Whether a task is one of the pod's: known as such, or in the pod's cgroup.
fn is_ours(pid: i32, listener: &Listener) -> bool {
    if listener.interest().has_pid(pid) {
        return true;
    }
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let ours = cgroup.lines().any(|line| listener.concerns(line));
    if ours {
        listener.interest().add_pid(pid);
    }
    ours
}
