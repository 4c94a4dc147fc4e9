//! What a line of each log means. Every function takes one line, and gives `None` for what is no line of that log.

pub mod criu;
pub mod exec;
pub mod journal;
pub mod kernel;
pub mod klog;
pub mod logrus;
pub mod signal;

use crate::line::{Line, Source};

/// How a log file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// klog's text or JSON: the kubelet.
    Klog,
    /// logrus' text or JSON: CRI-O, containerd, runc.
    Logrus,
}

/// What is needed to read a line besides the line.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Now, in microseconds since the epoch: klog writes no year.
    pub now_us: i64,
    /// The node's time zone: klog writes local time.
    pub zone: jiff::tz::TimeZone,
}

/// One line of a log file of a source.
#[must_use]
pub fn line(format: Format, source: Source, text: &str, scene: &Scene) -> Option<Line> {
    match format {
        Format::Klog => klog::line(source, text, scene),
        Format::Logrus => logrus::line(source, text),
    }
}
