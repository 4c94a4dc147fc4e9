//! Signals to the tasks of the pod, and who sent them, from the kernel's tracepoint `signal:signal_generate`.
//!
//! An instance of tracefs of our own: nobody else's tracing is touched. Where the kernel has no tracefs, or the node is not in the first pid namespace (then the
//! pids of the kernel are not those of the node), nothing can be told, and the trace says so.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use godwit_node::host::Host;
use godwit_trace::read::signal;
use rustix::time::ClockId;

use super::{Listener, kernel};

/// How an instance of ours is called.
const PREFIX: &str = "godwit-";
/// Where tracefs is mounted if the node has not mounted it.
const OWN: &str = "/run/godwit-tracefs";
/// Go's runtime sends SIGURG (23) to itself all the time; SIGCHLD (17) tells nothing that exec does not.
const FILTER: &str = "sig != 23 && sig != 17";
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

/// Tells of every signal to a task of the pod, until nobody listens.
pub fn follow(host: &Host, listener: &Listener) {
    match begin(host) {
        Ok(instance) => read(&instance, listener),
        Err(why) => listener.explain_blocking(&format!("signals and their senders cannot be told: {why}")),
    }
}

fn begin(host: &Host) -> Result<Instance, String> {
    if !kernel::pids_are_ours() {
        return Err("this node is not in the first pid namespace, so the kernel's tracepoints name other pids".into());
    }
    let root = tracefs(host)?;
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let instances = root.join("instances");
    let own = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    // What an agent that was killed has left.
    let known = |name: &str| name.strip_prefix(PREFIX).and_then(|name| name.split_once('-')).is_some_and(|(pid, _)| Path::new("/proc").join(pid).exists());
    for entry in fs::read_dir(&instances).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && !known(&name) {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let place = instances.join(own);
    fs::create_dir(&place).map_err(failed("tracefs takes no instance"))?;
    let instance = Instance(place);
    fs::write(instance.0.join("trace_clock"), "mono").map_err(failed("trace_clock"))?;
    let event = instance.0.join("events/signal/signal_generate");
    fs::write(event.join("filter"), FILTER).map_err(failed("the kernel has no tracepoint signal_generate"))?;
    fs::write(event.join("enable"), "1").map_err(failed("signal_generate"))?;
    Ok(instance)
}

/// The node's tracefs, else one of our own.
fn tracefs(host: &Host) -> Result<PathBuf, String> {
    let mounted = [host.path("/sys/kernel/tracing"), host.path("/sys/kernel/debug/tracing"), PathBuf::from("/sys/kernel/tracing"), PathBuf::from(OWN)];
    if let Some(found) = mounted.iter().find(|path| path.join("instances").is_dir()) {
        return Ok(found.clone());
    }
    let failed = |error: std::io::Error| format!("no tracefs: {error}");
    fs::create_dir_all(OWN).map_err(failed)?;
    nix::mount::mount(Some("tracefs"), OWN, Some("tracefs"), nix::mount::MsFlags::empty(), None::<&str>).map_err(|errno| failed(errno.into()))?;
    Ok(PathBuf::from(OWN))
}

fn read(instance: &Instance, listener: &Listener) {
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(instance.0.join("trace_pipe"));
    let mut pipe = match opened {
        Ok(pipe) => pipe,
        Err(error) => return listener.explain_blocking(&format!("signals and their senders cannot be told: trace_pipe: {error}")),
    };
    let mut text = String::new();
    let mut buffer = vec![0; 64 << 10];
    while !listener.gone() {
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        let zero = kernel::zero_of(ClockId::Monotonic);
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        for sent in text[..end].lines().filter_map(signal::sent) {
            if is_ours(sent.to.1, listener) {
                listener.tell_blocking(sent.line(zero));
            }
        }
        text.drain(..end);
        std::thread::sleep(LOOK);
    }
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
