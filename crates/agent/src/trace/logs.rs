//! Log files of the node: the kubelet's and the runtime's, where they write any. Which these are stands in the chart (`trace.files`).

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use godwit_node::host::Host;
use godwit_trace::read::{self, Format, Scene};
use godwit_trace::{Line, Source};
use jiff::tz::TimeZone;

use super::Listener;
use crate::clock::now_us;

/// Environment variable: files as `source=path`, separated by commas; a path may be there or not.
pub const SETTING: &str = "GODWIT_TRACE_FILES";
/// Most of a file that is looked at, in bytes from its end.
const TAIL: u64 = 32 << 20;
/// How often a file is looked at for what is new.
const LOOK: Duration = Duration::from_millis(200);

/// The files that are there.
pub struct Logs {
    files: Vec<Log>,
    wanted: usize,
    zone: TimeZone,
}

struct Log {
    path: PathBuf,
    source: Source,
    file: File,
    inode: u64,
    /// What has come of a line that is not whole yet.
    rest: Vec<u8>,
}

impl Logs {
    /// Opens what is there.
    #[must_use]
    pub fn open(host: &Host) -> Self {
        let wanted = wanted(&std::env::var(SETTING).unwrap_or_default());
        let files = wanted.iter().filter_map(|(source, path)| Log::open(*source, host.path(path))).collect();
        // klog writes local time.
        let zone = fs::read(host.path("/etc/localtime")).ok().and_then(|data| TimeZone::tzif("node", &data).ok()).unwrap_or(TimeZone::UTC);
        Self { files, wanted: wanted.len(), zone }
    }

    /// Tells what was written; learns from all of it first, because an id may be named before its pod.
    pub fn past(&mut self, listener: &Listener) {
        let scene = self.scene();
        let texts: Vec<(Source, Vec<String>)> = self.files.iter_mut().map(|log| (log.source, log.tail())).collect();
        for text in texts.iter().flat_map(|(_, lines)| lines) {
            listener.concerns(text);
        }
        for (source, lines) in texts {
            for text in lines.iter().filter(|text| listener.concerns(text)) {
                if let Some(line) = understood(source, text, &scene) {
                    listener.tell_blocking(line);
                }
            }
        }
    }

    /// Tells what is written, until nobody listens.
    pub fn follow(&mut self, listener: &Listener) {
        while !listener.gone() {
            let scene = self.scene();
            for log in &mut self.files {
                for text in log.news().iter().filter(|text| listener.concerns(text)) {
                    if let Some(line) = understood(log.source, text, &scene) {
                        listener.tell_blocking(line);
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Says where nothing can be read.
    pub async fn explain(&self, journal: bool, listener: &Listener) {
        for source in [Source::Kubelet, Source::Runtime] {
            if !journal && self.files.iter().all(|log| log.source != source) {
                let looked = format!("no journal, and none of the {} files of trace.files is there", self.wanted);
                listener.explain(&format!("no log of the {} on this node: {looked}", source.tag())).await;
            }
        }
    }

    fn scene(&self) -> Scene {
        Scene { now_us: now_us(), zone: self.zone.clone() }
    }
}

/// `kubelet=/var/log/kubelet.log,runtime=/var/log/crio.log`.
fn wanted(setting: &str) -> Vec<(Source, PathBuf)> {
    let pairs = setting.split(',').filter_map(|pair| pair.trim().split_once('='));
    pairs.filter_map(|(source, path)| Some((Source::of(source)?, PathBuf::from(path)))).collect()
}

fn understood(source: Source, text: &str, scene: &Scene) -> Option<Line> {
    let format = if source == Source::Kubelet { Format::Klog } else { Format::Logrus };
    read::line(format, source, text, scene)
}

impl Log {
    fn open(source: Source, path: PathBuf) -> Option<Self> {
        let file = File::open(&path).ok()?;
        let inode = file.metadata().ok().filter(fs::Metadata::is_file)?.ino();
        Some(Self { path, source, file, inode, rest: Vec::new() })
    }

    /// The last lines, up to the end of the file.
    fn tail(&mut self) -> Vec<String> {
        let length = self.file.metadata().map_or(0, |metadata| metadata.len());
        let begin = length.saturating_sub(TAIL);
        let _ = self.file.seek(SeekFrom::Start(begin));
        let mut lines = self.news();
        if begin > 0 && !lines.is_empty() {
            // The first one is cut.
            lines.remove(0);
        }
        lines
    }

    /// Whole lines that were written since.
    fn news(&mut self) -> Vec<String> {
        let mut text = std::mem::take(&mut self.rest);
        let _ = self.file.read_to_end(&mut text);
        // Rotated: the rest of the old one has been read, the new one is read from its beginning; or emptied.
        let there = fs::metadata(&self.path).ok();
        let position = self.file.stream_position().unwrap_or_default();
        match there {
            Some(there) if there.ino() != self.inode => {
                if let Ok(file) = File::open(&self.path) {
                    (self.file, self.inode) = (file, there.ino());
                }
            }
            Some(there) if there.len() < position => drop(self.file.seek(SeekFrom::Start(0))),
            _ => {}
        }
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.rest = text.split_off(end);
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn files_are_named_by_source() {
        assert_eq!(wanted("kubelet=/a, runtime=/b,,x=/c,nothing"), [(Source::Kubelet, "/a".into()), (Source::Runtime, "/b".into())]);
    }

    #[test]
    fn a_log_that_is_rotated_or_emptied_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet.log");
        fs::write(&path, "a\nb\nhal").unwrap();
        let mut log = Log::open(Source::Kubelet, path.clone()).unwrap();
        assert_eq!(log.tail(), ["a", "b"]);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"f\n").unwrap();
        assert_eq!(log.news(), ["half"]);
        fs::rename(&path, folder.path().join("kubelet.log.1")).unwrap();
        fs::write(&path, "new\n").unwrap();
        file.write_all(b"last\n").unwrap();
        assert_eq!(log.news(), ["last"]);
        assert_eq!(log.news(), ["new"]);
        fs::write(&path, "").unwrap();
        assert!(log.news().is_empty());
        fs::write(&path, "x\n").unwrap();
        assert_eq!(log.news(), ["x"]);
    }
}
