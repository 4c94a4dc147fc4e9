//! CRIU's messages as they were seen, each with its cause and the way out. In order of precision: the first that fits a line is taken.

use super::Which;

/// A message of CRIU's.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Which log has it; both if none.
    pub which: Option<Which>,
    /// All of these stand in one line.
    pub parts: &'static [&'static str],
    /// One CamelCase word.
    pub reason: &'static str,
    /// What it means.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl Known {
    /// Whether a line of a log is this message.
    #[must_use]
    pub fn fits(&self, line: &str) -> bool {
        self.parts.iter().all(|part| line.contains(part))
    }
}

const DUMP: Option<Which> = Some(Which::Dump);
const RESTORE: Option<Which> = Some(Which::Restore);

const fn known(which: Option<Which>, parts: &'static [&'static str], reason: &'static str, what: &'static str, remedy: &'static str) -> Known {
    Known { which, parts, reason, what, remedy }
}

/// All of them.
pub const KNOWN: &[Known] = &[
    // Sockets.
    known(
        DUMP,
        &["Connected TCP socket, consider using --tcp-established"],
        "EstablishedConnection",
        "an established TCP connection was not to be kept",
        "close the connection, or let Godwit keep connections",
    ),
    known(
        RESTORE,
        &["Need to set the --tcp-close"],
        "ConnectionModeDiffers",
        "the images were dumped with closed connections",
        "restore them with the same network mode",
    ),
    known(
        RESTORE,
        &["Can't bind inet socket back"],
        "AddressMissing",
        "a connection's own address is not on the target",
        "the old pod's address must be in the new pod's network namespace during the restore; see the log of the target's agent",
    ),
    known(
        RESTORE,
        &["Can't bind inet socket (id"],
        "AddressMissing",
        "a socket is bound to an address that the target does not have",
        "let the program listen on 0.0.0.0 or [::], not on the pod's own address",
    ),
    known(DUMP, &["In-flight connection"], "HandshakeInFlight", "a TCP handshake had not ended", "try again"),
    known(
        DUMP,
        &["unix: Dangling connection"],
        "UnixSocketOutside",
        "a unix socket is connected to a process outside the container",
        "close the connection (a socket of the node or of another container), or move the pod while it is closed",
    ),
    known(
        DUMP,
        &["unix: Can't dump half of stream unix connection"],
        "UnixSocketOutside",
        "a unix socket is connected to a process outside the container",
        "close the connection (a socket of the node or of another container), or move the pod while it is closed",
    ),
    known(
        DUMP,
        &["unix: External socket is used"],
        "UnixSocketOutside",
        "a unix socket is connected to a process outside the container",
        "close the connection (a socket of the node or of another container), or move the pod while it is closed",
    ),
    known(
        DUMP,
        &["Unable to connect a transport socket", "Operation not permitted"],
        "Landlock",
        "a process confined itself with Landlock so that CRIU's helper cannot talk to it",
        "start the program without Landlock's scope for abstract sockets",
    ),
    known(DUMP, &["Can't dump netlink socket"], "NetlinkSocket", "a netlink socket is in use", "restart the program after the move instead"),
    known(RESTORE, &["Unable to set window parameters"], "HandshakeInFlight", "a TCP handshake had not ended: its server has not accepted it", "try again"),
    // Files.
    known(
        DUMP,
        &["Can't dump ghost file", "increase limit"],
        "UnlinkedFileTooLarge",
        "a deleted file that is still open is larger than 1 GiB",
        "close it, or truncate it",
    ),
    known(
        DUMP,
        &["io_uring"],
        "IoUring",
        "a process uses io_uring, which CRIU cannot save",
        "give the pod the RuntimeDefault seccomp profile (it blocks io_uring from the start and programs fall back), or switch io_uring off in the program",
    ),
    known(DUMP, &["Unknown shit"], "UnsupportedFile", "a process holds a kind of file descriptor that CRIU cannot save", "close it; the message names it"),
    known(
        DUMP,
        &["fsnotify:", "Can't dump that handle"],
        "Inotify",
        "a process watches a file or directory with inotify or fanotify",
        "switch file watching off in the program",
    ),
    known(DUMP, &["fsnotify: Handle"], "Inotify", "a process watches a file or directory with inotify or fanotify", "switch file watching off in the program"),
    known(DUMP, &["packetized mode for pipes is not supported"], "PacketPipe", "a pipe was opened with O_DIRECT", "the program must use plain pipes"),
    known(
        DUMP,
        &["Can't lookup mount="],
        "FileOutside",
        "a process holds a file that is on none of the container's mounts: a POSIX message queue, or a file of a volume that was replaced",
        "close it before the move",
    ),
    known(
        DUMP,
        &["Can't create link remap"],
        "UnlinkedFile",
        "a deleted file is open that has another name, on a file system where it cannot be linked back",
        "close it",
    ),
    known(RESTORE, &["link_remap", "No such file"], "UnlinkedFile", "a deleted file was open that has another name", "close it before the move"),
    known(
        RESTORE,
        &["has bad size"],
        "FileChanged",
        "an open file is not what it was at the source",
        "files on shared volumes must not be written by others during the move; try again",
    ),
    known(
        RESTORE,
        &["has bad mode"],
        "FileChanged",
        "an open file is not what it was at the source",
        "files on shared volumes must not be changed by others during the move; try again",
    ),
    known(
        RESTORE,
        &["has bad build-ID"],
        "FileChanged",
        "a program or library at the target is not the one of the source",
        "both nodes must have the same image; pin it by digest",
    ),
    known(RESTORE, &["Can't open file dev/shm"], "FileMissing", "shared memory of the pod is not at the target", "report it: Godwit copies /dev/shm"),
    known(
        RESTORE,
        &["Can't open file", "on restore"],
        "FileMissing",
        "an open file is not at the target",
        "its volume must be shared by both nodes or be one that Godwit copies (emptyDir, /dev/shm, the container's own files)",
    ),
    known(None, &["Pid", "is blocking a lock"], "FileLock", "a file lock is held across the container's border", "release it before the move"),
    known(DUMP, &["Some file locks are hold by dumping tasks"], "FileLock", "a file lock is held across the container's border", "release it before the move"),
    known(DUMP, &["locks: Can't lock"], "FileLock", "a file lock is held across the container's border", "release it before the move"),
    // Terminals.
    known(RESTORE, &["tty: Don't have tty to inherit session from"], "Terminal", "the container has a terminal (tty: true)", "move it without a terminal"),
    known(
        None,
        &["tty: Found dangling tty"],
        "Terminal",
        "a process has a terminal from outside the container, e.g. of kubectl exec -t",
        "end that session before the move",
    ),
    // Processes.
    known(
        DUMP,
        &["Unseizable non-zombie"],
        "UninterruptibleTask",
        "a task does not stop: it sleeps uninterruptibly, is in a vfork, or is traced by a debugger",
        "try again; detach debuggers",
    ),
    known(
        DUMP,
        &["Timeout reached"],
        "UninterruptibleTask",
        "the processes could not be stopped in time",
        "try again; continue stopped jobs and detach debuggers",
    ),
    known(
        DUMP,
        &["Unable to freeze cgroup"],
        "UninterruptibleTask",
        "the container's cgroup could not be frozen",
        "try again; a task sleeps uninterruptibly, e.g. on a network file system that does not answer",
    ),
    known(DUMP, &["Zombie with children"], "ZombieWithChildren", "a process died whose threads or children are still there", "try again"),
    known(DUMP, &["Individually stopped threads"], "StoppedThread", "a single thread of a process is stopped", "continue it"),
    known(
        DUMP,
        &["Can't dump nested", "namespace"],
        "NestedNamespace",
        "a process made a namespace of its own inside the container (a container or a browser's sandbox in the container)",
        "switch that off in the program",
    ),
    known(
        DUMP,
        &["A session leader of", "is outside of its pid namespace"],
        "SessionOutside",
        "a process belongs to a session from outside the container (nsenter or kubectl debug)",
        "end it before the move",
    ),
    known(
        DUMP,
        &["Can't get rlimit", "Operation not permitted"],
        "CapabilityMissing",
        "the node's root may not read limits of other users' processes",
        "the node needs CAP_SYS_RESOURCE (it lacks it inside some sandboxes)",
    ),
    known(
        DUMP,
        &["Can't seize task", "Operation not permitted"],
        "PtraceDenied",
        "CRIU may not trace a process",
        "detach debuggers; look at kernel.yama.ptrace_scope and the node's security modules",
    ),
    known(
        DUMP,
        &["ptrace", "Operation not permitted"],
        "PtraceDenied",
        "CRIU may not trace a process",
        "detach debuggers; look at kernel.yama.ptrace_scope and the node's security modules",
    ),
    // Mounts.
    known(DUMP, &["doesn't have a proper root mount"], "UnknownMount", "a mount was made inside the container that is not one of its volumes", "unmount it"),
    known(
        DUMP,
        &["FS mnt", "unsupported id"],
        "UnknownMount",
        "a mount inside the container is of a kind that CRIU cannot make again",
        "unmount it, or make it a volume of the pod",
    ),
    known(DUMP, &["isn't empty"], "UnknownMount", "a file system mounted inside the container cannot be saved", "unmount it"),
    known(None, &["has unreachable sharing"], "MountPropagation", "a mount receives mounts from the node", "use volumes without mountPropagation"),
    known(
        None,
        &["No mapping for", "mountpoint"],
        "MountMissing",
        "a mount of the source has no counterpart at the target",
        "give the target pod the same volumes",
    ),
    known(
        RESTORE,
        &["Can't mount controller dir"],
        "CgroupVersionDiffers",
        "source and target have different versions of cgroups",
        "choose a target with the same cgroup version",
    ),
    known(
        RESTORE,
        &["cg: Restoring", "special property failed"],
        "CgroupController",
        "a cgroup controller is not delegated at the target",
        "Godwit restores with manage-cgroups=ignore: the node's CRIU configuration overrides it; remove that",
    ),
    known(
        RESTORE,
        &["Can't move into", "cgroup.procs"],
        "CgroupMissing",
        "the container's cgroup is not at the target",
        "report it; Godwit restores with manage-cgroups=ignore",
    ),
    known(
        RESTORE,
        &["expects following bind mounts defined"],
        "MountMissing",
        "a mount of the source has no counterpart at the target",
        "give the target pod the same container paths",
    ),
    // The node.
    known(RESTORE, &["Preadv", "returned 0"], "ImagesDamaged", "the memory images end too early", "nothing has run from them; migrate again"),
    known(RESTORE, &["Can't map page"], "ImagesDamaged", "the memory images end too early", "nothing has run from them; migrate again"),
    known(
        RESTORE,
        &["killed by signal 11"],
        "TaskCrashed",
        "a process crashed while it was made again: CRIU is too old for this kernel or C library",
        "the nodes need CRIU 4.1 or newer",
    ),
    known(None, &["No space left on device"], "NoSpace", "the node's memory file system or disk is full", "make room under /run/godwit on that node"),
    known(
        None,
        &["Cannot allocate memory"],
        "NoMemory",
        "the node has not enough memory",
        "choose a target with more free memory; a limit of the pod below what it uses has the same effect",
    ),
    known(
        RESTORE,
        &["Pid", "do not match expected"],
        "PidTaken",
        "a process id was taken at the target",
        "report it; every container has a pid namespace of its own",
    ),
    known(
        RESTORE,
        &["Can't fork for", "File exists"],
        "PidTaken",
        "a process id was taken at the target",
        "a pod with shareProcessNamespace cannot be moved yet",
    ),
    known(
        RESTORE,
        &["CPU instruction capabilities do not match"],
        "CpuFeatures",
        "the target's processor lacks what the source's has",
        "choose a target with the same processor, or start the program with GLIBC_TUNABLES that masks the features",
    ),
    known(
        RESTORE,
        &["cpu:", "mismatch"],
        "CpuFeatures",
        "the target's processor lacks what the source's has",
        "choose a target with the same processor, or start the program with GLIBC_TUNABLES that masks the features",
    ),
    known(None, &["criu is missing features"], "CriuFeature", "the node's kernel or CRIU lacks a feature", "use the stop-and-copy strategy"),
    known(None, &["executable file not found", "criu"], "CriuMissing", "the node has no CRIU", "install CRIU 4.1 or newer on it"),
    known(
        None,
        &["libnftables", "error"],
        "NetworkLock",
        "CRIU tried to lock the network itself",
        "the node's CRIU configuration overrides network-lock; remove that",
    ),
    known(
        None,
        &["iptables-restore"],
        "NetworkLock",
        "CRIU tried to lock the network itself",
        "the node's CRIU configuration overrides network-lock; remove that",
    ),
    known(
        RESTORE,
        &["container's cgroup is not empty"],
        "CgroupBusy",
        "something runs in the target container's cgroup already",
        "the migration is tried again by itself; if it stays, delete the target pod",
    ),
    known(RESTORE, &["requires exactly"], "RuntimeTooOld", "the node's runc does not know an option of its restore", "the nodes need runc 1.2 or newer"),
];
