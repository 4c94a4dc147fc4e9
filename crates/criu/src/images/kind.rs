//! The kinds of image files: by their names, as CRIU gives them (`criu/image-desc.c`), with their magic (`criu/include/magic.h`).

/// What follows the magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Entries and nothing else.
    Entries,
    /// Each entry is followed by as many raw bytes as the sum of these fields says.
    Payload(&'static [u64]),
    /// An unlinked file. The first entry says in field 9 whether chunks follow (each an entry with its length in field 1, then the bytes) or the whole file.
    Ghost,
    /// Semaphores, messages or segments of the IPC namespace: entries with payloads of several layouts; only the first entry is looked at.
    Ipc,
    /// No magic: memory pages, archives, netlink dumps.
    Raw,
}

/// What is known of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The second word of the file; the first one for the inventory.
    pub magic: u32,
    /// What follows.
    pub body: Body,
    /// Whether there is exactly one entry.
    pub single: bool,
}

const fn entries(magic: u32) -> Kind {
    Kind { magic, body: Body::Entries, single: false }
}

const fn one(magic: u32) -> Kind {
    Kind { magic, body: Body::Entries, single: true }
}

const fn payload(magic: u32, fields: &'static [u64]) -> Kind {
    Kind { magic, body: Body::Payload(fields), single: false }
}

const RAW: Kind = Kind { magic: 0, body: Body::Raw, single: false };

/// Name of the inventory, the only image whose magic is its first word.
pub const INVENTORY: &str = "inventory.img";

/// The kind of a file; `None` for files that are not images, or not of a kind that is known.
pub fn of(name: &str) -> Option<Kind> {
    let stem = name.strip_suffix(".img")?;
    // `core-12`, `pagemap-shmem-7`, `ghost-file-1f`: the number goes.
    let stem = match stem.rsplit_once('-') {
        Some((head, tail)) if !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_hexdigit()) && !matches!(stem, "pipes-data" | "fifo-data") => head,
        _ => stem,
    };
    Some(match stem {
        "inventory" => one(0x5831_3116),
        "pstree" => entries(0x5027_3030),
        "fdinfo" => entries(0x5621_3732),
        "pagemap" | "pagemap-shmem" => entries(0x5608_4025),
        "core" => one(0x5505_3847),
        "ids" => one(0x5443_2030),
        "vmas" => entries(0x5412_3737),
        "pipes" => entries(0x5651_3555),
        "pipes-data" => payload(0x5645_3709, &[2]),
        "fifo" => entries(0x5836_4939),
        "fifo-data" => payload(0x5933_3054, &[2]),
        "sigacts" => entries(0x5534_4201),
        "unixsk" => entries(0x5437_3943),
        "inetsk" => entries(0x5644_3851),
        "packetsk" => entries(0x6045_4618),
        "netlinksk" => entries(0x5800_5614),
        "itimers" => entries(0x5746_4056),
        "posix-timers" => entries(0x5260_3957),
        "sk-queues" => payload(0x5626_4026, &[2]),
        "utsns" => one(0x5447_3203),
        "creds" => one(0x5402_3547),
        "ipcns-var" => one(0x5311_5007),
        "ipcns-shm" => Kind { magic: 0x4628_3044, body: Body::Ipc, single: false },
        "ipcns-msg" => Kind { magic: 0x5545_3737, body: Body::Ipc, single: false },
        "ipcns-sem" => Kind { magic: 0x5957_3019, body: Body::Ipc, single: false },
        "reg-files" => entries(0x5036_3636),
        "ext-files" => entries(0x5925_5641),
        "ns-files" => entries(0x6139_4011),
        "fs" => one(0x5140_3912),
        "mm" => one(0x5749_2820),
        "remap-fpath" => entries(0x5913_3954),
        "ghost-file" => Kind { magic: 0x5258_3605, body: Body::Ghost, single: false },
        "tcp-stream" => payload(0x5146_5506, &[1, 3]),
        "eventfd" => entries(0x4452_3722),
        "eventpoll" => entries(0x4502_3858),
        "eventpoll-tfd" => entries(0x4443_3746),
        "signalfd" => entries(0x5732_3820),
        "inotify" => entries(0x4844_2431),
        "inotify-wd" => entries(0x5456_2009),
        "fanotify" => entries(0x5509_6122),
        "fanotify-mark" => entries(0x5650_6035),
        "mountpoints" => entries(0x5556_3928),
        "netdev" => entries(0x5737_3951),
        "netns" => one(0x5593_3752),
        "tty" => entries(0x5943_3025),
        "tty-info" => entries(0x5945_3036),
        "tty-data" => entries(0x5941_3026),
        "filelocks" => entries(0x5432_3616),
        "rlimit" => entries(0x5711_3925),
        "signal-s" | "signal-p" => entries(0x5925_5647),
        "tunfile" => entries(0x5714_3751),
        "cgroup" => one(0x5938_3330),
        "timerfd" => entries(0x5049_3712),
        "cpuinfo" => one(0x6140_4013),
        "userns" => one(0x5547_4906),
        "seccomp" => one(0x6441_3049),
        "binfmt-misc" => entries(0x6734_3323),
        "autofs" => entries(0x4935_3943),
        "files" => entries(0x5630_3138),
        "memfd" => entries(0x4845_3499),
        "timens" => one(0x4311_4433),
        "pidns" => one(0x6115_7326),
        "bpfmap-file" => entries(0x5750_6142),
        "bpfmap-data" => payload(0x6432_4033, &[2, 3]),
        "apparmor" => one(0x5942_3047),
        "pidfd" => entries(0x5443_5556),
        "pages" | "pages-shmem" | "ifaddr" | "route" | "route6" | "rule" | "iptables" | "ip6tables" | "nftables" | "netns-ct" | "netns-exp" => RAW,
        _ => return None,
    })
}
