//! The kinds of image files: by their names, as CRIU gives them (`criu/image-desc.c`), with their magic (`criu/include/magic.h`) and messages
//! (`lib/pycriu/images/images.py`).

/// What follows the magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Entries and nothing else.
    Entries,
    /// The first entry is another message than the others, whose name this is.
    Headed(&'static str),
    /// Each entry is followed by as many raw bytes as the sum of these fields says.
    Payload(&'static [&'static str]),
    /// An unlinked file. The first entry says whether chunks follow (each an entry, then the bytes) or the whole file.
    Ghost,
    /// Segments of System V shared memory: each entry followed by its content, unless that is among the memory pages, up to a multiple of 4 bytes.
    Segments,
    /// System V semaphores: each entry followed by 2 bytes a semaphore, up to a multiple of 8.
    Semaphores,
    /// System V queues: each entry followed by its messages, each an entry of its own with bytes up to a multiple of 8.
    Queues,
    /// No magic: memory pages, archives, netlink dumps.
    Raw,
}

/// What is known of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The second word of the file; the first one for the inventory.
    pub magic: u32,
    /// The name of its entries' message in CRIU's definitions.
    pub message: &'static str,
    /// What follows.
    pub body: Body,
    /// Whether there is exactly one entry.
    pub single: bool,
}

const fn entries(magic: u32, message: &'static str) -> Kind {
    Kind { magic, message, body: Body::Entries, single: false }
}

const fn one(magic: u32, message: &'static str) -> Kind {
    Kind { magic, message, body: Body::Entries, single: true }
}

const fn with(magic: u32, message: &'static str, body: Body) -> Kind {
    Kind { magic, message, body, single: false }
}

const RAW: Kind = Kind { magic: 0, message: "", body: Body::Raw, single: false };

/// Name of the inventory, the only image whose magic is its first word.
pub const INVENTORY: &str = "inventory.img";

/// Whether it is one of CRIU's files of service: written beside the images, not needed for a restore, with a first word of their own.
#[must_use]
pub fn is_service(name: &str) -> bool {
    matches!(name, "stats-dump" | "stats-restore" | "irmap-cache")
}

/// The kind of a file; `None` for files that are not images, or not of a kind that is known.
#[must_use]
pub fn of(name: &str) -> Option<Kind> {
    match name {
        "stats-dump" | "stats-restore" => return Some(one(0x5709_3306, "stats_entry")),
        "irmap-cache" => return Some(entries(0x5700_4059, "irmap_cache_entry")),
        _ => {}
    }
    let stem = name.strip_suffix(".img")?;
    if stem.starts_with("tmpfs-") && stem.ends_with(".tar.gz") {
        return Some(RAW);
    }
    // `core-12`, `pagemap-shmem-7`, `ghost-file-1f`: the number goes.
    let stem = match stem.rsplit_once('-') {
        Some((head, tail)) if !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_hexdigit()) && !matches!(stem, "pipes-data" | "fifo-data") => head,
        _ => stem,
    };
    Some(match stem {
        "inventory" => one(0x5831_3116, "inventory_entry"),
        "pstree" => entries(0x5027_3030, "pstree_entry"),
        "fdinfo" => entries(0x5621_3732, "fdinfo_entry"),
        "pagemap" | "pagemap-shmem" => with(0x5608_4025, "pagemap_head", Body::Headed("pagemap_entry")),
        "core" => one(0x5505_3847, "core_entry"),
        "ids" => one(0x5443_2030, "task_kobj_ids_entry"),
        "vmas" => entries(0x5412_3737, "vma_entry"),
        "pipes" => entries(0x5651_3555, "pipe_entry"),
        "pipes-data" => with(0x5645_3709, "pipe_data_entry", Body::Payload(&["bytes"])),
        "fifo" => entries(0x5836_4939, "fifo_entry"),
        "fifo-data" => with(0x5933_3054, "pipe_data_entry", Body::Payload(&["bytes"])),
        "sigacts" => entries(0x5534_4201, "sa_entry"),
        "unixsk" => entries(0x5437_3943, "unix_sk_entry"),
        "inetsk" => entries(0x5644_3851, "inet_sk_entry"),
        "packetsk" => entries(0x6045_4618, "packet_sock_entry"),
        "netlinksk" => entries(0x5800_5614, "netlink_sk_entry"),
        "itimers" => entries(0x5746_4056, "itimer_entry"),
        "posix-timers" => entries(0x5260_3957, "posix_timer_entry"),
        "sk-queues" => with(0x5626_4026, "sk_packet_entry", Body::Payload(&["length"])),
        "utsns" => one(0x5447_3203, "utsns_entry"),
        "creds" => one(0x5402_3547, "creds_entry"),
        "ipcns-var" => one(0x5311_5007, "ipc_var_entry"),
        "ipcns-shm" => with(0x4628_3044, "ipc_shm_entry", Body::Segments),
        "ipcns-msg" => with(0x5545_3737, "ipc_msg_entry", Body::Queues),
        "ipcns-sem" => with(0x5957_3019, "ipc_sem_entry", Body::Semaphores),
        "reg-files" => entries(0x5036_3636, "reg_file_entry"),
        "ext-files" => entries(0x5925_5641, "ext_file_entry"),
        "ns-files" => entries(0x6139_4011, "ns_file_entry"),
        "fs" => one(0x5140_3912, "fs_entry"),
        "mm" => one(0x5749_2820, "mm_entry"),
        "remap-fpath" => entries(0x5913_3954, "remap_file_path_entry"),
        "ghost-file" => with(0x5258_3605, "ghost_file_entry", Body::Ghost),
        "tcp-stream" => with(0x5146_5506, "tcp_stream_entry", Body::Payload(&["inq_len", "outq_len"])),
        "eventfd" => entries(0x4452_3722, "eventfd_file_entry"),
        "eventpoll" => entries(0x4502_3858, "eventpoll_file_entry"),
        "eventpoll-tfd" => entries(0x4443_3746, "eventpoll_tfd_entry"),
        "signalfd" => entries(0x5732_3820, "signalfd_entry"),
        "inotify" => entries(0x4844_2431, "inotify_file_entry"),
        "inotify-wd" => entries(0x5456_2009, "inotify_wd_entry"),
        "fanotify" => entries(0x5509_6122, "fanotify_file_entry"),
        "fanotify-mark" => entries(0x5650_6035, "fanotify_mark_entry"),
        "mountpoints" => entries(0x5556_3928, "mnt_entry"),
        "netdev" => entries(0x5737_3951, "net_device_entry"),
        "netns" => one(0x5593_3752, "netns_entry"),
        "tty" => entries(0x5943_3025, "tty_file_entry"),
        "tty-info" => entries(0x5945_3036, "tty_info_entry"),
        "tty-data" => entries(0x5941_3026, "tty_data_entry"),
        "filelocks" => entries(0x5432_3616, "file_lock_entry"),
        "rlimit" => entries(0x5711_3925, "rlimit_entry"),
        "signal-s" | "signal-p" => entries(0x5925_5647, "siginfo_entry"),
        "tunfile" => entries(0x5714_3751, "tunfile_entry"),
        "cgroup" => one(0x5938_3330, "cgroup_entry"),
        "timerfd" => entries(0x5049_3712, "timerfd_entry"),
        "cpuinfo" => one(0x6140_4013, "cpuinfo_entry"),
        "userns" => one(0x5547_4906, "userns_entry"),
        "seccomp" => one(0x6441_3049, "seccomp_entry"),
        "binfmt-misc" => entries(0x6734_3323, "binfmt_misc_entry"),
        "autofs" => entries(0x4935_3943, "autofs_entry"),
        "files" => entries(0x5630_3138, "file_entry"),
        "memfd" => entries(0x4845_3499, "memfd_inode_entry"),
        "timens" => one(0x4311_4433, "timens_entry"),
        "pidns" => one(0x6115_7326, "pidns_entry"),
        "bpfmap-file" => entries(0x5750_6142, "bpfmap_file_entry"),
        "bpfmap-data" => with(0x6432_4033, "bpfmap_data_entry", Body::Payload(&["keys_bytes", "values_bytes"])),
        "apparmor" => one(0x5942_3047, "apparmor_entry"),
        "pidfd" => entries(0x5443_5556, "pidfd_entry"),
        "pages" | "pages-shmem" | "ifaddr" | "route" | "route6" | "rule" | "iptables" | "ip6tables" | "nftables" | "netns-ct" | "netns-exp" => RAW,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::images::schema;

    #[test]
    fn every_kind_has_its_messages() {
        let names = include_str!("kind.rs").lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once('"').map(|(name, _)| name));
        let kinds: Vec<(&str, Kind)> = names.filter_map(|name| Some((name, of(&format!("{name}.img")).or_else(|| of(name))?))).collect();
        assert!(kinds.len() > 60, "{}", kinds.len());
        for (name, kind) in kinds.iter().filter(|(_, kind)| kind.body != Body::Raw) {
            let message = schema::message(kind.message).unwrap_or_else(|| panic!("{name}: no message {}", kind.message));
            if let Body::Payload(fields) = kind.body {
                assert!(fields.iter().all(|field| message.get_field_by_name(field).is_some()), "{name}");
            }
            if let Body::Headed(rest) = kind.body {
                schema::message(rest).unwrap();
            }
        }
    }

    #[test]
    fn names_are_understood() {
        for (name, message) in [
            ("core-12.img", "core_entry"),
            ("pagemap-shmem-7.img", "pagemap_head"),
            ("ghost-file-1f.img", "ghost_file_entry"),
            ("pipes-data.img", "pipe_data_entry"),
            ("stats-dump", "stats_entry"),
            ("pages-1.img", ""),
            ("tmpfs-dev-73.tar.gz.img", ""),
        ] {
            assert_eq!(of(name).map(|kind| kind.message), Some(message), "{name}");
        }
        for name in ["core-12", "descriptors.json", "amdgpu-kfd-1.img", "dump.log", ".img", "-.img"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
