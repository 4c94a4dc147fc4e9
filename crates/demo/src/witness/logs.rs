//! The log files of a namespace's pods, read while they are written (`/var/log/pods/NAMESPACE_POD_UID/CONTAINER/N.log`, lines `TIME STREAM F|P TEXT`, as the
//! CRI has them). Once open, a file is read to its end even if the kubelet has deleted it meanwhile.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::pulse::{CONTAINER, Tick};

/// Where in a node's logs those of pods are.
const FOLDER: &str = "pods";

/// One log file.
#[derive(Debug)]
struct Log {
    name: String,
    file: File,
    /// What was read of a line whose end is not there yet.
    rest: Vec<u8>,
    /// Text of a line that the runtime wrote in several parts.
    part: String,
    ticks: Vec<Tick>,
    strange: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Logs {
    prefix: String,
    folders: Vec<(String, PathBuf)>,
    logs: HashMap<(u64, u64), Log>,
}

/// What one log file tells: its name, and its ticks in their order.
#[derive(Debug, Clone)]
pub struct Told {
    /// `NODE POD_UID N`.
    pub log: String,
    /// In the order in which they were written.
    pub ticks: Vec<Tick>,
}

impl Logs {
    /// The logs of `namespace` on nodes whose logs are in these folders.
    pub fn new(namespace: &str, folders: Vec<(String, PathBuf)>) -> Self {
        Self { prefix: format!("{namespace}_"), folders, logs: HashMap::new() }
    }

    /// Opens what is new and reads what was written. Files that go away while they are looked at are no error.
    pub fn read(&mut self) {
        let mut found = Vec::new();
        for (node, folder) in &self.folders {
            for pod in list(&folder.join(FOLDER)) {
                let name = file_name(&pod);
                if let Some(rest) = name.strip_prefix(&self.prefix) {
                    for log in list(&pod.join(CONTAINER)) {
                        found.push((format!("{node} {rest} {}", file_name(&log)), log));
                    }
                }
            }
        }
        for (name, path) in found {
            self.open(name, &path);
        }
        for log in self.logs.values_mut() {
            log.read();
        }
    }

    fn open(&mut self, name: String, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::metadata(path) else { return };
        let key = (metadata.dev(), metadata.ino());
        if !metadata.is_file() || self.logs.contains_key(&key) {
            return;
        }
        if let Ok(file) = File::open(path) {
            self.logs.insert(key, Log { name, file, rest: Vec::new(), part: String::new(), ticks: Vec::new(), strange: Vec::new() });
        }
    }

    /// Time of the newest tick, nanoseconds since the epoch.
    pub fn newest(&self) -> u64 {
        self.logs.values().filter_map(|log| log.ticks.last()).map(|tick| tick.at_ns).max().unwrap_or(0)
    }

    /// Everything read so far, up to this time.
    ///
    /// # Errors
    /// When a log holds something that is not a tick: the process complained. Where there is no tick no process has run: that is a target which was taken back,
    /// and what runc said of it.
    pub fn told(&self, until_ns: u64) -> Result<Vec<Told>> {
        for log in self.logs.values().filter(|log| !log.ticks.is_empty()) {
            if let Some(line) = log.strange.first() {
                anyhow::bail!("{}: the process wrote {line:?}", log.name);
            }
        }
        let until = |log: &Log| log.ticks.iter().filter(|tick| tick.at_ns <= until_ns).cloned().collect();
        Ok(self.logs.values().map(|log| Told { log: log.name.clone(), ticks: until(log) }).collect())
    }
}

impl Log {
    fn read(&mut self) {
        // An error means that the node is gone; what was read stays.
        let _ = self.file.read_to_end(&mut self.rest);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let mut words = line.trim_end().splitn(4, ' ').skip(2);
            let (kind, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            self.part.push_str(text);
            if kind == "F" {
                let whole = std::mem::take(&mut self.part);
                match Tick::parse(&whole) {
                    Ok(tick) => self.ticks.push(tick),
                    Err(_) => self.strange.push(whole),
                }
            }
        }
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect()).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
