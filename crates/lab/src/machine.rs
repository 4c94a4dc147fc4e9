//! A machine of the lab: a set of namespaces with an overlay root, its own cgroups and a PID 1 that supervises; or a virtual machine with the same inside.
//!
//! ```text
//!   up ──spawn──▶ machine-start      joins cgroups godwit-lab/<name>, unshares all namespaces
//!                     └──spawn──▶ machine-init = PID 1: mounts, pivot_root, control socket, supervisor
//!      ◀── pid ───────┘ (ends)
//!
//!   up ──spawn──▶ vm-start           joins cgroups godwit-lab/<name> and the switch's network (see crate::vm)
//!                     └──spawn──▶ virtiofsd, qemu ── kernel, first root ──▶ vm-init, then systemd = PID 1 in there, and its door
//!      ◀── pid of qemu ─┘ (ends)
//! ```
//! A machine that is off keeps its folder; started again it has booted anew: another boot id, an empty /run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache::digest;
use crate::cgroups::Cgroups;
use crate::control::{FOLDER, Request, SOCKET, Service, ServiceState, ask, write_file};
use crate::namespaces;
use crate::settings::Settings;
use crate::topology::SWITCH;
use crate::vm::door::Key;
use crate::vm::host::VmSpec;

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
    /// Root that its overlay lies on: a folder, a virtual machine's is a disk image.
    pub lower: PathBuf,
    /// Folders bound into it.
    pub binds: Vec<Bind>,
    /// What makes it a virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmSpec>,
}

impl MachineSpec {
    /// Reads it as it was written at the machine's start.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} is unreadable", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// A machine on the nodes' root, with the binaries and its own `/var/log` and `/var/lib` folders bound in.
    pub fn new(settings: &Settings, name: &str, data: &[&str]) -> Self {
        let folder = settings.machine(name);
        let shared = |source: PathBuf, target: &str| Bind { source, target: target.into(), read_only: true };
        let mut binds = vec![
            shared(settings.kubernetes(), "/opt/godwit-lab/bin"),
            shared(settings.images(), "/opt/godwit-lab/images"),
            Bind { source: folder.join("log"), target: "/var/log".into(), read_only: false },
            // What a cluster has on a shared file system.
            Bind { source: settings.shared(), target: "/srv/shared".into(), read_only: false },
        ];
        binds.extend(data.iter().map(|data| Bind { source: folder.join("lib").join(data), target: Path::new("/var/lib").join(data), read_only: false }));
        Self { name: name.to_owned(), folder, lower: settings.node_root(), binds, vm: None }
    }

    /// Folders of this machine that a virtual machine shares, each with its name in the shared folder.
    pub fn shared(&self) -> impl Iterator<Item = (String, &Bind)> {
        self.binds.iter().filter(|bind| !self.is_data(bind)).enumerate().map(|(index, bind)| (index.to_string(), bind))
    }

    /// Folders that a virtual machine has on its own disk: no database and no overlay lies well on a shared folder.
    pub fn data(&self) -> impl Iterator<Item = &Bind> {
        self.binds.iter().filter(|bind| self.is_data(bind))
    }

    fn is_data(&self, bind: &Bind) -> bool {
        bind.source.starts_with(self.folder.join("lib"))
    }

    /// What a virtual machine shares with this one, bound together.
    pub fn share(&self) -> PathBuf {
        self.folder.join("share")
    }

    /// A virtual machine's own disk.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// Folder that becomes the overlay's upper layer: configuration is written here before the start.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// Writes one file of the machine's root, whether it runs or not, unless it is there with this content.
    pub fn write(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Result<()> {
        let content = content.as_ref();
        let (known, running) = (self.upper().join(path.trim_start_matches('/')), Machine::in_folder(&self.folder, &self.name));
        match running {
            Some(machine) if self.vm.is_none() => match machine.read(path)? {
                Some(known) if known == content => Ok(()),
                _ => machine.write(path, mode, content),
            },
            // A virtual machine takes all that it finds there at its start, and what changes later as it is told.
            running => {
                if fs::read(&known).is_ok_and(|known| known == content) {
                    return Ok(());
                }
                write_file(&known, mode, content)?;
                running.map_or(Ok(()), |machine| machine.adopt(path, mode))
            }
        }
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
        let log = File::create(self.folder.join("init.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        match &self.vm {
            None => command.arg("machine-start").arg(&spec),
            Some(_) => {
                let switch = self.folder.with_file_name(SWITCH);
                let switch = Machine::in_folder(&switch, SWITCH).context("the switch is dead; start the lab with: godwit-lab up")?;
                self.fill_share(&spec)?;
                command.arg("vm-start").arg(&spec).arg(switch.pid.to_string())
            }
        };
        let output = command.stdin(Stdio::null()).stderr(log).stdout(Stdio::piped()).output().context("the machine cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Ok(pid) = said.trim().parse::<i32>() else {
            bail!("{} did not start: {}", self.name, self.last_words());
        };
        fs::write(self.folder.join("pid"), format!("{pid} {}", started(pid).unwrap_or_default()))?;
        let machine = Machine::in_folder(&self.folder, &self.name);
        let deadline = Instant::now() + Duration::from_secs(if self.vm.is_some() { 180 } else { 20 });
        loop {
            match &machine {
                Some(machine) if machine.ask(&Request::Status).is_ok() => return Ok(machine.clone()),
                Some(_) if started(pid).is_some() && Instant::now() < deadline => sleep(Duration::from_millis(10)),
                _ => bail!("{} did not come up: {}", self.name, self.last_words()),
            }
        }
    }

    /// Puts this program, the specification and a new token where a virtual machine finds them.
    fn fill_share(&self, spec: &Path) -> Result<()> {
        let share = self.share();
        fs::create_dir_all(&share)?;
        fs::set_permissions(&share, fs::Permissions::from_mode(0o700))?;
        let program = share.join("program");
        // Not over the one that the last start may still have open.
        crate::cache::remove(&program)?;
        fs::copy(std::env::current_exe()?, &program).with_context(|| format!("{} cannot be written", program.display()))?;
        fs::copy(spec, share.join("spec.json"))?;
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        write_file(&share.join("token"), 0o600, token.trim().as_bytes())
    }

    fn last_words(&self) -> String {
        let last = |name: &str| {
            let text = fs::read(self.folder.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text).lines().rfind(|line| !line.trim().is_empty()).map(|line| format!("{} ({name})", line.trim()))
        };
        let logs: &[&str] = if self.vm.is_some() { &["init.log", "qemu.log", "console.log"] } else { &["init.log"] };
        logs.iter().find_map(|name| last(name)).unwrap_or_else(|| format!("it said nothing, see {}", logs.join(", ")))
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
    /// Its PID 1, in this machine's numbering; a virtual machine's qemu.
    pub pid: i32,
    /// The way into a virtual machine.
    door: Option<Key>,
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
        if started(pid)? != time {
            return None;
        }
        let vm = MachineSpec::read(&folder.join("spec.json")).ok().and_then(|spec| spec.vm);
        let token = || fs::read_to_string(folder.join("share/token")).unwrap_or_default();
        // qemu is in the switch's network.
        let door = vm.map(|vm| Key { address: vm.address, network: pid, token: token() });
        Some(Self { name: name.to_owned(), pid, door })
    }

    /// Asks its PID 1.
    pub fn ask(&self, request: &Request) -> Result<Vec<ServiceState>> {
        match &self.door {
            Some(door) => door.ask(request),
            None => ask(self.pid, request),
        }
        .with_context(|| format!("{} ({SOCKET})", self.name))
    }

    /// The content of one of its files, if it is there.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match &self.door {
            Some(door) => door.read(Path::new(path)).with_context(|| format!("{}: {path}", self.name)),
            None => Ok(fs::read(self.path(path)).ok()),
        }
    }

    /// Writes one of its files, at once or not at all.
    pub fn write(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Result<()> {
        match &self.door {
            Some(door) => door.write(Path::new(path), mode, content.as_ref()).with_context(|| format!("{}: {path}", self.name)),
            None => write_file(&self.path(path), mode, content.as_ref()),
        }
    }

    /// Has a virtual machine take over a file that was changed in the folder `upper` of its specification.
    fn adopt(&self, path: &str, mode: u32) -> Result<()> {
        self.door.as_ref().map_or(Ok(()), |door| door.adopt(Path::new(path), mode)).with_context(|| format!("{}: {path}", self.name))
    }

    /// Copies a file of this machine into it.
    pub fn put(&self, source: &Path, path: &str) -> Result<()> {
        let file = File::open(source).with_context(|| format!("{} is unreadable", source.display()))?;
        if self.door.is_none() {
            fs::copy(source, self.path(path))?;
            return Ok(());
        }
        let status = self.command("sh")?.args(["-c", "cat > \"$0\"", path]).stdin(file).status()?;
        if !status.success() {
            bail!("{}: {path} cannot be written", self.name);
        }
        Ok(())
    }

    /// Whether something listens on one of its Unix sockets.
    pub fn listens(&self, socket: &str) -> bool {
        match &self.door {
            Some(door) => door.knock(Path::new(socket)),
            None => UnixStream::connect(self.path(socket)).is_ok(),
        }
    }

    /// Runs a command in it with this process's input and outputs; returns its exit code (128 + signal if one ended it).
    /// The command dies with this process.
    pub fn run(&self, command: &[OsString]) -> Result<i32> {
        match &self.door {
            Some(door) => door.run(command.iter().map(|word| word.to_string_lossy().into_owned()).collect()),
            None => namespaces::run_inside(&self.name, self.pid, command),
        }
    }

    /// Whether [`Machine::completed`] was reached in this boot.
    pub fn is_complete(&self) -> bool {
        self.read(COMPLETE).is_ok_and(|found| found.is_some())
    }

    /// Notes that everything of its start has been done.
    pub fn completed(&self) -> Result<()> {
        self.write(COMPLETE, 0o644, "")
    }

    /// Has a service run from now on; one that runs is restarted if its arguments, files or program have changed.
    pub fn keep(&self, program: &Program<'_>) -> Result<()> {
        let version = self.version(program)?;
        let mark = format!("{FOLDER}/{}.version", program.name);
        let known = |services: &[ServiceState]| services.iter().any(|s| s.name == program.name);
        let ran = known(&self.ask(&Request::Status)?);
        if ran && self.read(&mark)?.is_some_and(|text| text == version.as_bytes()) {
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
        self.write(&mark, 0o644, version)
    }

    fn version(&self, program: &Program<'_>) -> Result<String> {
        let mut parts: Vec<String> = program.argv.iter().map(|word| (*word).to_owned()).collect();
        for path in program.reads {
            let content = self.read(path)?.unwrap_or_default();
            parts.push(String::from_utf8_lossy(&content).into_owned());
        }
        // The program itself is told by size and time: hashing all of them at every `up` would take seconds.
        let about = program.argv.first().map_or(Ok(None), |binary| self.about(binary))?;
        let about = about.map(|(size, time)| (size, Some(time)));
        parts.push(format!("{about:?}"));
        Ok(digest(&parts.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn about(&self, path: &str) -> Result<Option<(u64, SystemTime)>> {
        match &self.door {
            Some(door) => door.about(Path::new(path)),
            None => Ok(fs::metadata(self.path(path)).ok().and_then(|about| Some((about.len(), about.modified().ok()?)))),
        }
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

    /// A path of the root of a machine that is no virtual one, seen from here.
    fn path(&self, path: &str) -> PathBuf {
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
