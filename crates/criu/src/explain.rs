//! What CRIU's log means: one known line among its errors gives reason and remedy; otherwise the last error is told as it is.

mod table;

use crate::Failure;

/// Which log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `dump.log`.
    Dump,
    /// `restore.log`, or what `runc restore` said.
    Restore,
}

/// Errors that CRIU prints although nothing is wrong, or that only follow another one.
const NOISE: [&str; 14] = [
    "rlimit: RLIMIT_NOFILE",
    "Can't setup RLIMIT",
    "rlimit: Can't",
    "Dumping FAILED",
    "Restoring FAILED",
    "Pre-dumping FAILED",
    "killed by signal 9",
    "exited, status",
    "Dump files (pid",
    "cgroupd: recv req error",
    "irmap: Can't dump",
    "Can't set rlimit",
    "Unable to set memory",
    "Failed to open parent directory",
];

/// The meaning of a log.
#[must_use]
pub fn explain(log: &str, which: Which) -> Failure {
    let lines = || log.lines().filter(|line| !is_chat(line)).map(strip).filter(|line| !line.is_empty());
    let known = table::KNOWN.iter().filter(|known| known.which.is_none_or(|only| only == which));
    // The table is in order of precision, so the first entry that fits any line is the best.
    for known in known {
        if let Some(line) = lines().find(|line| known.fits(line)) {
            return Failure::new(known.reason, format!("{}: CRIU says '{}'", known.what, short(line)), known.remedy);
        }
    }
    let errors = || lines().filter(|line| line.contains("Error (") || line.contains("level=error") || line.starts_with("criu failed"));
    let telling = errors().rfind(|line| !NOISE.iter().any(|noise| line.contains(noise))).or_else(|| errors().next_back());
    let reason = match which {
        Which::Dump => "DumpFailed",
        Which::Restore => "RestoreFailed",
    };
    match telling.or_else(|| lines().next_back()) {
        Some(line) => {
            Failure::new(reason, format!("CRIU says '{}'", short(line)), "the whole log is with the agent of that node; report it if the message does not help")
        }
        None => Failure::new(reason, "CRIU ended without a word", "look whether the node is out of memory or disk; the migration can be tried again"),
    }
}

/// A line that says nothing by itself: CRIU's information, and what runc quotes of it.
fn is_chat(line: &str) -> bool {
    const TELLING: [&str; 4] = ["Error (", "Warn  (", "Preadv", "iptables-restore"];
    let line = line.trim_start();
    (line.starts_with('(') && !TELLING.iter().any(|part| line.contains(part))) || (line.starts_with("time=") && !line.contains("level=error"))
}

/// Without CRIU's time stamp and the pid (`(00.014043)     12: Error …`).
fn strip(line: &str) -> &str {
    let line = line.trim();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let line = line.strip_prefix('(').and_then(|rest| rest.split_once(')')).filter(|(stamp, _)| digits(stamp)).map_or(line, |(_, rest)| rest.trim_start());
    line.split_once(':').filter(|(pid, _)| !pid.is_empty() && digits(pid)).map_or(line, |(_, rest)| rest.trim_start())
}

/// Without the place in the source, at most 300 bytes.
fn short(line: &str) -> &str {
    let text = line.strip_prefix("Error (").and_then(|rest| rest.split_once("): ")).map_or(line, |(_, text)| text);
    let end = (0..=text.len().min(300)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_error_wins_over_what_follows_it() {
        let log = "(00.010) Error (criu/sk-inet.c:209): inet: Connected TCP socket, consider using --tcp-established option.\n\
                   (00.011) Error (criu/cr-dump.c:1635): Dump files (pid: 12) failed with -1\n(00.012) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let failure = explain(log, Which::Dump);
        assert_eq!(failure.reason, "EstablishedConnection");
        assert!(failure.message.contains("Connected TCP socket"), "{}", failure.message);
    }

    #[test]
    fn what_was_seen_is_recognised() {
        let dumps = [
            ("(00.034752) Error (criu/pipes.c:490): The packetized mode for pipes is not supported yet", "PacketPipe"),
            ("(00.021275) Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle", "Inotify"),
            ("(00.017321) Error (criu/files-reg.c:1790): Can't lookup mount=1131 for fd=4 path=/queue", "FileOutside"),
            ("(00.1) Error (criu/sk-unix.c:883): unix: Dangling connection 1234", "UnixSocketOutside"),
            ("(00.1) Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (unknown anon_inode:[io_uring])", "IoUring"),
            ("(00.1) Error (criu/files.c:9): Unknown shit 600 (anon_inode:[io_uring])", "IoUring"),
            ("(00.1) Error (criu/files.c:9): Unknown shit 600 (anon_inode:[new])", "UnsupportedFile"),
            ("(00.1) Error (criu/files-reg.c:1): Can't dump ghost file /data/x of 2147483648 size, increase limit", "UnlinkedFileTooLarge"),
            ("(00.1) Error (criu/files-reg.c:1): Can't create link remap for /root/name. Use link-remap option.", "UnlinkedFile"),
            ("(00.1) Error (criu/sk-inet.c:1): inet: In-flight connection (l) for 8", "HandshakeInFlight"),
            ("(00.1) Error (criu/seize.c:1): Unseizable non-zombie 12 found, state D, err -1/3", "UninterruptibleTask"),
            ("(00.1) Error (criu/parasite-syscall.c:1): Can't get rlimit 0: Operation not permitted", "CapabilityMissing"),
            ("(00.1) Error (criu/parasite-syscall.c:1): Unable to connect a transport socket: Operation not permitted", "Landlock"),
            ("(00.1) Error (criu/namespaces.c:475): Can't dump nested uts namespace for 12", "NestedNamespace"),
            ("(00.1) Error (criu/mount.c:1): mnt: 121:./mnt doesn't have a proper root mount", "UnknownMount"),
        ];
        let restores = [
            ("(00.1)      7: Error (criu/sk-inet.c:1032): inet: Can't bind inet socket back: Cannot assign requested address", "AddressMissing"),
            ("(00.1)      7: Error (criu/sk-inet.c:1): inet: Can't bind inet socket (id 12): Cannot assign requested address", "AddressMissing"),
            ("(00.1)      1: Error (criu/sk-inet.c:1): Need to set the --tcp-close options.", "ConnectionModeDiffers"),
            ("(00.1)      1: Error (criu/files-reg.c:1): File data/db.bin has bad size 200 (expect 160)", "FileChanged"),
            ("(00.1)      1: Error (criu/files-reg.c:1): Can't open file scratch/x on restore: No such file or directory", "FileMissing"),
            ("(00.1)      1: Error (criu/files-reg.c:1): Can't open file dev/shm/lab on restore: No such file or directory", "FileMissing"),
            ("(00.1)      1: Error (criu/tty.c:1): tty: Don't have tty to inherit session from, aborting", "Terminal"),
            ("(00.1)      1: Error (criu/mount.c:1): mnt: No mapping for 177:(null) mountpoint", "MountMissing"),
            ("(00.1) Error (criu/cgroup.c:1): cg: Restoring cpuset.cpus special property failed", "CgroupController"),
            ("(00.1) Error (criu/cgroup.c:1): cg: Can't mount controller dir .criu.cgyard.x/cpu: Invalid argument", "CgroupVersionDiffers"),
            ("(00.1) Error (criu/pagemap.c:1): Preadv 4096 0 returned 0", "ImagesDamaged"),
            ("(00.1) Error (criu/cr-restore.c:1): 12 killed by signal 11: Segmentation fault", "TaskCrashed"),
            ("(00.1) Error (soccr/soccr.c:750): Unable to set window parameters: Invalid argument", "HandshakeInFlight"),
            ("criu is missing features: [MemTrack]", "CriuFeature"),
            ("restoring \"x\" expects following bind mounts defined (/data)", "MountMissing"),
        ];
        for (line, reason) in dumps {
            assert_eq!(explain(line, Which::Dump).reason, reason, "{line}");
        }
        for (line, reason) in restores {
            assert_eq!(explain(line, Which::Restore).reason, reason, "{line}");
        }
    }

    #[test]
    fn an_unknown_error_is_told_as_it_is() {
        let log = "(00.010) Error (criu/x.c:1): The moon is full\n(00.012) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let failure = explain(log, Which::Dump);
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), ("DumpFailed", "CRIU says 'The moon is full'"));
    }

    #[test]
    fn no_log_is_no_panic() {
        assert_eq!(explain("", Which::Restore).reason, "RestoreFailed");
        assert_eq!(explain("ü\u{0}", Which::Restore).reason, "RestoreFailed");
    }
}
