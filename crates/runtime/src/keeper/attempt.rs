//! One `runc restore`: its directory, its environment, its end.
//!
//! ```text
//!   attempt-<n>/  home/.criu/default.conf   read by CRIU because $HOME points here: network-lock skip, lines of the agent
//!                 bin/criu ─▶ this program  first in $PATH: the stand-in, and with it the gate
//!                 work/restore.log, runc.log, standin.log, real.pid
//! ```
//!
//! `network-lock` must stand in default.conf (in the file that runc names over RPC it crashes CRIU); options that runc sends over RPC win over
//! default.conf and are therefore flags of `runc restore` here.

use std::{
    env,
    ffi::{CString, OsString},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt, fs::symlink},
    path::PathBuf,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{SigSet, Signal},
};

use super::diagnosis;
use crate::{
    config::own_path,
    entry, gate,
    layout::{ENV_ATTEMPT, ENV_CONTAINER, Layout},
    process::Process,
    record::Record,
    runc, sys,
};

/// Where programs are when the caller gave no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An attempt to restore.
pub struct Attempt<'a> {
    layout: &'a Layout,
    record: &'a Record,
    number: u32,
    images: PathBuf,
    /// Memory is filled while the processes run.
    lazy: bool,
    path: PathBuf,
}

impl<'a> Attempt<'a> {
    /// The attempt of this number (from 1).
    pub fn new(layout: &'a Layout, record: &'a Record, number: u32, images: PathBuf, lazy: bool) -> Self {
        Self { layout, record, number, images, lazy, path: layout.attempt(number) }
    }

    /// Where CRIU works.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Makes the directory.
    pub fn prepare(&self, criu: &[String]) -> io::Result<()> {
        if self.path.exists() {
            fs::remove_dir_all(&self.path)?;
        }
        for directory in ["home/.criu", "bin", "work"] {
            fs::create_dir_all(self.path.join(directory))?;
        }
        symlink(own_path(), self.path.join("bin").join(entry::CRIU))?;
        fs::write(self.path.join("home/.criu/default.conf"), configuration(criu))
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
        if self.lazy {
            words.push("--lazy-pages".into());
        }
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
        Process::of(pid).or_else(|| self.layout.read::<Process>("resuming").ok().filter(|real| real.pid == pid)).or(Some(Process { pid, start: 0 }))
    }

    /// The real init, if CRIU has come to let it go. Without that nothing of the container can have run.
    pub fn let_go(&self) -> Option<Process> {
        self.layout.has("resuming").then(|| self.layout.read("resuming").unwrap_or(Process { pid: 0, start: 0 }))
    }

    /// Takes back what a failed attempt left in the state of the runtime below.
    pub fn forget(&self) {
        let _ = runc::delete(self.record);
    }

    /// The ends of all logs.
    pub fn diagnosis(&self) -> String {
        diagnosis::of(&self.path.join(gate::LOG), &self.path.join("runc.log"), &self.path.join("work/restore.log"))
    }
}

/// CRIU's default.conf. Each line is one option; an option of the agent cannot smuggle in a second line.
fn configuration(criu: &[String]) -> String {
    let mut text = "network-lock skip\n".to_owned();
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
        let text = configuration(&["external mnt[/dev]:/p".into(), "a\naction-script=/evil".into()]);
        assert_eq!(text, "network-lock skip\nexternal mnt[/dev]:/p\n");
    }
}
