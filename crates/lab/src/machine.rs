//! A machine of the lab: a set of namespaces with an overlay root, its own cgroups and a PID 1 that supervises.
//!
//! ```text
//!   up ──spawn──▶ machine-start      joins cgroups godwit-lab/<name>, unshares all namespaces
//!                     └──spawn──▶ machine-init = PID 1: mounts, pivot_root, control socket, supervisor
//!      ◀── pid ───────┘ (ends)
//! ```
//! A machine that is off keeps its folder; started again it has booted anew: another boot id, an empty /run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache::digest;
use crate::cgroups::Cgroups;
use crate::control::{FOLDER, Request, SOCKET, Service, ServiceState, ask};
use crate::settings::Settings;

/// A service, and the files that it reads when it starts.
pub struct Program<'a> {
    /// Its name.
    pub name: &'a str,
    /// Program and arguments.
    pub argv: &'a [&'a str],
    /// Files (sockets) that must be there before it starts.
    pub after: &'a [&'a str],
    /// Files of the machine which, when changed, want a restart.
    pub reads: &'a [&'a str],
}

/// A folder of this machine that a lab machine sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// Folder here.
    pub source: PathBuf,
    /// Folder there.
    pub target: PathBuf,
    /// Whether it is read-only there.
    pub read_only: bool,
}

/// What PID 1 needs to set a machine up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Name, also the host name.
    pub name: String,
    /// Its folder in the lab's state.
    pub folder: PathBuf,
    /// Root that its overlay lies on.
    pub lower: PathBuf,
    /// Folders bound into it.
    pub binds: Vec<Bind>,
}

impl MachineSpec {
    /// A machine on the nodes' root, with the binaries and its own `/var/log` and `/var/lib` folders bound in.
    pub fn new(settings: &Settings, name: &str, data: &[&str]) -> Self {
        let folder = settings.machine(name);
        let shared = |source: PathBuf, target: &str| Bind { source, target: target.into(), read_only: true };
        let mut binds = vec![
            shared(settings.kubernetes(), "/opt/godwit-lab/bin"),
            shared(settings.images(), "/opt/godwit-lab/images"),
            Bind { source: folder.join("log"), target: "/var/log".into(), read_only: false },
        ];
        binds.extend(data.iter().map(|data| Bind { source: folder.join("lib").join(data), target: Path::new("/var/lib").join(data), read_only: false }));
        Self { name: name.to_owned(), folder, lower: settings.node_root(), binds }
    }

    /// Folder that becomes the overlay's upper layer: configuration is written here before the start.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// Writes one file of the machine's root, whether it runs or not, unless it is there with this content.
    pub fn write(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Result<()> {
        let file = match Machine::in_folder(&self.folder, &self.name) {
            Some(machine) => machine.path(path),
            None => self.upper().join(path.trim_start_matches('/')),
        };
        if fs::read(&file).is_ok_and(|known| known == content.as_ref()) {
            return Ok(());
        }
        let folder = file.parent().unwrap_or(&self.folder);
        let temporary = file.with_extension("new");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&temporary, content))
            .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::rename(&temporary, &file))
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    /// The machine, if it runs as specified here and its start was completed.
    pub fn running(&self) -> Option<Machine> {
        let machine = Machine::in_folder(&self.folder, &self.name)?;
        let known = fs::read(self.folder.join("spec.json")).ok()?;
        let same = serde_json::to_vec_pretty(self).is_ok_and(|wanted| wanted == known);
        (same && machine.is_complete()).then_some(machine)
    }

    /// Starts the machine, switching off what runs under its name; returns when its PID 1 answers.
    pub fn start(&self) -> Result<Machine> {
        power_off(&self.folder, &self.name)?;
        for bind in &self.binds {
            fs::create_dir_all(&bind.source)?;
        }
        for folder in ["upper", "work", "root", "log/godwit-lab"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        let spec = self.folder.join("spec.json");
        fs::write(&spec, serde_json::to_vec_pretty(self)?)?;
        let log = fs::File::create(self.folder.join("init.log"))?;
        let output = Command::new(std::env::current_exe()?)
            .arg("machine-start")
            .arg(&spec)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(Stdio::piped())
            .output()
            .context("machine-start cannot be run")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Ok(pid) = said.trim().parse::<i32>() else {
            bail!("{} did not start: {}", self.name, self.last_words());
        };
        let machine = Machine { name: self.name.clone(), pid };
        fs::write(self.folder.join("pid"), format!("{pid} {}", started(pid).unwrap_or_default()))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while machine.ask(&Request::Status).is_err() {
            if started(pid).is_none() || Instant::now() > deadline {
                bail!("{} did not come up: {}", self.name, self.last_words());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(machine)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.join("init.log")).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing, see init.log").to_owned()
    }
}

/// Switches a machine off as a power cut does: every process is killed at once. What it has on disk stays.
pub fn power_off(folder: &Path, name: &str) -> Result<()> {
    Cgroups::detect()?.clear(Some(name))?;
    crate::cache::remove(&folder.join("pid"))
}

/// Says that a machine's start was completed; gone after the next boot.
const COMPLETE: &str = "/run/godwit-lab/complete";

/// A machine that runs.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its PID 1, in this machine's numbering.
    pub pid: i32,
}

impl Machine {
    /// The running machine of that name, if it runs.
    pub fn find(settings: &Settings, name: &str) -> Option<Self> {
        Self::in_folder(&settings.machine(name), name)
    }

    fn in_folder(folder: &Path, name: &str) -> Option<Self> {
        let text = fs::read_to_string(folder.join("pid")).ok()?;
        let (pid, time) = text.split_once(' ')?;
        let pid = pid.parse().ok()?;
        (started(pid)? == time).then(|| Self { name: name.to_owned(), pid })
    }

    /// Asks its PID 1.
    pub fn ask(&self, request: &Request) -> Result<Vec<ServiceState>> {
        ask(self.pid, request).with_context(|| format!("{} ({SOCKET})", self.name))
    }

    /// Whether [`Machine::completed`] was reached in this boot.
    pub fn is_complete(&self) -> bool {
        self.path(COMPLETE).exists()
    }

    /// Notes that everything of its start has been done.
    pub fn completed(&self) -> Result<()> {
        Ok(fs::write(self.path(COMPLETE), "")?)
    }

    /// Has a service run from now on; one that runs is restarted if its arguments, files or program have changed.
    pub fn keep(&self, program: &Program<'_>) -> Result<()> {
        let version = self.version(program);
        let mark = self.path(&format!("{FOLDER}/{}.version", program.name));
        let known = |services: &[ServiceState]| services.iter().any(|s| s.name == program.name);
        let ran = known(&self.ask(&Request::Status)?);
        if ran && fs::read_to_string(&mark).is_ok_and(|text| text == version) {
            return Ok(());
        }
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        self.ask(&Request::Start(Service {
            name: program.name.to_owned(),
            argv: words(program.argv),
            after: program.after.iter().map(PathBuf::from).collect(),
        }))?;
        if ran {
            self.ask(&Request::Restart(program.name.to_owned()))?;
        }
        Ok(fs::write(mark, version)?)
    }

    fn version(&self, program: &Program<'_>) -> String {
        let mut parts: Vec<String> = program.argv.iter().map(|word| (*word).to_owned()).collect();
        for path in program.reads {
            let content = fs::read(self.path(path)).unwrap_or_default();
            parts.push(String::from_utf8_lossy(&content).into_owned());
        }
        // The program itself is told by size and time: hashing all of them at every `up` would take seconds.
        let binary = program.argv.first().map(|binary| self.path(binary));
        let about = binary.and_then(|binary| fs::metadata(binary).ok());
        let about = about.map(|about| (about.len(), about.modified().ok()));
        parts.push(format!("{about:?}"));
        digest(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A command that runs inside this machine, to be completed by its arguments.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["node", "exec", &self.name, "--", program]);
        Ok(command)
    }

    /// A command that runs here but in this machine's network namespace.
    pub fn network_command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["in-network", &self.pid.to_string(), "--", program]);
        Ok(command)
    }

    /// A path of the machine's root, seen from here.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(format!("root{path}"))
    }
}

/// When a process was started, in clock ticks since boot: tells it from a later one of the same number.
fn started(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything: count from its end. Field 22 of proc_pid_stat(5), state is field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}
