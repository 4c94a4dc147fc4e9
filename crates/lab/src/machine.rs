//! A machine of the lab: a set of namespaces with an overlay root, its own cgroups and a PID 1 that supervises.
//!
//! ```text
//!   up ──spawn──▶ machine-start      joins cgroups godwit-lab/<name>, unshares all namespaces
//!                     └──spawn──▶ machine-init = PID 1: mounts, pivot_root, control socket, supervisor
//!      ◀── pid ───────┘ (ends)
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::control::{Request, SOCKET, Service, ServiceState, ask};
use crate::settings::Settings;

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
        let shared = |source: PathBuf, target: &str| Bind {
            source,
            target: target.into(),
            read_only: true,
        };
        let mut binds = vec![
            shared(settings.kubernetes(), "/opt/godwit-lab/bin"),
            shared(settings.images(), "/opt/godwit-lab/images"),
            Bind {
                source: folder.join("log"),
                target: "/var/log".into(),
                read_only: false,
            },
        ];
        binds.extend(data.iter().map(|data| Bind {
            source: folder.join("lib").join(data),
            target: Path::new("/var/lib").join(data),
            read_only: false,
        }));
        Self {
            name: name.to_owned(),
            folder,
            lower: settings.node_root(),
            binds,
        }
    }

    /// Folder that becomes the overlay's upper layer: configuration is written here before the start.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// Writes one file of the machine's root before it starts.
    pub fn write(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Result<()> {
        let file = self.upper().join(path.trim_start_matches('/'));
        let folder = file.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, content))
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    /// Starts the machine; returns when its PID 1 answers.
    pub fn start(&self) -> Result<Machine> {
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
        let machine = Machine {
            name: self.name.clone(),
            pid,
        };
        fs::write(
            self.folder.join("pid"),
            format!("{pid} {}", started(pid).unwrap_or_default()),
        )?;
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
        log.lines()
            .last()
            .unwrap_or("it said nothing, see init.log")
            .to_owned()
    }
}

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
        let text = fs::read_to_string(settings.machine(name).join("pid")).ok()?;
        let (pid, time) = text.split_once(' ')?;
        let pid = pid.parse().ok()?;
        (started(pid)? == time).then(|| Self {
            name: name.to_owned(),
            pid,
        })
    }

    /// Asks its PID 1.
    pub fn ask(&self, request: &Request) -> Result<Vec<ServiceState>> {
        ask(self.pid, request).with_context(|| format!("{} ({SOCKET})", self.name))
    }

    /// Has a service run from now on.
    pub fn start_service(&self, name: &str, after: &[&str], argv: &[&str]) -> Result<()> {
        let service = Service {
            name: name.to_owned(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            after: after.iter().map(PathBuf::from).collect(),
        };
        self.ask(&Request::Start(service)).map(drop)
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
        Path::new("/proc")
            .join(self.pid.to_string())
            .join(format!("root{path}"))
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
