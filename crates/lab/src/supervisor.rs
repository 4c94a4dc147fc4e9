//! The services of one machine, kept running by its PID 1.
//!
//! A service that ends, by itself or by anybody's signal, starts again: after 0.1 s, or after 1 s if it lived for less
//! than 2 s. One that is told to end and does not is killed after 10 s (an API server would wait a minute for its
//! watchers). So whoever may kill `containerd`, `crio` or `kubelet` in a node may restart it. Its children (the shims of
//! containers) are left alone, as on a real node.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::control::{Request, Service, ServiceState};

struct Kept {
    service: Service,
    pid: Option<i32>,
    started: Instant,
    not_before: Instant,
    /// When it is killed for not having ended.
    kill_at: Option<Instant>,
    starts: u32,
    wanted: bool,
}

/// How long a service may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Kept {
    fn terminate(&mut self) {
        if let Some(pid) = self.pid {
            signal(pid, Signal::TERM);
            self.kill_at = Some(Instant::now() + PATIENCE);
        }
    }
}

/// All services of this machine.
#[derive(Default)]
pub struct Supervisor {
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Supervisor {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaps every process that ends in this PID namespace. Never returns.
    pub fn reap(&self) -> ! {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, _))) => self.ended(pid.as_raw_nonzero().get()),
                // No child at the moment.
                _ => sleep(Duration::from_millis(20)),
            }
        }
    }

    fn ended(&self, pid: i32) {
        let now = Instant::now();
        for kept in self.kept().values_mut() {
            if kept.pid == Some(pid) {
                let brief = now.duration_since(kept.started) < Duration::from_secs(2);
                kept.pid = None;
                kept.kill_at = None;
                kept.not_before = now + Duration::from_millis(if brief { 1000 } else { 100 });
            }
        }
    }

    /// Starts what should run and does not. Never returns.
    pub fn keep(&self) -> ! {
        loop {
            for kept in self.kept().values_mut() {
                if kept.kill_at.is_some_and(|time| Instant::now() > time)
                    && let Some(pid) = kept.pid
                {
                    kept.kill_at = None;
                    signal(pid, Signal::KILL);
                }
                let due = kept.wanted && kept.pid.is_none() && Instant::now() >= kept.not_before;
                if due && kept.service.after.iter().all(|path| path.exists()) {
                    kept.started = Instant::now();
                    kept.starts += 1;
                    match spawn(&kept.service) {
                        Ok(pid) => kept.pid = Some(pid),
                        Err(error) => {
                            eprintln!("{}: {error:#}", kept.service.name);
                            kept.not_before = Instant::now() + Duration::from_secs(1);
                        }
                    }
                }
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Does what was asked and reports all services.
    pub fn handle(&self, request: Request) -> Result<Vec<ServiceState>> {
        let mut kept = self.kept();
        match request {
            Request::Start(service) => {
                if kept.get(&service.name).is_none_or(|known| known.service != service) {
                    let pid = kept.get(&service.name).and_then(|known| known.pid);
                    let now = Instant::now();
                    let mut entry = Kept { pid, started: now, not_before: now, kill_at: None, starts: 0, wanted: true, service };
                    entry.terminate();
                    kept.insert(entry.service.name.clone(), entry);
                }
            }
            Request::Restart(name) => find(&mut kept, &name)?.terminate(),
            Request::Stop(name) => {
                let known = find(&mut kept, &name)?;
                known.wanted = false;
                known.terminate();
            }
            Request::Resume(name) => find(&mut kept, &name)?.wanted = true,
            Request::Status => {}
        }
        Ok(kept.values().map(|known| ServiceState { name: known.service.name.clone(), pid: known.pid, starts: known.starts, wanted: known.wanted }).collect())
    }
}

/// One of the services.
pub fn find<'a, K>(kept: &'a mut BTreeMap<String, K>, name: &str) -> Result<&'a mut K> {
    let names = kept.keys().cloned().collect::<Vec<_>>().join(", ");
    kept.get_mut(name).ok_or_else(|| anyhow!("no service {name:?} here; there are: {names}"))
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Ended already is as good.
        let _ = kill_process(pid, signal);
    }
}

/// Services whose work is part of what is measured, and those they start: they run as on any node.
const MEASURED: [&str; 2] = ["containerd", "crio"];

/// What a service has in its environment.
pub fn environment(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let always = [("PATH", "/opt/godwit-lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];
    // Go collects less often: memory is there, and the processors are few.
    always.into_iter().chain((!MEASURED.contains(&name)).then_some(("GOGC", "400")))
}

/// Where a service's output goes.
pub fn log(name: &str) -> PathBuf {
    Path::new("/var/log/godwit-lab").join(format!("{name}.log"))
}

fn log_of(name: &str) -> Result<File> {
    let path = log(name);
    OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("log {} cannot be opened", path.display()))
}

fn spawn(service: &Service) -> Result<i32> {
    let Some((program, arguments)) = service.argv.split_first() else {
        bail!("it has no program");
    };
    if !Path::new(program).exists() {
        bail!("{program} is not there");
    }
    let log = log_of(&service.name)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment(&service.name));
    let child =
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn().with_context(|| format!("{program} cannot be started"))?;
    Ok(i32::try_from(child.id())?)
}
