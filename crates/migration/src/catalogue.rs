//! The failure matrix: every reason word that Godwit writes, with its cause and the way out in plain words.
//!
//! What a migration wrote down (message, remedy) is about one pod; this is about the reason itself: `kubectl migrate explain` and docs/failures.md tell it.
//! What CRIU says is not here but in `godwit_criu::explain`, whose messages lead to reasons of their own.

/// When a reason is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// At planning: nothing was touched.
    Planning,
    /// The target pod is made: nothing of the source was touched.
    Preparing,
    /// In the switch: the pod is taken back and runs at the source as before.
    Switching,
    /// With a checkpoint: the pod that it is made of runs on, a new pod that was made of it is removed.
    Keeping,
}

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The word.
    pub reason: &'static str,
    /// When it is met first.
    pub when: When,
    /// Why it comes about.
    pub cause: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

const fn plan(reason: &'static str, cause: &'static str, remedy: &'static str) -> Entry {
    Entry { reason, when: When::Planning, cause, remedy }
}

const fn prepare(reason: &'static str, cause: &'static str, remedy: &'static str) -> Entry {
    Entry { reason, when: When::Preparing, cause, remedy }
}

const fn switch(reason: &'static str, cause: &'static str, remedy: &'static str) -> Entry {
    Entry { reason, when: When::Switching, cause, remedy }
}

const fn keep(reason: &'static str, cause: &'static str, remedy: &'static str) -> Entry {
    Entry { reason, when: When::Keeping, cause, remedy }
}

const LATER: &str = "Try again; nothing was touched.";

/// All of them, by when they are met and then by name.
pub const ENTRIES: &[Entry] = &[
    plan(
        "AgentRefused",
        "A node's agent refused a call without saying why in Godwit's words.",
        "Look at its log; controller and agents must be of one version.",
    ),
    plan(
        "AgentUnreachable",
        "A node's agent does not answer: its pod does not run, or the controller cannot reach TCP port 7410 of the node.",
        "Look at the agent's pod on that node and at firewalls between the nodes; `kubectl migrate doctor` tells which.",
    ),
    plan("AgentVersionDiffers", "The agents of the two nodes are of different versions.", "Wait until the roll-out of the agents has ended."),
    plan("AlreadyMigrating", "Another migration of the same pod is under way.", "Wait for it, or cancel it."),
    plan(
        "ArchitectureDiffers",
        "The nodes have processors of different kinds; machine code of one does not run on the other.",
        "Choose a node of the same architecture.",
    ),
    plan("BlockVolume", "A container uses a volume as a raw block device, which only one node can have.", "Use a file system on a shared volume."),
    plan(
        "BoundToPodAddress",
        "A program listens on the pod's own address; the target pod has another one, and the socket could not be bound there.",
        "Let it listen on 0.0.0.0 or [::].",
    ),
    plan("CgroupUnknown", "The cgroup of a container cannot be told; it may just have ended.", LATER),
    plan("CgroupUnusable", "A cgroup's files cannot be read or written.", "See that the agent may write to the node's cgroup mount."),
    plan(
        "CgroupVersionDiffers",
        "One node uses cgroup v1, the other v2; a container's view of /sys/fs/cgroup cannot change under it.",
        "Choose a node with the same cgroup version.",
    ),
    plan("ContainerRuntimeFailed", "containerd or CRI-O did not answer a question about the pod.", "Look into its log on that node."),
    plan(
        "ContainerRuntimeUnknown",
        "This version of the container runtime describes its containers in an unknown way.",
        "Report it with the runtime's version.",
    ),
    plan(
        "CpuFeaturesMissing",
        "The target's processor lacks instructions that the pod may use: it has chosen its code when it started, and would end with SIGILL.",
        "Choose a node with the same or a newer processor. A pod started with GLIBC_TUNABLES that masks the features is portable.",
    ),
    plan("CriuMissing", "A node has no CRIU.", "Install CRIU 4.1 or newer on it."),
    plan(
        "CriuOptionRefused",
        "The pod's annotation criu.godwit.dev/options asks CRIU for something that no pod may ask for, or gives it no sound value.",
        "Use only what docs/engines.md lists under “CRIU options of a pod”; or make the pod without the annotation.",
    ),
    plan("CriuTooOld", "A node's CRIU is older than 4.1.", "Install CRIU 4.1 or newer on it."),
    plan(
        "DeviceInUse",
        "A container uses a device (GPU, FPGA, SR-IOV, …), whose state cannot be taken out.",
        "Move the work, not the pod: start a new one and drain this one.",
    ),
    plan("DeviceOpen", "A process has a device open or mapped (GPU, FUSE, TUN, KVM, RDMA, …), which stays with its node.", "Run the program without it."),
    plan("EtcHostsMount", "A volume is mounted over /etc/hosts, which belongs to the kubelet.", "Use hostAliases in the pod's spec."),
    plan(
        "FileWatch",
        "A process watches files with inotify or fanotify; the watches name files by handles that the target does not have.",
        "Switch file watching off in the program.",
    ),
    plan(
        "ForeignFile",
        "A process holds a file open that lies on none of the container's mounts.",
        "Close it before the move (it often comes from kubectl debug or nsenter).",
    ),
    plan(
        "GuardRegions",
        "The pod's processes have guard regions (madvise with MADV_GUARD_INSTALL; new C libraries make one for each thread), and the target's kernel is older than they are.",
        "Choose a node with Linux 6.13 or newer.",
    ),
    plan("HostIpc", "The pod uses its node's IPC namespace.", "Run it without hostIPC."),
    plan("HostNetwork", "The pod uses its node's network.", "Run it without hostNetwork; what is bound to a node cannot move."),
    plan("HostPath", "A volume is a directory of the node.", "Use a shared volume (ReadWriteMany)."),
    plan("HostPid", "The pod sees its node's processes.", "Run it without hostPID."),
    plan(
        "IoUring",
        "A process uses io_uring, which CRIU cannot save.",
        "Start the pod with the seccomp profile RuntimeDefault (it blocks io_uring from the start and programs fall back), or switch it off in the program.",
    ),
    plan(
        "LinkLocalAddress",
        "A socket uses a link-local address of IPv6, which is valid only on the wire that the pod leaves.",
        "Let the program use another address, or move the pod when that socket is closed.",
    ),
    plan("MessageQueue", "The pod has a POSIX message queue, which CRIU cannot save.", "Use pipes or sockets instead, or remove the queue if nobody needs it."),
    plan("Mptcp", "A process has a Multipath TCP socket, which CRIU cannot save.", "Switch MPTCP off in the program (GODEBUG=multipathtcp=0 for Go)."),
    plan(
        "NestedNamespace",
        "A process made namespaces of its own inside the container: a browser's sandbox, or a container in the container.",
        "Switch that off in the program.",
    ),
    plan(
        "NetworkNotPossible",
        "The connections cannot be kept in the way that was asked for: the plugin, the kernel or a node lacks what that way needs.",
        "Choose another way, or none (--network auto or close); the message says what is missing, `kubectl migrate doctor` where.",
    ),
    plan("NoAgent", "The node has no ready agent.", "Look at the DaemonSet godwit-agent; `kubectl migrate doctor` tells what is wrong."),
    plan("NoContainerRuntime", "Neither containerd nor CRI-O answers on the node.", "See that one of them runs and that its socket is at the usual place."),
    plan(
        "NoHandler",
        "No node in question has Godwit's runtime handler, or engine: Live was asked for where it is not.",
        "Install the handler (the chart's value engines.live), or allow engine: Checkpoint (engines.checkpoint).",
    ),
    plan(
        "NoImport",
        "The pod cannot be made anew by the container runtime itself: the installation does not allow it or did not when the checkpoint was made, or this containerd imports no checkpoint images.",
        "Use engine: Auto or Live; or allow it (the chart's value engines.checkpoint) and choose a node whose runtime can do it: CRI-O, or containerd 2.1 to 2.3.3.",
    ),
    plan("NoIpv4Address", "The pod has no IPv4 address, by which its network segment is asked for it.", "Move it another way: --network anchor."),
    plan("NoRoomForImages", "The pod's memory does not fit into the target's /run.", "Choose a node with more memory, or enlarge the tmpfs at /run."),
    plan("NoTarget", "No other node can take the pod.", "Name a node with --to to see what is in its way."),
    plan("NodeError", "Something of the node or of Godwit itself did not work.", "Look at the agent's log on that node; the migration can be tried again."),
    plan("NodeNotFound", "There is no such node.", "Choose one of: kubectl get nodes -l godwit.dev/agent."),
    plan("NodeNotReady", "The node is not Ready.", "Choose another node, or bring this one back."),
    plan("NodeUnreadable", "The agent cannot read the node's files.", "See that the agent is privileged and shares the node's pid namespace."),
    plan("NodeUnschedulable", "The node is cordoned.", "Choose another node, or uncordon it."),
    plan("NotEnoughMemory", "Images and restored pod do not fit into the target's memory.", "Choose a node with more memory."),
    plan(
        "OpenProjectedFile",
        "A process has a file open in a ConfigMap, Secret or token volume; the target's is another file.",
        "Let the program close such files after reading them.",
    ),
    plan(
        "OwnerNotSupported",
        "The pod belongs to a StatefulSet, Job, DaemonSet or another owner that would replace it.",
        "Only pods without owner and pods of ReplicaSets and Deployments can be moved yet.",
    ),
    plan("PacketPipe", "A pipe is in packet mode (O_DIRECT), which CRIU cannot save.", "Let the program use plain pipes."),
    plan("PodDeleted", "The pod was deleted while it was to move.", "Nothing: the deletion takes its course."),
    plan("PodNotFound", "There is no such pod.", "Check name and namespace."),
    plan("PodNotRunning", "Only a running pod has something to move.", "Wait until it runs, or delete and create it on the other node."),
    plan(
        "PostCopyNotAllowed",
        "In this cluster no memory may travel after the switch: until it has come the pod would be lost with either node.",
        "Use memory: PreCopy or Auto, or have it allowed: the chart's value postCopy.allowed.",
    ),
    plan("PostStartHook", "A container has a postStart hook, which would run a second time.", "Do its work in an init container."),
    plan(
        "PreCopyNotPossible",
        "Memory cannot travel while the pod runs: the kernel lacks what that needs, or a process uses what cannot be tracked; the message says which.",
        "Use memory: Auto or StopAndCopy; the freeze is then the longer the more memory the pod has.",
    ),
    plan("RuntimeNotSupported", "A container runs under neither runc nor crun.", "Only containers of runc and crun can be moved."),
    plan("SameNode", "The pod runs on that node already.", "Name another node, or none."),
    plan("SecretMemory", "A process has secret memory (memfd_secret), which nobody else can read.", "Switch that off in the program."),
    plan(
        "SeveralContainers",
        "The pod has several containers, and without Godwit's runtime handler the kubelet starts one only when the one before runs: nothing could hold them all.",
        "Use engine: Live.",
    ),
    plan("SharedPidNamespace", "The containers of the pod share their process namespace.", "Set shareProcessNamespace to false."),
    plan("SharedProcessNamespace", "A container shares its process namespace with others.", "Set shareProcessNamespace to false."),
    plan("SidecarContainer", "An init container is a sidecar (restartPolicy: Always).", "Make it an ordinary container."),
    plan("SnapshotterUnsupported", "The container's root file system is no overlay.", "Use the overlay snapshotter (containerd) or storage driver (CRI-O)."),
    plan("StaticPod", "The pod comes from a file on its node.", "Move the file to the other node."),
    plan("StoppedProcess", "A process is stopped by a signal or its terminal; CRIU would wait for it in vain.", "Continue it (kill -CONT) or end it."),
    plan("SystemVIpc", "The pod has System V shared memory, semaphores or queues.", "Use POSIX IPC; leftovers of ended programs can be removed with ipcrm."),
    plan("Terminal", "A container has a terminal or an open standard input.", "Run it without tty and stdin."),
    plan("TracedProcess", "A debugger or strace has hold of a process; CRIU needs that place.", "Detach it."),
    plan(
        "UnixSocketToElsewhere",
        "A unix socket is connected to a process outside its container: in another container of the pod, in a kubectl exec session, or on the node.",
        "Close the connection, move the pod while it is closed, or use TCP.",
    ),
    plan("UnsupportedDescriptor", "A process holds a kernel object that CRIU cannot save.", "Start the program without the feature that uses it."),
    plan("UnsupportedMapping", "A process has a kernel object mapped that CRIU cannot save.", "Start the program without the feature that uses it."),
    plan("UnsupportedSocket", "A process has a socket of a protocol that CRIU cannot save.", "Start the program without it."),
    plan(
        "UprobesAttached",
        "A tracer of the node has set probes in a process (uprobes), which CRIU does not save.",
        "Detach it: perf, bpftrace, or an agent that watches programs by eBPF.",
    ),
    plan("UserNamespace", "The pod has a user namespace (hostUsers: false).", "Pods with user namespaces cannot be moved yet."),
    plan("VolumeKind", "A volume is of a kind that is not known to be on both nodes.", "Use a claim with access mode ReadWriteMany."),
    plan("VolumeNotShared", "A volume can be on one node only.", "Use a claim with access mode ReadWriteMany."),
    plan("VolumeUnreadable", "A volume's files cannot be read on the node.", "See that the pod still runs and that the agent is privileged."),
    prepare("Cancelled", "Somebody cancelled the migration or deleted its object.", "Nothing: the pod stays where it was."),
    prepare(
        "DeadlineExceeded",
        "The time for everything up to the commit passed.",
        "Give it more (--deadline), or see with `kubectl migrate timeline` what took so long.",
    ),
    prepare(
        "ImageDiffers",
        "The target node has another image under the name of the container's; its files would not be the ones that the processes have open.",
        "Use images by digest, or load the same one there.",
    ),
    prepare("NodeFull", "The scheduler finds no room for the target pod.", "Choose another node, or make room."),
    prepare(
        "TargetCannotStart",
        "The kubelet cannot start the target pod: image, volume or runtime handler is missing there.",
        "See the target pod's events; `kubectl migrate doctor --node` checks the handler.",
    ),
    prepare("TargetGone", "The target pod disappeared.", "Try again; look at its events if it happens again."),
    prepare("TargetNotReady", "The target does not wait for this migration (any more): its agent or keepers restarted.", "Try again."),
    prepare("TargetPodGone", "The target pod's containers are gone from its runtime.", "Look at the events of the target pod; try again."),
    prepare("TargetRefused", "A quota or an admission policy did not accept the target pod.", "Change it, or move the pod by hand."),
    switch("Abandoned", "The source gave the migration up before the target owned the pod.", "See the source's reason; try again."),
    switch("Aborted", "The Handover says that the migration was taken back.", "Try again."),
    switch("AddressTaken", "Another machine says that it has the pod's address.", "Look who has it, or move the pod another way: --network anchor."),
    switch("AgentRestarted", "The source's agent restarted before the pod was offered to the target.", "Try again."),
    switch("AnchorPeerUnreachable", "The node that mirrors an old address did not answer.", "Look at the agent on that node."),
    switch("AnchorUnknown", "The node has no such anchor any more: the connections have ended.", "Nothing is to be done."),
    switch("AnchorUnreachable", "The node that holds the old address did not answer.", "Look at the agent on that node and at the network between the nodes."),
    switch("ContainerEnded", "A container ended by itself before it was frozen.", "Wait until the pod runs again."),
    switch("ContainerMissing", "The source has no running container of that name.", "Migrate when all containers of the pod run."),
    switch(
        "CopyFailed",
        "The pod's files could not be written at the target.",
        "See that the target's disk is not full and takes the same extended attributes.",
    ),
    switch("DumpTimedOut", "CRIU did not finish the dump.", "Look for processes in state D or T in the container."),
    switch("FreezeTimedOut", "A process did not stop: it waits for a disk or a network file system, or the node is overloaded.", "Try again when it is calm."),
    switch(
        "HandoverRefused",
        "The API server does not let the source's agent create the Handover.",
        "Check the agent's permissions and the admission policies for handovers.godwit.dev.",
    ),
    switch(
        "HandoverRemoved",
        "The Handover object was removed while the pod moved.",
        "Use `kubectl migrate cancel`; never delete Handovers or their finalizers.",
    ),
    switch(
        "KeeperGone",
        "A container of the new pod was killed before it ran: somebody deleted the new pod, or its shim ended.",
        "Look at the kubelet's and the runtime's log on the target node; try again.",
    ),
    switch("KeeperStuck", "A keeper did not start its restore in time.", "Look at the runtime's log on the target node."),
    switch(
        "KubeletGaveUp",
        "Without a handler the kubelet waits for its runtime until the pod has come, two minutes if nobody has changed its runtimeRequestTimeout; it has had another container made.",
        "Let less travel (files of the pod), give the kubelet a longer runtimeRequestTimeout, or use engine: Live.",
    ),
    switch("MountsChanged", "The mounts of a container have changed between plan and switch, and the target's CRIU knows only the former ones.", "Try again."),
    switch("NetlinkFailed", "The kernel did not answer a question about addresses or sockets.", "Try again; report it if it stays."),
    switch("NetworkChangeRefused", "The kernel refused a change of the pod's network.", "The agent needs CAP_NET_ADMIN; the kernel needs nf_tables."),
    switch("NetworkNamespaceUnreachable", "The pod's network namespace cannot be joined.", "Its sandbox may just have gone; try again."),
    switch("NoAddress", "The runtime names no address of the pod that an anchor could keep.", "Move it with its connections closed: --network close."),
    switch("NoFreeTunnel", "No VXLAN network identifier was free on both nodes.", "Retire anchors that are not needed any more: kubectl migrate release."),
    switch("NoNetworkNamespace", "The target pod has no network namespace of its own.", "Pods with hostNetwork cannot be moved."),
    switch("NodeRebooted", "A node was rebooted during the switch.", "Try again when the pod runs."),
    switch(
        "NotConverging",
        "The pod changes its memory as fast as it travels, or it cannot travel while the pod runs, and the migration was told to give up then.",
        "Move it when it is less busy, allow a longer freeze (--freeze-budget), or let it take what it takes (--if-not-converging longer-freeze).",
    ),
    switch("NotGone", "The target is not known to run yet, so the source is not emptied.", "Try again."),
    switch(
        "PagesMissing",
        "A page of the pod's memory is not in exactly one of the images and the target's page store; nothing has run at the target.",
        "Try again, with memory: StopAndCopy if it happens again, and report it.",
    ),
    switch(
        "PodLost",
        "With post-copy: the old pod or its node was lost before all of its memory had come. The containers that miss some were killed.",
        "Nothing brings that memory back. memory: PreCopy does not depend on the source once the pod runs.",
    ),
    switch(
        "PostCopyNotPossible",
        "A container has memory that changes too late and that CRIU restores before the container runs (locked by mlock, or on huge pages), so it cannot come after the switch.",
        "Use memory: PreCopy or Auto.",
    ),
    switch(
        "ProcessesRemain",
        "A process does not end although it was killed: it waits for a disk or a network file system.",
        "Bring that back; the migration goes on by itself.",
    ),
    switch(
        "RestoreIncomplete",
        "After the restore something is missing that the source has, or is not what was dumped: a process, thread, file or socket, its cgroup, or a page of memory (some of every process are compared).",
        "This is a fault of CRIU or Godwit: keep the logs and report it.",
    ),
    switch("RestoreTimedOut", "CRIU did not finish the restore.", "Look at restore.log on the target node."),
    switch(
        "SealBroken",
        "Something ran in the source pod's cgroup while it was sealed.",
        "Look at the source kubelet's log for who restarted or thawed the pod.",
    ),
    switch(
        "SegmentBlocked",
        "Nobody answers for the pod's address on the network of the new pod: it is another segment, or lets no foreign hardware address through.",
        "Move the pod another way: --network anchor.",
    ),
    switch(
        "SourceNodeGone",
        "The old pod's node was taken out of the cluster before the pod had moved, and the old pod with it. Nothing of the pod has run at the target.",
        "Its owner makes another pod; make one without an owner anew, or restore a checkpoint of it.",
    ),
    switch("SourceNotSealed", "The source could not confirm that it is sealed.", "Look at the source kubelet's log; try again."),
    switch(
        "StillFilling",
        "Memory of the pod is still on its way from its last move: what has not come yet would be missing.",
        "Try again when that move has ended.",
    ),
    switch(
        "SwapRefused",
        "The API server does not let the target's agent take the Handover.",
        "Check the agent's permissions and the admission policies for handovers.godwit.dev.",
    ),
    switch("TakenBack", "The migration was taken back before the target owned the pod.", "Try again."),
    switch("TargetUnreachable", "The target's agent did not answer.", "Look at that agent and at the network between the nodes (TCP port 7410)."),
    switch("TaskInVfork", "A process starts another one by vfork and that one has not come as far as exec.", "Try again."),
    switch("TransferDamaged", "Other bytes arrived than were sent.", "Try again; look for a fault in the network between the nodes."),
    switch(
        "TransferFailed",
        "The images or files did not arrive whole: the connection broke, or /run of the target is full.",
        "Try again; look at the network between the nodes and at /run of the target.",
    ),
    switch(
        "TunnelBlocked",
        "No frame gets through the tunnel between the nodes: a firewall stands in its way.",
        "Allow its UDP port between the nodes (the message names it), or move the pod with its connections closed: --network close.",
    ),
    switch("Undone", "The controller undid the migration.", "See its reason."),
    switch(
        "VeilTorn",
        "CRIU wrote some of the memory that had travelled already, but not all of it.",
        "Nothing was lost; try again with memory: StopAndCopy and report it.",
    ),
    switch("VolumeMissing", "The target pod lacks a volume that the source has.", "Do not change the target pod's spec on the way (admission webhooks)."),
    switch("VolumeUnsafe", "A directory at the target does not look as it did at the source.", "Try again with a new target pod."),
    switch(
        "WireGuardKeyTaken",
        "A node says a key for encrypted tunnels that another node has, or one like it.",
        "Look at the agents of the nodes that the message names: nodes make their keys themselves, so one of them is forged.",
    ),
    switch(
        "WireGuardLost",
        "The old pod's node had WireGuard when its address was announced, and has it no more.",
        "Look at the log of the agent on that node, and restart it; or move the pod with its connections closed: --network close.",
    ),
    keep("BeingCheckpointed", "A checkpoint of the same pod is being made.", "Wait until it has ended: `kubectl get podcheckpoints`."),
    keep(
        "CheckpointDamaged",
        "A file of the checkpoint is not what it was when the checkpoint was made: its length or digest differs, or it is missing.",
        "Do not use it: delete the PodCheckpoint, and look who can write to the store.",
    ),
    keep(
        "CheckpointForged",
        "What stands in the status of the PodCheckpoint was not written by Godwit, or the Secret godwit-ca was made anew since.",
        "Do not use the checkpoint, and look who may write `podcheckpoints/status`.",
    ),
    keep(
        "CheckpointKeyInvalid",
        "The value of the Secret is not a key: neither 32 bytes nor base64 of 32 bytes.",
        "Make one: `kubectl create secret generic NAME --from-literal=key=\"$(head -c 32 /dev/urandom | base64)\"`.",
    ),
    keep(
        "CheckpointKeyMissing",
        "The key of an encrypted checkpoint is not there: no Secret is named, there is none, it has no such value, or the controller may not read it.",
        "Name the Secret that has it (`--decrypt-with`), in the same namespace. That the controller may read it: `checkpoints.keyNamespaces` of the chart, or a RoleBinding to ClusterRole `godwit-checkpoint-keys`.",
    ),
    keep(
        "CheckpointKeyWrong",
        "The Secret has another key than the one that the checkpoint was encrypted with.",
        "Name the Secret that has its key (`--decrypt-with`); the key's id is in the status of the PodCheckpoint.",
    ),
    keep(
        "CheckpointMissing",
        "The store of this node does not have the checkpoint.",
        "See that the same file system is mounted at the same place on every node. If it was deleted by hand, delete the PodCheckpoint too.",
    ),
    keep("CheckpointNotReady", "The checkpoint is not complete, or is being deleted.", "Choose a complete one: `kubectl migrate checkpoints`."),
    keep("CheckpointUnknown", "There is no PodCheckpoint of this name in the namespace.", "Choose one of: `kubectl migrate checkpoints`."),
    keep(
        "CheckpointsOff",
        "The installation names no directory in which checkpoints are kept.",
        "Set the chart's value `checkpoints.directory` to a directory that every node mounts, then upgrade the release; or name a registry that it allows (`--store oci://…`).",
    ),
    keep("MemoryLimitTooLow", "A container had more in memory than the new one may have.", "Raise the memory limit of the new container."),
    keep(
        "MorePrivileges",
        "Processes of the checkpoint have capabilities, or lack a filter, that the new pod's own containers do not give: restored, they could do more than the namespace allows.",
        "Give the new pod the rights that the old one had, if the policies of the namespace let you; or do without this checkpoint.",
    ),
    keep("OnTheMove", "The pod is being moved or restored while its checkpoint was ordered.", "Wait until that has ended, then try again."),
    keep("PodExists", "There is a pod with the name that the new one is to have.", "Choose another name with --name, or none."),
    keep(
        "RegistryLoginMissing",
        "The Secret that says who logs in to the registry is not there, has nothing for this registry, or the controller may not read it.",
        "Make one: `kubectl create secret docker-registry NAME --docker-server=HOST …`. That the controller may read it: `checkpoints.keyNamespaces` of the chart, or a RoleBinding to ClusterRole `godwit-checkpoint-keys`.",
    ),
    keep(
        "StoreDenied",
        "The registry does not let the one who logs in, or anybody who does not, push to the repository or pull from it.",
        "Name a Secret of type `kubernetes.io/dockerconfigjson` with a login that may (`--registry-secret`).",
    ),
    keep("StoreFull", "The checkpoint does not fit into the store.", "Delete checkpoints that are not needed any more, or enlarge the file system."),
    keep(
        "StoreMissing",
        "The node does not have the directory in which checkpoints are kept.",
        "Mount the shared file system there, on every node. Godwit does not make the directory, so that nothing is written beside a mount that is missing.",
    ),
    keep(
        "StoreNotAllowed",
        "The installation does not name this repository, or a path above it, among those in which checkpoints may be kept.",
        "Add it to the chart's value `checkpoints.registries.allowed`, then upgrade the release.",
    ),
    keep(
        "StoreUnreachable",
        "The registry cannot be reached from the node, its certificate is not trusted, or it did not do what it was asked.",
        "See that the nodes reach it, and that they trust its certificate (`checkpoints.registries.ca`) or ask by plain HTTP (`checkpoints.registries.plainHttp`).",
    ),
    keep(
        "StoreUnusable",
        "The node cannot write into the store.",
        "See that root may write there (no root_squash on NFS) and that it is not mounted read-only.",
    ),
];

/// What is known of a reason.
#[must_use]
pub fn of(reason: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.reason == reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn they_are_in_order_and_whole() {
        for pair in ENTRIES.windows(2) {
            assert!((pair[0].when, pair[0].reason) < (pair[1].when, pair[1].reason), "{} before {}", pair[0].reason, pair[1].reason);
        }
        assert!(ENTRIES.iter().all(|entry| entry.cause.ends_with('.') && entry.remedy.ends_with('.')));
    }

    /// A word in the shape of a reason, in quotes, at a place where a failure is made.
    fn reasons(text: &str) -> Vec<String> {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut found = Vec::new();
        for (at, _) in text.match_indices('"') {
            let rest = &text[at + 1..];
            let word: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            let humps = word.chars().filter(char::is_ascii_uppercase).count();
            let closes = rest[word.len()..].starts_with('"');
            if !closes || humps < 2 || !word.starts_with(|first: char| first.is_ascii_uppercase()) || !word.contains(|char: char| char.is_ascii_lowercase()) {
                continue;
            }
            let before = text[..at].trim_end();
            let makes = ["failure(", "Failure::new(", "Finding::new(", "new(", "block(", "block_process("];
            if makes.iter().any(|make| before.ends_with(make)) || before.ends_with("=> (") || (before.ends_with('(') && before.contains("=> {")) {
                found.push(word);
            }
        }
        found
    }

    #[test]
    fn no_reason_of_the_source_is_missing() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut missing = Vec::new();
        for name in ["agent", "controller", "migration", "network", "node"] {
            let mut folders = vec![crates.join(name).join("src")];
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(folder).unwrap().flatten() {
                    let path = entry.path();
                    if path.is_dir() {
                        folders.push(path);
                    } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") && !path.ends_with("catalogue.rs") {
                        let text = std::fs::read_to_string(&path).unwrap();
                        missing
                            .extend(reasons(&text).into_iter().filter(|reason| of(reason).is_none()).map(|reason| format!("{reason} in {}", path.display())));
                    }
                }
            }
        }
        // What CRIU's messages lead to is told by godwit_criu.
        let criu =
            std::fs::read_to_string(crates.join("criu/src/explain/table.rs")).unwrap() + &std::fs::read_to_string(crates.join("criu/src/explain.rs")).unwrap();
        missing.retain(|line| !criu.contains(&format!("\"{}\"", line.split(' ').next().unwrap_or_default())));
        assert!(missing.is_empty(), "add them to ENTRIES:\n{}", missing.join("\n"));
    }
}
