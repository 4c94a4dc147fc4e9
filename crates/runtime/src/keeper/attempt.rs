//! One `runc restore`: its directory, its environment, its end.
//!
//! ```text
//!   attempt-<n>/  home/.criu/default.conf   read by CRIU because $HOME points here: network-lock skip, action-script=…/gate, lines of the agent
//!                 bin/criu ─▶ this program  first in $PATH: the stand-in
//!                 gate     ─▶ this program
//!                 work/restore.log, runc.log, real.pid
//! ```
//!
//! `network-lock` must stand in default.conf (in the file that runc names over RPC it crashes CRIU); options that runc sends over RPC win over
//! default.conf and are therefore flags of `runc restore` here.

use std::{
    env,
    ffi::{CString, OsString},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::{ffi::OsStringExt, fs::symlink},
    path::{Path, PathBuf},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{SigSet, Signal},
};

use crate::{
    config::own_path,
    entry,
    layout::{ENV_ATTEMPT, ENV_CONTAINER, Layout},
    process::Process,
    record::Record,
    runc, sys,
};

/// How much of a log goes into a report.
const TAIL: u64 = 4096;
/// Where programs are when the caller gave no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An attempt to restore.
pub struct Attempt<'a> {
    layout: &'a Layout,
    record: &'a Record,
    number: u32,
    images: PathBuf,
    path: PathBuf,
}

impl<'a> Attempt<'a> {
    /// The attempt of this number (from 1).
    pub fn new(layout: &'a Layout, record: &'a Record, number: u32, images: PathBuf) -> Self {
        Self { layout, record, number, images, path: layout.attempt(number) }
    }

    /// Makes the directory.
    pub fn prepare(&self, criu: &[String]) -> io::Result<()> {
        if self.path.exists() {
            fs::remove_dir_all(&self.path)?;
        }
        for directory in ["home/.criu", "bin", "work"] {
            fs::create_dir_all(self.path.join(directory))?;
        }
        let own = own_path();
        symlink(&own, self.path.join("bin").join(entry::CRIU))?;
        symlink(&own, self.path.join(entry::GATE))?;
        fs::write(self.path.join("home/.criu/default.conf"), configuration(&self.path.join(entry::GATE), criu))
    }

    /// Starts `runc restore` in the pod's namespaces and gives its pid.
    pub fn start(&self, oom: &str) -> io::Result<i32> {
        let text = |word: OsString| CString::new(word.into_vec()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
        let argv: Vec<CString> = self.arguments().into_iter().map(text).collect::<Result<_, _>>()?;
        let environment: Vec<CString> = self.environment().into_iter().map(text).collect::<Result<_, _>>()?;
        let program = text(self.record.runtime.clone().into())?;
        let namespaces: Vec<(CloneFlags, File)> = self
            .record
            .namespaces
            .iter()
            .filter_map(|(kind, path)| Some((flag(kind)?, path)))
            .map(|(flag, path)| File::open(path).map(|file| (flag, file)).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))))
            .collect::<Result<_, _>>()?;
        if let Some(child) = sys::fork()? {
            return Ok(child);
        }
        // In the child: the next lines end in execve or _exit.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        let _ = fs::write("/proc/self/oom_score_adj", oom);
        let failed = |what: &str, errno: nix::errno::Errno| -> ! {
            let _ = fs::write(self.path.join("runc.log"), format!("{what}: {errno}\n"));
            std::process::exit(126);
        };
        for (flag, file) in &namespaces {
            if let Err(errno) = setns(file, *flag) {
                failed("cannot enter the pod's namespaces", errno);
            }
        }
        let _ = SigSet::empty().thread_set_mask();
        match nix::unistd::execve(&program, &argv, &environment) {
            Err(errno) => failed("cannot execute the runtime", errno),
        }
    }

    /// The command line of `runc restore`.
    fn arguments(&self) -> Vec<OsString> {
        let record = self.record;
        let mut words: Vec<OsString> = vec![record.runtime.clone().into()];
        words.extend(record.globals.iter().map(OsString::from));
        words.extend(["--log".into(), self.path.join("runc.log").into(), "--log-format".into(), "json".into()]);
        words.extend(["restore", "--detach", "--tcp-established", "--file-locks", "--manage-cgroups-mode", "ignore"].map(OsString::from));
        words.extend(["--bundle".into(), record.bundle.clone().into(), "--pid-file".into(), self.path.join("real.pid").into()]);
        words.extend(["--image-path".into(), self.images.clone().into(), "--work-path".into(), self.path.join("work").into()]);
        if record.no_pivot {
            words.push("--no-pivot".into());
        }
        words.push(OsString::from(&record.id));
        words
    }

    /// The environment of `runc restore`: the keeper's, but for what leads CRIU here.
    fn environment(&self) -> Vec<OsString> {
        let path = env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
        let mut first = self.path.join("bin").into_os_string();
        first.push(":");
        first.push(path);
        let ours: [(&str, OsString); 4] = [
            ("HOME", self.path.join("home").into()),
            ("PATH", first),
            (ENV_CONTAINER, OsString::from(&self.layout.id)),
            (ENV_ATTEMPT, OsString::from(self.number.to_string())),
        ];
        let join = |name: &std::ffi::OsStr, value: &std::ffi::OsStr| {
            let mut pair = name.to_owned();
            pair.push("=");
            pair.push(value);
            pair
        };
        let kept = env::vars_os().filter(|(name, _)| !ours.iter().any(|(own, _)| name == own));
        kept.map(|(name, value)| join(&name, &value)).chain(ours.iter().map(|(name, value)| join(name.as_ref(), value))).collect()
    }

    /// The real init, once `runc restore` has succeeded.
    pub fn real(&self) -> Option<Process> {
        let pid: i32 = fs::read_to_string(self.path.join("real.pid")).ok()?.trim().parse().ok()?;
        // It may have ended already; the gate has noted its start time.
        Process::of(pid).or_else(|| self.layout.read::<Process>("resumed").ok().filter(|real| real.pid == pid)).or(Some(Process { pid, start: 0 }))
    }

    /// Takes back what a failed attempt left in the runtime's state.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.layout.file("resumed"));
        let _ = fs::remove_file(self.layout.file("told"));
        let _ = runc::delete(self.record);
    }

    /// The ends of runc's and CRIU's logs.
    pub fn diagnosis(&self) -> String {
        let said = runc_errors(&tail(&self.path.join("runc.log")));
        let criu = tail(&self.path.join("work/restore.log"));
        said.into_iter().chain(criu_errors(&criu).into_iter().map(str::to_owned)).collect::<Vec<_>>().join("\n")
    }
}

/// The errors in runc's log. (Its warnings quote CRIU's log, which is looked at itself.)
fn runc_errors(log: &str) -> Vec<String> {
    let error = |line: &str| -> Option<String> {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { return Some(line.to_owned()) };
        let text = |name: &str| entry.get(name).and_then(serde_json::Value::as_str);
        (text("level") == Some("error")).then(|| text("msg").unwrap_or_default().to_owned())
    };
    log.lines().filter_map(error).collect()
}

/// The errors in CRIU's log, its last lines if there is none. That CRIU may not raise its own limit of open files is none.
fn criu_errors(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let errors: Vec<&str> = lines.iter().filter(|line| line.contains("Error") && !line.contains("Can't setup RLIMIT_NOFILE for self")).copied().collect();
    if errors.is_empty() { lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().to_vec() } else { errors }
}

/// CRIU's default.conf. Each line is one option; an option of the agent cannot smuggle in a second line.
fn configuration(gate: &Path, criu: &[String]) -> String {
    let mut text = format!("network-lock skip\naction-script={}\n", gate.display());
    for line in criu.iter().filter(|line| !line.contains(['\n', '\r'])) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The flag for a namespace's kind.
fn flag(kind: &str) -> Option<CloneFlags> {
    match kind {
        "network" => Some(CloneFlags::CLONE_NEWNET),
        "ipc" => Some(CloneFlags::CLONE_NEWIPC),
        "uts" => Some(CloneFlags::CLONE_NEWUTS),
        _ => None,
    }
}

/// The end of a file, from the beginning of a line.
fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(if size > TAIL { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() } else { text })
    };
    read().unwrap_or_default()
}

/// Applies the resources that `update` asked for while the container was not here yet, in order.
pub fn apply_updates(layout: &Layout, record: &Record) {
    let mut files: Vec<PathBuf> = fs::read_dir(&layout.path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("update-") && name.ends_with(".json")))
        .collect();
    files.sort();
    for file in files {
        if let Some(path) = file.to_str() {
            let _ = runc::capture(record, &["update", "--resources", path, &record.id]);
        }
        let _ = fs::remove_file(&file);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_second_line_is_smuggled_in() {
        let text = configuration(Path::new("/d/gate"), &["external mnt[/dev]:/p".into(), "a\naction-script=/evil".into()]);
        assert_eq!(text, "network-lock skip\naction-script=/d/gate\nexternal mnt[/dev]:/p\n");
    }

    #[test]
    fn diagnosis_is_short() {
        let log = "{\"level\":\"warning\",\"msg\":\"--- Quoting\"}\n{\"level\":\"error\",\"msg\":\"criu failed\"}\ncannot execute the runtime: ENOENT\n";
        assert_eq!(runc_errors(log), ["criu failed", "cannot execute the runtime: ENOENT"]);
        let log = "(0.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n(0.2) Restored\n(0.3) Error (x): No mapping\n";
        assert_eq!(criu_errors(log), ["(0.3) Error (x): No mapping"]);
        assert_eq!(criu_errors("a\nb"), ["a", "b"]);
    }

    #[test]
    fn tails_begin_with_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        fs::write(&file, "x".repeat(5000) + "\nlast\n").unwrap();
        assert_eq!(tail(&file), "last\n");
        assert_eq!(tail(&directory.path().join("none")), "");
    }
}
