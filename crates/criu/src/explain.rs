//! What CRIU's log means: one known line among its errors gives reason and remedy; otherwise the last error is told as it is.

pub mod table;

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

/// Most lines that are told of a log, and their bytes.
const RELEVANT: (usize, usize) = (40, 6 << 10);

/// What a log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// One CamelCase word.
    pub reason: &'static str,
    /// What it means; nothing when the message is not known.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// The line that says so, and its number (from 1).
    pub line: Option<(usize, String)>,
    /// Errors and warnings, and what stands just before the telling line: numbers and lines.
    pub relevant: Vec<(usize, String)>,
}

impl Reading {
    /// Whether the message stands in the table.
    #[must_use]
    pub fn known(&self) -> bool {
        !self.what.is_empty()
    }

    /// The relevant lines as one text.
    #[must_use]
    pub fn log(&self) -> String {
        self.relevant.iter().map(|(number, line)| format!("{number:>6}  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// Reads a log; `None` when it may be of a dump or of a restore.
#[must_use]
pub fn read(log: &str, which: Option<Which>) -> Reading {
    let lines = || log.lines().enumerate().filter(|(_, line)| !is_chat(line)).map(|(index, line)| (index, strip(line))).filter(|(_, line)| !line.is_empty());
    let fitting = table::KNOWN.iter().filter(|known| which.is_none() || known.which.is_none() || known.which == which);
    // The table is in order of precision, so the first entry that fits any line is the best.
    for known in fitting {
        if let Some((index, line)) = lines().find(|(_, line)| known.fits(line)) {
            return Reading {
                reason: known.reason,
                what: known.what,
                remedy: known.remedy,
                line: Some((index + 1, line.to_owned())),
                relevant: relevant(log, Some(index)),
            };
        }
    }
    let errors = || lines().filter(|(_, line)| line.contains("Error (") || line.contains("level=error") || line.starts_with("criu failed"));
    let telling = errors().filter(|(_, line)| !NOISE.iter().any(|noise| line.contains(noise))).last().or_else(|| errors().last());
    // Nothing but a killed process: the kernel had no memory for it. (After any other error CRIU kills all of them itself.)
    let killed = lines().find(|(_, line)| line.contains("killed by signal 9"));
    if let Some((index, line)) = killed.filter(|_| errors().all(|(_, line)| NOISE.iter().any(|noise| line.contains(noise)))) {
        return Reading {
            reason: table::KILLED.reason,
            what: table::KILLED.what,
            remedy: table::KILLED.remedy,
            line: Some((index + 1, line.to_owned())),
            relevant: relevant(log, Some(index)),
        };
    }
    let restore = which == Some(Which::Restore) || (which.is_none() && log.contains("Restoring FAILED"));
    let telling = telling.or_else(|| lines().last());
    Reading {
        reason: if restore { "RestoreFailed" } else { "DumpFailed" },
        what: "",
        remedy: match telling {
            Some(_) => "the whole log is with the agent of that node; report it if the message does not help",
            None => "look whether the node is out of memory or disk; the migration can be tried again",
        },
        line: telling.map(|(index, line)| (index + 1, line.to_owned())),
        relevant: relevant(log, telling.map(|(index, _)| index)),
    }
}

/// The meaning of a log.
#[must_use]
pub fn explain(log: &str, which: Which) -> Failure {
    let reading = read(log, Some(which));
    let message = match (&reading.line, reading.known()) {
        (Some((_, line)), true) => format!("{}: CRIU says '{}'", reading.what, short(line)),
        (Some((_, line)), false) => format!("CRIU says '{}'", short(line)),
        (None, _) => "CRIU ended without a word".to_owned(),
    };
    Failure { log: reading.log(), ..Failure::new(reading.reason, message, reading.remedy) }
}

/// Errors and warnings, the lines just before the telling one, and the last ones: in order, no more than is told.
fn relevant(log: &str, telling: Option<usize>) -> Vec<(usize, String)> {
    let all: Vec<&str> = log.lines().collect();
    let near = |index: usize| telling.is_some_and(|at| index <= at && at - index < 4) || all.len() - index <= 3;
    let loud = |line: &str| line.contains("Error (") || line.contains("Warn  (") || line.contains("level=error") || line.contains("level=warn");
    let wanted = all.iter().enumerate().filter(|(index, line)| !line.trim().is_empty() && (near(*index) || loud(line)));
    let mut found: Vec<(usize, String)> = wanted.map(|(index, line)| (index + 1, cut(line.trim_end(), 400).to_owned())).collect();
    // Of too many, those at the telling line and the end say most.
    while found.len() > RELEVANT.0 || found.iter().map(|(_, line)| line.len() + 9).sum::<usize>() > RELEVANT.1 {
        let dull = found.iter().position(|(number, _)| !near(number - 1)).unwrap_or(0);
        found.remove(dull);
    }
    found
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
    cut(text, 300).trim_end()
}

/// At most so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=text.len().min(bytes)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
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
            ("(00.023130) Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 3a2b1c", "UnsupportedProtocol"),
            ("(00.023130) Error (criu/sk-inet.c:504): inet: Can't dump corked dgram socket 3a2b1c", "DataInFlight"),
            ("(00.023130) Error (criu/sk-queue.c:144): Control messages in queue, not supported", "DataInFlight"),
            ("(00.011) Error (compel/src/lib/ptrace.c:27): suspending seccomp failed: Operation not permitted", "SeccompUnsupported"),
            ("(00.011) Error (compel/src/lib/ptrace.c:27): suspending seccomp failed: Invalid argument", "SeccompUnsupported"),
            ("(00.052) Error (compel/src/lib/infect.c:1): Unable to connect a transport socket: Permission denied", "SecurityModule"),
            ("(00.031) Error (criu/files-ext.c:94): Can't dump file 7 of that type [20666] (chr 195:255 /dev/nvidiactl)", "DeviceFile"),
            ("(00.031) Error (criu/files-ext.c:94): Can't dump file 7 of that type [20666] (chr 10:232 /dev/kvm)", "DeviceFile"),
            ("(00.031) Error (criu/files-reg.c:1796): Open files on overmounted mounts are not supported yet; mount=71 fd=3 path=/x", "HiddenMount"),
            ("(00.031) Error (criu/mount.c:4048): mnt: Nested mount namespaces are not supported without userns", "NestedNamespace"),
            ("(00.031) Error (criu/seize.c:882): Zombies with threads are not supported", "ZombieWithChildren"),
            ("(00.031) Error (criu/proc_parse.c:614): PID 12 has uprobes vma. Consider using --allow-uprobes.", "Traced"),
            ("(00.031) Error (criu/proc_parse.c:760): Unsupported mapping found 00007f0000000000-00007f0000001000", "UnsupportedMapping"),
            ("(00.031) Error (criu/shmem.c:282): Sysv shmem 4 with tail hole not supported", "SysvSegment"),
            ("(00.031) Error (criu/namespaces.c:1117): Can't dump a pid namespace without the process init", "SharedPidNamespace"),
            ("(00.031) Error (criu/sk-netlink.c:218): netlink: Groups above 32 are not supported yet", "NetlinkSocket"),
            ("sh: 1: iptables: not found", "NetworkLock"),
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
            ("(00.028422)     10: Error (criu/files-reg.c:2294): File . has bad mode 040555 (expect 040755)", "RootModeDiffers"),
            ("(00.022816)      1: Error (criu/unix.c:1): unix: Can't bind id 0x14 ino 3599401 addr /run/x/sock: No such file or directory", "UnixSocketPath"),
            ("(00.019110)     17: Error (criu/sk-inet.c:1100): inet: Can't connect inet socket back: Network is unreachable", "AddressMissing"),
            (
                "(00.014250)      1: Error (criu/sk-inet.c:930): inet: Can't create inet socket: Address family not supported by protocol",
                "AddressFamilyMissing",
            ),
            ("(00.016022)      9: Error (soccr/soccr.c:144): Can't turn TCP repair mode ON: Operation not permitted", "CapabilityMissing"),
            ("(00.015803)      1: Error (criu/mount-v2.c:412): mnt-v2: Can't bind-mount at /tmp/cr-tmpfs.x/mnt: Not a directory", "MountKindDiffers"),
            ("(00.042119)      1: Error (criu/mount.c:2345): mnt: Can't mount at ./sys/fs/cgroup: Operation not permitted", "MountRefused"),
            ("(00.042119)      1: Error (criu/mount.c:2345): mnt: Can't mount at ./mnt: No such device", "MountRefused"),
            ("(00.000301) Error (criu/image.c:89): Not supported images version 7", "ImagesVersion"),
            ("(00.001020) Error (criu/image.c:584): Magic doesn't match for core-1.img", "ImagesDamaged"),
            ("(00.001020) Error (criu/protobuf.c:72): Unexpected EOF on core-1.img", "ImagesDamaged"),
            ("(00.001020) Error (criu/protobuf.c:107): Failed unpacking object 0x7ffd from mm-1.img", "ImagesDamaged"),
            ("(00.000400) Error (criu/lsm.c:413): selinux LSM specified but selinux not supported by kernel", "SecurityModuleDiffers"),
            ("Error (criu/tty.c:399): Found slave peer index without correspond master", "Terminal"),
            (
                "(00.021000)      1: Error (criu/mem.c:1201): Can't restore high memory region 7fffffffe000-ff00000000000 because kernel does only support vmas up to 7ffffffff000",
                "CpuFeatures",
            ),
            ("(00.100200) Error (criu/cr-restore.c:1480): 28 killed by signal 31: Bad system call", "SeccompKilled"),
            ("(00.000600) Error (criu/vdso.c:304): vdso: Kdat sizes of vdso/vvar differ to maps file", "CriuTooOld"),
            ("(00.030000) Error (criu/uffd.c:120): uffd: Unable to open an userfaultfd descriptor: Operation not permitted", "UserfaultMissing"),
            ("failed to read \"io.kubernetes.cri-o.Annotations\": unexpected end of JSON input", "LayoutDiffers"),
            ("failed to pull checkpoint base image docker.io/library/x:1: not found", "BaseImageMissing"),
            (
                "namespaced signature policy /etc/containers/policies/ns.json defined for pods in namespace ns; signature validation is not supported for container restore",
                "SignaturePolicy",
            ),
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
    fn a_process_that_is_killed_and_nothing_else_had_no_memory() {
        let killed = "(01.328117) Error (cr-restore.c:978): 3127 killed by signal 9: Killed\n(01.344246) Error (cr-restore.c:1840): Restoring FAILED.\n";
        assert_eq!(explain(killed, Which::Restore).reason, "NoMemory");
        let after = format!("(01.3) Error (criu/x.c:1): The moon is full\n{killed}");
        assert_eq!(explain(&after, Which::Restore).reason, "RestoreFailed");
    }

    #[test]
    fn an_unknown_error_is_told_as_it_is() {
        let log = "(00.010) Error (criu/x.c:1): The moon is full\n(00.012) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let failure = explain(log, Which::Dump);
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), ("DumpFailed", "CRIU says 'The moon is full'"));
    }

    #[test]
    fn the_relevant_lines_are_few_and_tell_where() {
        let mut log: String = (0..5000).map(|number| format!("(00.{number:06}) chat {number}\n(00.1) Warn  (criu/x.c:1): dull {number}\n")).collect();
        log.push_str("(00.9) 7: Error (criu/sk-unix.c:883): unix: Dangling connection 1234\n(00.9) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
        let reading = read(&log, None);
        assert_eq!((reading.reason, reading.known(), reading.line.as_ref().map(|line| line.0)), ("UnixSocketOutside", true, Some(10_001)));
        assert!(reading.relevant.len() <= 40 && reading.log().len() <= 8 << 10 && reading.log().contains("10001  (00.9) 7: Error"), "{}", reading.log());
        let failure = explain(&log, Which::Dump);
        assert!(failure.log.contains("Dangling connection") && failure.log.contains("Dumping FAILED"));
    }

    #[test]
    fn every_entry_is_found_by_its_own_message() {
        for known in table::KNOWN {
            let log = format!("(00.1) Error (criu/x.c:1): {}\n", known.parts.join(" … "));
            let reading = read(&log, known.which);
            let earlier = table::KNOWN.iter().find(|other| other.reason == reading.reason && other.what == reading.what);
            assert!(reading.known() && earlier.is_some(), "{:?} is read as {reading:?}", known.parts);
        }
    }

    #[test]
    fn no_log_is_no_panic() {
        assert_eq!(explain("", Which::Restore).reason, "RestoreFailed");
        assert_eq!(explain("ü\u{0}", Which::Restore).reason, "RestoreFailed");
    }
}
