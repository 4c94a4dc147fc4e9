//! When and how memory travels.

use std::fmt;

/// A way, by words of `kubectl migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// While the pod runs: what is done if nothing is said.
    PreCopy,
    /// The same; which pages change is told by digests.
    Digests,
    /// In the freeze.
    StopAndCopy,
    /// What changes too late comes after the switch.
    PostCopy,
}

impl Way {
    /// What is said to `kubectl migrate`.
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Self::PreCopy => &["--memory", "pre-copy"],
            Self::Digests => &["--memory", "pre-copy", "--tracking", "digests"],
            Self::StopAndCopy => &["--memory", "stop-and-copy"],
            Self::PostCopy => &["--memory", "post-copy"],
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreCopy => "pre-copy",
            Self::Digests => "digests",
            Self::StopAndCopy => "stop-and-copy",
            Self::PostCopy => "post-copy",
        })
    }
}
