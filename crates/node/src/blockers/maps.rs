//! What concerns memory mappings: `/proc/PID/maps`.

use std::fs;
use std::path::{Path, PathBuf};

use super::collect::{Collector, who};
use super::{fds, projected};
use crate::cri::Container;
use crate::process::{Process, directory};

pub(super) fn inspect(container: &Container, process: &Process, projected: &[PathBuf], found: &mut Collector) {
    let maps = fs::read_to_string(directory(process.pid).join("maps")).unwrap_or_default();
    let mut names: Vec<&str> = maps.lines().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let path = Path::new(name.strip_suffix(" (deleted)").unwrap_or(name));
        if let Some(object) = name.strip_prefix("anon_inode:") {
            // The descriptor may be closed while the mapping lives on.
            let (reason, remedy) = if object.contains("io_uring") {
                ("IoUring", "CRIU cannot dump io_uring. Switch it off in the application, or start the pod with the seccomp profile RuntimeDefault.")
            } else {
                ("UnsupportedMapping", "CRIU cannot dump mappings of this kind of kernel object. Start the application without the feature that uses it.")
            };
            found.block_process(reason, container, process, format!("it has {object} mapped"), remedy);
        } else if name == "[uprobes]" {
            found.block_process(
                "UprobesAttached",
                container,
                process,
                "it is being probed by uprobes",
                "Detach the tracer or profiler (perf, bpftrace, an eBPF agent) from this process.",
            );
        } else if path.starts_with("/secretmem") {
            fds::secret(container, process, "a mapping", found);
        } else if path.starts_with("/anon_hugepage") {
            found.warn(format!("{} uses huge pages; the target node needs as many free ones", who(container, process)));
        } else if path.starts_with("/dev") && path != Path::new("/dev/zero") && !path.starts_with("/dev/shm") {
            found.block_process(
                "DeviceOpen",
                container,
                process,
                format!("it has the device {} mapped", path.display()),
                "Devices stay with their node. Run the application without it (GPU, RDMA and the like).",
            );
        } else if projected::is_in(projected, path) {
            fds::in_projected(container, process, &format!("it has {} mapped", path.display()), found);
        }
    }
}

/// `start-end perms offset device inode   name`.
fn name(line: &str) -> Option<&str> {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_start().split_once(' ')?.1;
    }
    Some(rest.trim_start()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        assert_eq!(name("7f00-7f01 rw-s 00000000 00:0e 12   anon_inode:[io_uring]"), Some("anon_inode:[io_uring]"));
        assert_eq!(name("7f00-7f01 rw-p 00000000 08:01 12                         /data/a b (deleted)"), Some("/data/a b (deleted)"));
        assert_eq!(name("7f00-7f01 rw-p 00000000 00:00 0 "), None);
    }
}
