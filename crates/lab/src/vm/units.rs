//! The services of a virtual machine, kept by its systemd as on a server: each is a unit, and so is the door.
//!
//! ```text
//!   /run/systemd/system/godwit-lab.target    what systemd is told to reach: nothing of what a server has besides
//!                       door.service         see super::door; it is asked, and writes the other units
//!                       dbus.socket, .service   crun reaches systemd by the bus only; runc, kubelet and CRI-O try it first
//!                       kubelet.service …    one for each service
//! ```
//! Output is appended to the same logs as on other nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::guest::SHARE;
use crate::control::{Request, Service, ServiceState, write_file};
use crate::supervisor;

/// What systemd is told to reach.
pub const TARGET: &str = "godwit-lab.target";
/// Where units are written: they go with the power.
const FOLDER: &str = "/run/systemd/system";

const TARGET_UNIT: &str = "[Unit]\nDescription=a node of the lab\nDefaultDependencies=no\nWants=door.service dbus.service\n";
const DBUS_SOCKET: &str = "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n";
const DBUS_SERVICE: &str = "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\n\
     ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n";

/// Writes what must be there before systemd starts.
pub fn prepare() -> Result<()> {
    let door = Service { name: "door".to_owned(), argv: vec![format!("{SHARE}/program"), "vm-door".to_owned()], after: Vec::new() };
    for (name, text) in
        [(TARGET, TARGET_UNIT.to_owned()), ("dbus.socket", DBUS_SOCKET.to_owned()), ("dbus.service", DBUS_SERVICE.to_owned()), ("door.service", unit(&door)?)]
    {
        write(name, &text)?;
    }
    Ok(())
}

fn write(name: &str, text: &str) -> Result<()> {
    write_file(&Path::new(FOLDER).join(name), 0o644, text.as_bytes())
}

/// A service as a unit (systemd.service(5)). What its process leaves behind when it ends, the shims of containers, is left alone.
fn unit(service: &Service) -> Result<String> {
    let waits = service.after.iter().map(|path| {
        let path = word(&path.to_string_lossy())?;
        Ok(format!("ExecStartPre=/bin/sh -c 'until [ -e \"$0\" ]; do sleep 0.1; done' {path}\n"))
    });
    let waits = waits.collect::<Result<String>>()?;
    let words = service.argv.iter().map(|argument| word(argument)).collect::<Result<Vec<_>>>()?.join(" ");
    let settings = supervisor::environment(&service.name).map(|(name, value)| format!("Environment=\"{name}={value}\"\n")).collect::<String>();
    let log = supervisor::log(&service.name);
    Ok(format!(
        "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nType=exec\n{waits}ExecStart={words}\n{settings}\
         Restart=always\nRestartSec=100ms\nTimeoutStartSec=infinity\nTimeoutStopSec=10\nKillMode=process\nDelegate=yes\nTasksMax=infinity\nLimitNOFILE=524288\n\
         StandardOutput=append:{}\nStandardError=inherit\n",
        log.display()
    ))
}

/// A word of a command line: systemd expands `%`, `$`, quotes and backslashes.
fn word(text: &str) -> Result<String> {
    if text.contains(['"', '\\', '\n']) {
        bail!("{text:?} cannot be a word of a unit");
    }
    Ok(format!("\"{}\"", text.replace('%', "%%").replace('$', "$$")))
}

struct Kept {
    service: Service,
    wanted: bool,
    /// How often it was told to start.
    told: u32,
}

/// All services of this virtual machine but the door.
#[derive(Default)]
pub struct Units {
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Units {
    /// Does what was asked and reports all services.
    pub fn handle(&self, request: Request) -> Result<Vec<ServiceState>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            Request::Start(service) => {
                if kept.get(&service.name).is_none_or(|known| known.service != service) {
                    write(&file(&service.name), &unit(&service)?)?;
                    systemctl(&["daemon-reload"])?;
                    let entry = kept.entry(service.name.clone()).or_insert(Kept { service: service.clone(), wanted: true, told: 0 });
                    entry.service = service;
                    entry.start()?;
                }
            }
            Request::Restart(name) | Request::Resume(name) => supervisor::find(&mut kept, &name)?.start()?,
            Request::Stop(name) => {
                supervisor::find(&mut kept, &name)?.wanted = false;
                systemctl(&["--no-block", "stop", &file(&name)])?;
            }
            Request::Status => {}
        }
        states(&kept)
    }
}

impl Kept {
    /// Starts it, again if it runs.
    fn start(&mut self) -> Result<()> {
        self.wanted = true;
        self.told += 1;
        systemctl(&["--no-block", "restart", &file(&self.service.name)]).map(drop)
    }
}

fn file(name: &str) -> String {
    format!("{name}.service")
}

fn systemctl(words: &[&str]) -> Result<String> {
    let output = Command::new("/usr/bin/systemctl").args(words).output().context("systemctl cannot be run")?;
    if !output.status.success() {
        bail!("systemctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn states(kept: &BTreeMap<String, Kept>) -> Result<Vec<ServiceState>> {
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let files: Vec<String> = kept.keys().map(|name| file(name)).collect();
    let words: Vec<&str> = ["show", "--property=Id,MainPID,NRestarts"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let shown = parse(&systemctl(&words)?);
    let state = |(name, kept): (&String, &Kept)| {
        let (pid, restarts) = shown.get(&file(name)).copied().unwrap_or_default();
        ServiceState { name: name.clone(), pid: (pid > 0).then_some(pid), starts: kept.told + restarts, wanted: kept.wanted }
    };
    Ok(kept.iter().map(state).collect())
}

/// Main process (0: none) and number of restarts of each unit, as `systemctl show` tells them: lines `NAME=VALUE`, an empty one between two units.
fn parse(text: &str) -> BTreeMap<String, (i32, u32)> {
    let unit = |block: &str| {
        let value = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let number = |name| value(name).unwrap_or_default();
        Some((value("Id")?.to_owned(), (number("MainPID").parse().unwrap_or_default(), number("NRestarts").parse().unwrap_or_default())))
    };
    text.split("\n\n").filter_map(unit).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_service_becomes_a_unit() {
        let argv = ["/bin/kubelet", "--label=a=50%", "two words", "$x"].map(str::to_owned).to_vec();
        let text = unit(&Service { name: "kubelet".to_owned(), argv, after: vec![PathBuf::from("/run/crio/crio.sock")] }).unwrap();
        for line in [
            "ExecStart=\"/bin/kubelet\" \"--label=a=50%%\" \"two words\" \"$$x\"\n",
            "done' \"/run/crio/crio.sock\"\n",
            "Environment=\"GOGC=400\"\n",
            "StandardOutput=append:/var/log/godwit-lab/kubelet.log\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(word("a\"b").is_err());
    }

    #[test]
    fn systemctl_is_understood() {
        let shown = parse("MainPID=812\nNRestarts=2\nId=kubelet.service\n\nId=crio.service\nMainPID=0\nNRestarts=0\n");
        assert_eq!(shown.into_iter().collect::<Vec<_>>(), [("crio.service".to_owned(), (0, 0)), ("kubelet.service".to_owned(), (812, 2))]);
    }
}
