//! Deadly signals to pods that have just come, and who sent them: a restored container that dies by SIGKILL (exit code 137) looks the same whoever killed it, and only the
//! kernel knows. And what such a pod logs no longer, see [`super::voices`].
//!
//! ```text
//!   before the freeze ──▶ watch: the kernel's signal_generate ──▶ to a task of the pod? ──▶ kept, for the controller's look after the move (aftermath)
//!                         └ until some time after the pod runs, or it is taken back      └▶ the trace's memory
//! ```
//! Begun before the freeze because an instance of tracefs takes the kernel milliseconds to make. Nothing of the pod is touched.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_node::host::Host;
use godwit_rpc::v1::{AftermathReply, Death};
use godwit_trace::Level;
use godwit_trace::read::signal::Sent;
use jiff::Timestamp;
use rustix::time::ClockId;

use super::voices::Voice;
use crate::trace::{
    kernel,
    memory::MEMORY,
    signals::{Pipe, by_process, process_of},
};

/// For how long after the pod runs is watched: longer than the controller waits with its look.
const AFTER: Duration = Duration::from_secs(30);
/// For how long before it at most; copying memory takes its time.
const BEFORE: Duration = Duration::from_secs(3600);
/// For how long what was seen is kept.
const KEPT: Duration = Duration::from_secs(300);
/// Between two looks: a sender that has ended by then is known by its task's name and number only.
pub const LOOK: Duration = Duration::from_millis(50);
/// Signals by which programs die unless they handle them (signal(7)), but for those that programs send themselves all the time (timers, profiling, user's own).
const FILTER: &str = "sig == 1 || sig == 2 || sig == 3 || sig == 4 || sig == 5 || sig == 6 || sig == 7 || sig == 8 || sig == 9 || sig == 11 || sig == 15 || sig == 24 || sig == 31";
/// What works for the kubelet.
const OF_THE_RUNTIME: [&str; 9] = ["runc", "crun", "godwit-runtime", "conmon", "conmonrs", "containerd", "containerd-shim", "crio", "kubelet"];

/// Of this node: a watch for each pod that has come lately, by its UID.
#[derive(Default)]
pub struct Deaths(Mutex<HashMap<String, Arc<Watch>>>);

struct Watch {
    uid: String,
    state: Mutex<State>,
}

struct State {
    until: Instant,
    /// First process and name of each container.
    firsts: HashMap<i32, String>,
    seen: Vec<Death>,
    /// Why nothing is seen.
    blind: String,
    /// Since when it runs.
    since: Option<Timestamp>,
    voices: Vec<Voice>,
}

impl Deaths {
    /// Begins to watch for a pod that comes by a migration or a restore with the UID `about`, unless it is watched already.
    pub fn watch(&self, host: &Host, pod_uid: &str, about: &str) {
        let mut watches = self.all();
        watches.retain(|_, watch| watch.state().until + KEPT > Instant::now());
        if watches.contains_key(pod_uid) {
            return;
        }
        let state = State { until: Instant::now() + BEFORE, firsts: HashMap::new(), seen: Vec::new(), blind: String::new(), since: None, voices: Vec::new() };
        let watch = Arc::new(Watch { uid: pod_uid.to_owned(), state: Mutex::new(state) });
        watches.insert(watch.uid.clone(), watch.clone());
        let (host, about, watching) = (host.clone(), about.to_owned(), watch.clone());
        // A thread of its own: the agent's end does not wait for it.
        let thread = std::thread::Builder::new().name("deaths".into()).spawn(move || watching.run(&host, &about));
        if let Err(error) = thread {
            watch.state().blind = format!("no thread to watch with: {error}");
        }
    }

    /// The restored first process of a container is known.
    pub fn first(&self, uid: &str, container: &str, pid: i32) {
        self.change(uid, |state| {
            state.firsts.insert(pid, container.to_owned());
        });
    }

    /// The logs of these containers are to go on.
    pub fn listen(&self, uid: &str, voices: Vec<Voice>) {
        self.change(uid, |state| state.voices = voices);
    }

    /// The pod runs: the watch ends after a while.
    pub fn runs(&self, uid: &str) {
        self.change(uid, |state| {
            state.until = Instant::now() + AFTER;
            state.since.get_or_insert_with(Timestamp::now);
        });
    }

    /// It was taken back.
    pub fn forget(&self, uid: &str) {
        self.change(uid, |state| state.until = Instant::now());
        self.all().remove(uid);
    }

    /// Ends all watches, as far as their threads see it: what the kernel keeps for them is given back. `true`: there were some.
    pub fn end(&self) -> bool {
        let all = self.all();
        all.values().for_each(|watch| watch.state().until = Instant::now());
        !all.is_empty()
    }

    /// What was seen.
    pub fn of(&self, uid: &str) -> AftermathReply {
        let Some(watch) = self.all().get(uid).cloned() else {
            return AftermathReply { blind: "the agent of its node has been started anew since, and remembers nothing".into(), ..AftermathReply::default() };
        };
        let state = watch.state();
        let silence = |voice: &Voice| voice.silence(state.since?, Timestamp::now());
        AftermathReply { deaths: state.seen.clone(), blind: state.blind.clone(), silences: state.voices.iter().filter_map(silence).collect(), standing: None }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, uid: &str, change: impl FnOnce(&mut State)) {
        if let Some(watch) = self.all().get(uid) {
            change(&mut watch.state());
        }
    }
}

impl Watch {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, host: &Host, about: &str) {
        let mut pipe = match Pipe::open(host, FILTER) {
            Ok(pipe) => pipe,
            Err(why) => {
                self.state().blind = why;
                return;
            }
        };
        while Instant::now() < self.state().until {
            for sent in pipe.read() {
                self.take(sent, about);
            }
            std::thread::sleep(LOOK);
        }
        self.state().blind = format!("the agent of its node has listened until {} s after the pod began to run", AFTER.as_secs());
    }

    fn take(&self, sent: Sent, about: &str) {
        // To a process it goes by its number, to a thread by the thread's.
        let process = process_of(sent.to.1).map_or(sent.to.1, |(_, pid)| pid);
        let container = match self.state().firsts.get(&process) {
            Some(container) => container.clone(),
            None if cgroup_of(sent.to.1).is_some_and(|cgroup| is_of(&cgroup, &self.uid)) => String::new(),
            None => return,
        };
        let sent = by_process(sent);
        let line = sent.line(kernel::zero_of(ClockId::Monotonic));
        let whose = whose(&sent, cgroup_of(sent.from.1).as_deref(), &self.uid);
        let death = Death { at_us: line.at_us, container, signal: sent.signal, told: format!("{}{whose}", line.text) };
        let mut state = self.state();
        // The last of each kind tells enough.
        state.seen.retain(|one| one.container != death.container || one.signal != death.signal);
        state.seen.push(death);
        drop(state);
        if line.level == Level::Warning {
            MEMORY.put(line, about);
        }
    }
}

fn cgroup_of(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
}

/// Whether a task's cgroups are those of a pod. Systemd's names have underscores.
fn is_of(cgroup: &str, uid: &str) -> bool {
    cgroup.contains(uid) || cgroup.contains(&uid.replace('-', "_"))
}

/// What the sender is, after its name.
fn whose(sent: &Sent, cgroup: Option<&str>, uid: &str) -> String {
    if sent.code > 0 {
        // With SIGKILL, SI_KERNEL is what the OOM killer says, and the end of a pid namespace whose first process has died.
        return String::new();
    }
    match cgroup {
        // Names of tasks end after 15 characters.
        _ if OF_THE_RUNTIME.iter().any(|name| sent.from.0 == name[..name.len().min(15)]) => {
            " of the container runtime, which does what the kubelet says".into()
        }
        Some(cgroup) if is_of(cgroup, uid) => ", a process of the pod itself".into(),
        Some(cgroup) if cgroup.contains("kubepods") => ", a process of another pod".into(),
        Some(_) => ", a process of the node".into(),
        None => ", which has ended since".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6a53776b-7d2b-48ad-bc31-38b84ad9af43";

    fn sent(from: &str, code: i32) -> Sent {
        Sent { clock_us: 0, from: (from.into(), 812), to: ("python3".into(), 4711), signal: 9, code }
    }

    #[test]
    fn senders_are_told_apart() {
        let said = |from: &str, cgroup: Option<&str>| whose(&sent(from, 0), cgroup, UID);
        assert!(said("runc", None).contains("container runtime"));
        assert!(said("containerd-shim", Some("0::/system.slice")).contains("container runtime"));
        assert!(said("bash", Some("0::/kubepods/burstable/pod6a53776b-7d2b-48ad-bc31-38b84ad9af43/abc")).contains("the pod itself"));
        assert!(said("bash", Some("0::/kubepods.slice/kubepods-pod6a53776b_7d2b_48ad_bc31_38b84ad9af43.slice/x.scope")).contains("the pod itself"));
        assert!(said("bash", Some("0::/kubepods/pod11111111-7d2b-48ad-bc31-38b84ad9af43")).contains("another pod"));
        assert!(said("bash", Some("0::/user.slice")).contains("of the node"));
        assert!(said("kill", None).contains("has ended"));
        assert_eq!(whose(&sent("python3", 128), None, UID), "");
    }

    #[test]
    fn what_is_not_watched_says_so() {
        let deaths = Deaths::default();
        assert!(!deaths.of(UID).blind.is_empty());
        deaths.first(UID, "main", 1);
        deaths.forget(UID);
        assert!(deaths.of(UID).deaths.is_empty());
    }
}
