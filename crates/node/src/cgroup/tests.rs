//! Against the real kernel, in cgroups that the tests make themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::*;

/// A cgroup of our own, removed at the end.
struct Own(Cgroup);

impl Own {
    fn all(name: &str) -> Vec<Self> {
        let mounts = crate::mounts::of(std::path::Path::new("/proc/self")).unwrap_or_default();
        let mut found = Vec::new();
        for mount in mounts {
            let version = match mount.kind.as_str() {
                "cgroup" if mount.options.iter().any(|option| option == "freezer") => Version::V1,
                "cgroup2" => Version::V2,
                _ => continue,
            };
            let cgroup = Cgroup { version, mount: mount.point, name: PathBuf::from(format!("godwit-test-{name}-{}/pod0-1/one", std::process::id())) };
            if fs::create_dir_all(cgroup.path()).is_ok() {
                found.push(Self(cgroup));
            }
        }
        if found.is_empty() {
            eprintln!("skipped: needs root and a writable cgroup mount with a freezer");
        }
        found
    }

    fn run(&self, script: &str) -> Child {
        let enter = format!("echo $$ > {}/cgroup.procs; {script}", self.0.path().display());
        let child = Command::new("sh").args(["-c", &enter]).spawn().unwrap();
        let pid = child.id().cast_signed();
        until("it is in the cgroup", || self.0.pids().unwrap().contains(&pid));
        sleep(Duration::from_millis(100));
        child
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.thaw().ok();
        self.0.kill_all(soon()).ok();
        self.0.await_empty(soon()).ok();
        for cgroup in std::iter::successors(Some(self.0.clone()), Cgroup::parent).take(3) {
            fs::remove_dir(cgroup.path()).ok();
        }
    }
}

/// On a machine that is busy things take their time.
fn until(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !there() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3)
}

fn counter(path: &std::path::Path) -> u64 {
    fs::metadata(path).map(|meta| meta.len()).unwrap_or_default()
}

#[test]
fn frozen_processes_stand_still_and_go_on() {
    for own in Own::all("still") {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut child = own.run(&format!("while :; do echo >> {}; done", file.path().display()));
        until("it writes", || counter(file.path()) > 0);
        let started = Instant::now();
        own.0.freeze(soon()).unwrap();
        println!("{}: frozen in {:?}", own.0.version, started.elapsed());
        assert!(own.0.frozen().unwrap() && own.0.own_frozen().unwrap());
        let count = counter(file.path());
        sleep(Duration::from_millis(100));
        assert_eq!(counter(file.path()), count);
        own.0.thaw().unwrap();
        until("it goes on", || !own.0.frozen().unwrap() && counter(file.path()) > count);
        // The seal: the pod's cgroup holds everything in it, what is started there later too.
        let pod = own.0.pod().unwrap();
        assert_eq!(pod, own.0.parent().unwrap());
        pod.freeze(soon()).unwrap();
        assert!(own.0.frozen().unwrap() && !own.0.own_frozen().unwrap());
        let sealed = tempfile::NamedTempFile::new().unwrap();
        let mut late = own.run(&format!("echo ran >> {}", sealed.path().display()));
        assert_eq!(counter(sealed.path()), 0);
        pod.thaw().unwrap();
        late.wait().unwrap();
        assert_eq!(counter(sealed.path()), 4);
        own.0.kill_all(soon()).unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn killed_while_frozen_nothing_runs_any_more() {
    for own in Own::all("kill") {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut child = own.run(&format!("sleep 60 & sleep 60 & while :; do echo >> {}; done", file.path().display()));
        until("all three run", || counter(file.path()) > 0);
        own.0.freeze(soon()).unwrap();
        let count = counter(file.path());
        assert_eq!(own.0.pids().unwrap().len(), 3);
        assert_eq!(own.0.kill_all(soon()).unwrap(), 3);
        own.0.thaw().unwrap();
        child.wait().unwrap();
        own.0.await_empty(soon()).unwrap();
        assert_eq!(counter(file.path()), count);
    }
}

#[test]
fn a_fork_storm_is_frozen_and_killed() {
    for own in Own::all("storm") {
        let mut child = own.run("storm() { while :; do true & (true); done; }; storm & storm & storm & wait");
        let started = Instant::now();
        own.0.freeze(soon()).unwrap();
        println!("{}: storm frozen in {:?}", own.0.version, started.elapsed());
        let before = own.0.pids().unwrap();
        sleep(Duration::from_millis(50));
        assert_eq!(own.0.pids().unwrap(), before);
        own.0.kill_all(soon()).unwrap();
        own.0.thaw().unwrap();
        own.0.kill_all(soon()).unwrap();
        own.0.await_empty(soon()).unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_task_in_vfork_is_waited_for_and_named() {
    for own in Own::all("vfork") {
        // The child sleeps before it would exec; the parent stays in vfork as long.
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("v.c");
        fs::write(&source, "#include <unistd.h>\nint main(int c,char**v){if(vfork()==0){usleep(atoi(v[1])*1000);_exit(0);}pause();}\n").unwrap();
        let program = directory.path().join("v");
        let built = Command::new("cc").arg("-w").arg("-o").arg(&program).arg(&source).status();
        if !built.is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs a C compiler");
            return;
        }
        let mut child = own.run(&format!("exec {} 400", program.display()));
        own.0.freeze(soon()).unwrap();
        own.0.thaw().unwrap();
        own.0.kill_all(soon()).unwrap();
        child.wait().unwrap();
        let mut child = own.run(&format!("exec {} 60000", program.display()));
        let in_vfork = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().rsplit(')').next().unwrap().trim().starts_with('D');
        let end = soon();
        while !in_vfork() {
            assert!(Instant::now() < end, "the parent never waited in vfork");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Whether such a parent can be frozen depends on the kernel and on where in the kernel it waits: either everything stands still, or the task is named.
        match own.0.freeze(Instant::now() + Duration::from_millis(100)) {
            Ok(()) => assert!(own.0.frozen().unwrap(), "said to be frozen"),
            Err(error) => {
                assert_eq!(error.finding().reason, "TaskInVfork", "{error}");
                assert!(!own.0.frozen().unwrap() && !own.0.own_frozen().unwrap());
            }
        }
        own.0.thaw().unwrap();
        own.0.kill_all(soon()).unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn stopped_processes_are_named_beforehand() {
    for own in Own::all("stop") {
        let mut child = own.run("kill -STOP $$");
        let found = before_freeze(std::slice::from_ref(&own.0));
        assert_eq!(found.first().map(|finding| finding.reason.as_str()), Some("StoppedProcess"));
        own.0.kill_all(soon()).unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn the_cgroup_of_a_process_is_found() {
    for own in Own::all("find") {
        let mut child = own.run("sleep 60");
        let found = Cgroup::of(&crate::Host::at("/"), child.id().cast_signed()).unwrap();
        if found.version == own.0.version {
            assert_eq!(found, own.0);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Cgroup::of(&crate::Host::at("/"), i32::MAX).unwrap_err().finding().reason, "CgroupUnknown");
    }
}
