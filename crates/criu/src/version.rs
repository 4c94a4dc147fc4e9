//! CRIU's version.

use std::fmt;

/// A version of CRIU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 4 of 4.2.1.
    pub major: u32,
    /// 2 of 4.2.1.
    pub minor: u32,
    /// 1 of 4.2.1; 0 where it is not said.
    pub patch: u32,
}

/// The oldest version that works: older ones fail on the vDSO of newer kernels and know neither `network-lock skip` for restores nor external tmpfs well.
pub const MINIMUM: Version = Version { major: 4, minor: 1, patch: 0 };

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Reads the output of `criu --version` (`Version: 4.2.1`, perhaps followed by a `GitID:` line).
#[must_use]
pub fn parse(output: &str) -> Option<Version> {
    let text = output.lines().find_map(|line| line.trim().strip_prefix("Version:"))?.trim();
    let mut parts = text.split(['.', '-', '+', '~', ' ']).map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    Some(Version { major, minor, patch: parts.next().flatten().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_criu_prints() {
        assert_eq!(parse("Version: 4.2.1\n"), Some(Version { major: 4, minor: 2, patch: 1 }));
        assert_eq!(parse("Version: 4.1\nGitID: v4.1-3-gabc\n"), Some(Version { major: 4, minor: 1, patch: 0 }));
        assert_eq!(parse("Version: 4.2-rc1\n"), Some(Version { major: 4, minor: 2, patch: 0 }));
        assert_eq!(parse("criu: not found"), None);
        assert!(parse("Version: 3.19\n") < Some(MINIMUM));
        assert!(parse("Version: 4.1\n") >= Some(MINIMUM));
    }
}
