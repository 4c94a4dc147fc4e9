//! CRIU's and runc's logs: read while they grow and once more when whoever writes them has ended, into the agent's memory. Their files go with the images, so each is
//! opened before that; what is parsed is parsed a moment later, when nothing of a freeze waits for the processor.
//!
//! CRIU counts from its own start. When that was is the time of the file's last change minus the time in its last line: right to the kernel's tick, some ms.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use godwit_trace::{Level, Line, Source, read};
use tokio::sync::Notify;

use super::memory::MEMORY;

/// How often a log that grows is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After the end of whoever writes it.
const REST: Duration = Duration::from_millis(300);
/// After this nobody writes any more, whatever became of it.
const LONGEST: Duration = Duration::from_secs(600);
/// Most that is read of a log, in bytes: its beginning.
const MOST: u64 = 8 << 20;
/// Most lines of no importance that are kept of a log.
const UNIMPORTANT: usize = 4000;

/// Finds the files; asked again until all are there.
type Find = Box<dyn Fn() -> Vec<(PathBuf, Source)> + Send + Sync>;

struct Files {
    find: Find,
    open: Mutex<Vec<Log>>,
    end: Notify,
    about: String,
}

/// One log.
struct Log {
    path: PathBuf,
    source: Source,
    file: File,
    told: usize,
    unimportant: usize,
}

/// Logs that are followed; dropping it ends that.
pub struct Followed(Arc<Files>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.look_for();
        self.0.end.notify_one();
    }
}

/// Follows logs that will be at these places, about these names.
#[must_use]
pub fn follow(find: impl Fn() -> Vec<(PathBuf, Source)> + Send + Sync + 'static, about: &str) -> Followed {
    let files = Arc::new(Files { find: Box::new(find), open: Mutex::default(), end: Notify::new(), about: about.to_owned() });
    let worker = files.clone();
    tokio::spawn(async move {
        let limit = tokio::time::Instant::now() + LONGEST;
        loop {
            let ended = tokio::select! {
                () = worker.end.notified() => true,
                () = tokio::time::sleep(LOOK) => tokio::time::Instant::now() > limit,
            };
            if ended {
                tokio::time::sleep(REST).await;
            }
            let reader = worker.clone();
            let _ = tokio::task::spawn_blocking(move || reader.read()).await;
            if ended {
                return;
            }
        }
    });
    Followed(files)
}

impl Files {
    /// Opens what has come.
    fn look_for(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, source) in (self.find)() {
            if open.iter().all(|log| log.path != path)
                && let Ok(file) = File::open(&path)
            {
                open.push(Log { path, source, file, told: 0, unimportant: 0 });
            }
        }
    }

    fn read(&self) {
        self.look_for();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for log in open.iter_mut() {
            for line in log.news() {
                MEMORY.put(line, &self.about);
            }
        }
    }
}

impl Log {
    fn news(&mut self) -> Vec<Line> {
        let lines = self.lines().unwrap_or_default();
        let mut news: Vec<Line> = lines.into_iter().skip(self.told).collect();
        self.told += news.len();
        news.retain(|line| {
            self.unimportant += usize::from(line.level == Level::Debug);
            line.level > Level::Debug || self.unimportant <= UNIMPORTANT
        });
        news
    }

    fn lines(&mut self) -> std::io::Result<Vec<Line>> {
        let changed = self.file.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed_us = i64::try_from(changed.as_micros()).unwrap_or(i64::MAX);
        self.file.seek(SeekFrom::Start(0))?;
        let mut text = Vec::new();
        (&self.file).take(MOST).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        // The last line may not be whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(match self.source {
            Source::Criu => read::criu::lines(whole, changed_us.saturating_sub(read::criu::length(whole).unwrap_or_default())),
            source => whole.lines().filter_map(|line| read::logrus::line(source, line)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn a_log_is_told_once_and_dated_by_its_last_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.log");
        let begin = fs::write(&path, "(00.000000) Version: 4.2.1 (gitid 0)\n(00.002000) Dumping task (pid: 1 comm: a)\n(00.00")
            .map(|()| crate::clock::now_us())
            .unwrap();
        let mut log = Log { file: File::open(&path).unwrap(), path: path.clone(), source: Source::Criu, told: 0, unimportant: 0 };
        let told = log.news();
        assert_eq!(told.len(), 2);
        assert_eq!(told[1].at_us - told[0].at_us, 2000);
        assert!((told[1].at_us - begin).abs() < 1_000_000, "{} is not near {begin}", told[1].at_us);
        let whole = fs::read_to_string(&path).unwrap().replace("\n(00.00", "\n(00.003000) Dumping finished successfully\n");
        fs::write(&path, whole).unwrap();
        assert_eq!(log.news().iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["Dumping finished successfully"]);
        assert!(log.news().is_empty());
    }
}
