//! The command line of an OCI runtime, as runc and crun take it.
//!
//! ```text
//!   godwit-runtime [GLOBAL FLAGS] COMMAND [FLAGS] ID [MORE]
//! ```
//!
//! Flags follow Go's rules: `-x`, `--x`, `--x value`, `--x=value`; the first word that is no flag ends them, `--` too. Which flags stand alone is known from the
//! runtimes' manual pages (runc(8), crun(1)); every other flag takes a value.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

/// Global flags without a value.
const GLOBAL_ALONE: &[&str] = &["debug", "systemd-cgroup", "help", "h", "version", "v", "no-pivot"];
/// Flags without a value, of all commands together (no name is used in both ways, but for those in [`VALUED`]).
const ALONE: &[&str] = &[
    "no-pivot",
    "no-new-keyring",
    "no-subreaper",
    "all",
    "a",
    "force",
    "f",
    "tty",
    "t",
    "detach",
    "d",
    "no-new-privs",
    "ignore-paused",
    "stats",
    "quiet",
    "q",
    "rootless",
    "leave-running",
    "tcp-established",
    "tcp-skip-in-flight",
    "tcp-close",
    "link-remap",
    "ext-unix-sk",
    "shell-job",
    "lazy-pages",
    "file-locks",
    "pre-dump",
    "auto-dedup",
    "keep",
    "help",
    "h",
];
/// Flags that stand alone elsewhere but take a value with this command.
const VALUED: &[(&str, &str)] = &[("ps", "f"), ("list", "f")];

/// A flag and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Name without dashes.
    pub name: String,
    /// Its value, if it has one.
    pub value: Option<OsString>,
}

/// A command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    /// The global flags as they were given.
    pub globals: Vec<OsString>,
    /// Global `--root`.
    pub root: Option<PathBuf>,
    /// Global `--log`.
    pub log: Option<PathBuf>,
    /// Global `--log-format json`.
    pub log_json: bool,
    /// Global `--systemd-cgroup`, or crun's `--cgroup-manager=systemd`.
    pub systemd: bool,
    /// The command, e.g. `create`.
    pub command: String,
    /// Everything after the command as it was given.
    pub rest: Vec<OsString>,
    /// The command's flags.
    pub flags: Vec<Flag>,
    /// What follows the flags: the id first.
    pub words: Vec<OsString>,
}

impl Invocation {
    /// Reads the arguments after `argv[0]`. Never fails: what is not understood concerns the runtime below.
    #[must_use]
    pub fn parse(arguments: &[OsString]) -> Self {
        let (globals, used) = flags(arguments, |name| GLOBAL_ALONE.contains(&name));
        let mut invocation = Self { globals: arguments.get(..used).unwrap_or_default().to_vec(), ..Self::default() };
        for flag in globals {
            let value = flag.value.unwrap_or_default();
            match flag.name.as_str() {
                "root" if !value.is_empty() => invocation.root = Some(value.into()),
                "log" if !value.is_empty() => invocation.log = Some(value.into()),
                "log-format" => invocation.log_json = value == "json",
                "systemd-cgroup" => invocation.systemd = value.is_empty() || value == "true",
                "cgroup-manager" => invocation.systemd = value == "systemd",
                _ => {}
            }
        }
        let Some(command) = arguments.get(used) else {
            return invocation;
        };
        invocation.command = command.to_string_lossy().into_owned();
        invocation.rest = arguments.get(used + 1..).unwrap_or_default().to_vec();
        let command = invocation.command.clone();
        let (flags, used) = flags(&invocation.rest, |name| ALONE.contains(&name) && !VALUED.contains(&(command.as_str(), name)));
        invocation.flags = flags;
        invocation.words = invocation.rest.get(used..).unwrap_or_default().to_vec();
        invocation
    }

    /// The container's id, if the first word can be one (runc: letters, digits, `_`, `+`, `-`, `.`; never a path).
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let id = self.words.first()?.to_str()?;
        is_name(id).then_some(id)
    }

    /// The last value of a flag, under any of its names.
    #[must_use]
    pub fn value(&self, names: &[&str]) -> Option<&OsStr> {
        self.flags.iter().rev().find(|flag| names.contains(&flag.name.as_str())).and_then(|flag| flag.value.as_deref())
    }

    /// Whether a flag without a value is set.
    #[must_use]
    pub fn has(&self, names: &[&str]) -> bool {
        self.flags.iter().any(|flag| names.contains(&flag.name.as_str()) && flag.value.as_deref().is_none_or(|value| value == "true"))
    }
}

/// Whether a text may be the name of a directory of ours.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
}

/// The flags at the beginning, and how many words they took.
fn flags(words: &[OsString], alone: impl Fn(&str) -> bool) -> (Vec<Flag>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(word) = words.get(at) {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            return (found, at + 1);
        }
        let Some(body) = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).filter(|body| !body.is_empty()) else {
            break;
        };
        at += 1;
        if let Some(equals) = body.iter().position(|b| *b == b'=') {
            let (name, value) = body.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            found.push(Flag { name: String::from_utf8_lossy(name).into_owned(), value: Some(OsStr::from_bytes(value).to_owned()) });
            continue;
        }
        let name = String::from_utf8_lossy(body).into_owned();
        let value = if alone(&name) { None } else { words.get(at).cloned() };
        at += usize::from(value.is_some());
        found.push(Flag { name, value });
    }
    (found, at.min(words.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Invocation {
        Invocation::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn containerd_create() {
        let i = parse("--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup create --bundle /b --pid-file /b/init.pid abc");
        assert_eq!((i.command.as_str(), i.id(), i.systemd, i.log_json), ("create", Some("abc"), true, true));
        assert_eq!(i.globals.len(), 7);
        assert_eq!(i.log.as_deref(), Some(std::path::Path::new("/b/log.json")));
        assert_eq!(i.value(&["pid-file"]), Some(OsStr::new("/b/init.pid")));
        assert_eq!(i.value(&["bundle", "b"]), Some(OsStr::new("/b")));
    }

    #[test]
    fn conmon_create_and_kill() {
        let i = parse("--root=/run/runc create --bundle=/b --no-pivot --pid-file /p x1");
        assert_eq!((i.id(), i.has(&["no-pivot"])), (Some("x1"), true));
        let i = parse("--root=/run/runc kill --all x1 15");
        assert_eq!((i.id(), i.words.len(), i.has(&["all", "a"])), (Some("x1"), 2, true));
        let i = parse("delete -f=false x1");
        assert!(!i.has(&["f", "force"]));
    }

    #[test]
    fn exec_with_values_and_a_command() {
        let i = parse("exec --cwd / -e A=b -d --pid-file /p --process /q id sh -c x");
        assert_eq!((i.id(), i.value(&["process", "p"])), (Some("id"), Some(OsStr::new("/q"))));
        assert_eq!(i.words.len(), 4);
        assert_eq!(parse("ps -f json id").id(), Some("id"));
        assert_eq!(parse("delete -f id").id(), Some("id"));
    }

    #[test]
    fn what_is_no_container() {
        assert_eq!(parse("").command, "");
        assert_eq!(parse("--version").command, "");
        assert_eq!(parse("list -f json").id(), None);
        assert_eq!(parse("state ../../etc").id(), None);
        assert_eq!(parse("state -- id").id(), Some("id"));
        assert_eq!(parse("state").id(), None);
        assert_eq!(parse("--root").globals.len(), 1);
    }
}
