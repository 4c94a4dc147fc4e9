//! One line of the stream.

use serde::{Deserialize, Serialize};

/// Longest text of a line, in bytes; the rest is cut off.
const LONGEST: usize = 1000;

/// Who said it. The names are those of the tags that users see and filter by.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Phases and steps of the controller.
    Controller,
    /// Steps and decisions of an agent.
    Agent,
    /// The kubelet.
    Kubelet,
    /// CRI-O or containerd.
    Runtime,
    /// conmon, or the shim of containerd.
    Shim,
    /// The OCI wrapper, its keeper and its stand-in for CRIU.
    Wrapper,
    /// runc or crun.
    Oci,
    /// CRIU.
    Criu,
    /// The gate at which a restored pod waits for the commit.
    Gate,
    /// The traffic gate, anchors and tunnels.
    Network,
    /// The kernel's own messages.
    Kernel,
    /// Programs that were started.
    Exec,
    /// Signals to the tasks of the pod, with their sender.
    Signal,
    /// About the trace itself: what could not be read, and why.
    Trace,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Controller,
        Self::Agent,
        Self::Kubelet,
        Self::Runtime,
        Self::Shim,
        Self::Wrapper,
        Self::Oci,
        Self::Criu,
        Self::Gate,
        Self::Network,
        Self::Kernel,
        Self::Exec,
        Self::Signal,
        Self::Trace,
    ];

    /// Its tag.
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Kubelet => "kubelet",
            Self::Runtime => "runtime",
            Self::Shim => "shim",
            Self::Wrapper => "wrapper",
            Self::Oci => "oci",
            Self::Criu => "criu",
            Self::Gate => "gate",
            Self::Network => "network",
            Self::Kernel => "kernel",
            Self::Exec => "exec",
            Self::Signal => "signal",
            Self::Trace => "trace",
        }
    }

    /// The source with this tag.
    #[must_use]
    pub fn of(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.tag() == tag)
    }
}

/// How much it matters.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// For `-v` only.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// Strange.
    Warning,
    /// Went wrong.
    Error,
}

impl Level {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// From the names that Go programs, journald's priorities and the kernel use; what is not known is [`Level::Info`].
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            "debug" | "trace" | "7" => Self::Debug,
            "warning" | "warn" | "4" => Self::Warning,
            "error" | "fatal" | "panic" | "3" | "2" | "1" | "0" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// What one source said at one moment.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When, in microseconds since the epoch, by the clock of the node that noted it.
    pub at_us: i64,
    /// Who.
    pub source: Source,
    /// How much it matters.
    pub level: Level,
    /// What; one line, at most 1000 bytes.
    pub text: String,
}

impl Line {
    /// One line; what is too long is cut, what would break a terminal is taken out.
    #[must_use]
    pub fn new(at_us: i64, source: Source, level: Level, text: &str) -> Self {
        let mut text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
        }
        Self { at_us, source, level, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_unique_and_found_again() {
        for source in Source::ALL {
            assert_eq!(Source::of(source.tag()), Some(source));
            assert_eq!(serde_json::to_value(source).ok(), Some(source.tag().into()));
        }
    }

    #[test]
    fn a_line_is_one_line_and_no_escape_sequence() {
        let line = Line::new(1, Source::Kubelet, Level::Info, " a\nb\u{1b}[2J ");
        assert_eq!(line.text, "a b [2J");
        let long = Line::new(1, Source::Kubelet, Level::Info, &"ä".repeat(900)).text;
        assert!(long.len() < 1010 && long.ends_with('…'), "{}", long.len());
    }
}
