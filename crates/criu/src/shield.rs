//! A `criu dump` that outlives whoever started it.
//!
//! CRIU that is killed in the middle of a dump leaves the container thawed, or its processes with foreign code in them, or its connections in repair mode.
//! An agent's container has the node's pid namespace, so when it ends (an update, a crash, out of memory) the runtime kills every process in its cgroup.
//! CRIU is therefore started in cgroups of the node's own:
//!
//! ```text
//!   v1   every hierarchy: its root, but freezer/godwit
//!   v2   /sys/fs/cgroup/godwit
//! ```
//! An agent that comes back finds there what is still running, and waits for it before it thaws anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the cgroup.
pub const GROUP: &str = "godwit";

/// Moves itself, then becomes the command. What the node does not have is skipped; without any of it CRIU would not be safe, but no less so than before.
const SCRIPT: &str = "{ cd /sys/fs/cgroup; \
    if [ -e cgroup.controllers ]; then mkdir -p godwit; echo $$ > godwit/cgroup.procs; \
    else mkdir -p freezer/godwit; for h in */cgroup.procs; do case $h in freezer/*) ;; *) echo $$ > $h;; esac; done; echo $$ > freezer/godwit/cgroup.procs; fi; \
    echo -999 > /proc/self/oom_score_adj; cd /; } 2> /dev/null; exec \"$@\"";

/// The command line that starts `words` (a program and its arguments) in the node's own cgroups. For the node's mount and cgroup namespaces; needs `sh`.
#[must_use]
pub fn command(words: &[String]) -> Vec<String> {
    let mut command: Vec<String> = ["sh", "-c", SCRIPT, "sh"].map(str::to_owned).to_vec();
    command.extend_from_slice(words);
    command
}

/// The processes that were started so and still run, as the `/proc` of the caller's pid namespace names them. `cgroups` is where the node's `/sys/fs/cgroup`
/// is seen.
///
/// # Errors
/// If the list is there and cannot be read.
pub fn running(cgroups: &Path) -> io::Result<Vec<i32>> {
    let group: PathBuf = if cgroups.join("cgroup.controllers").exists() { cgroups.join(GROUP) } else { cgroups.join("freezer").join(GROUP) };
    match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_pass_through_unchanged() {
        let words = ["echo".to_owned(), "a b".into(), "$HOME".into(), "'\"".into()];
        let command = command(&words);
        assert_eq!(command[4..], words);
    }

    #[test]
    fn the_list_is_read_where_the_version_of_cgroups_has_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(running(root.path()).unwrap(), Vec::<i32>::new());
        fs::create_dir_all(root.path().join("freezer/godwit")).unwrap();
        fs::write(root.path().join("freezer/godwit/cgroup.procs"), "12\n0\n345\n").unwrap();
        assert_eq!(running(root.path()).unwrap(), [12, 345]);
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        assert_eq!(running(root.path()).unwrap(), Vec::<i32>::new());
    }
}
