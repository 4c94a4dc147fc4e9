//! The first root of a virtual machine: busybox, the modules that lead to its disks, and a script that mounts them.
//!
//! An archive in the format `newc`, uncompressed (Documentation/driver-api/early-userspace/buffer-format.rst): for every file a header of 110 characters
//! (magic `070701`, then 13 fields of 8 hexadecimal digits), its name, its content, each padded to 4 bytes; at the end one called `TRAILER!!!`.

use std::fmt::Write as _;

/// What it does; `/share/program` is this very program.
pub const SCRIPT: &str = r#"#!/bin/busybox sh
export PATH=/bin
fail() { echo "godwit-lab: $*"; sleep 1; poweroff -f; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module" || fail "the kernel module $module does not load"; done
left=200
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    left=$((left - 1))
    [ $left -gt 0 ] || fail "the disks do not show"
    sleep 0.05
done
mount -t ext4 -o ro,noatime /dev/vda /lower || fail "the root image cannot be mounted"
mount -t ext4 -o noatime /dev/vdb /disk || fail "the node's disk cannot be mounted"
mount -t virtiofs share /share || fail "the shared folder cannot be mounted"
mkdir -p /disk/upper /disk/work /disk/lib
mount -t overlay overlay -o lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work /root || fail "the root cannot be mounted"
cp -a /share/upper/. /root/ || fail "the configuration cannot be copied"
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/run/lock /root/run/godwit-lab/share /root/run/godwit-lab/disk
mount -o move /share /root/run/godwit-lab/share
mount -o move /disk /root/run/godwit-lab/disk
for folder in proc sys dev; do mount -o move /$folder /root/$folder; done
exec switch_root /root /run/godwit-lab/share/program vm-init || fail "the node's first process cannot be started"
"#;

/// Programs that the script uses, all busybox.
const APPLETS: [&str; 8] = ["sh", "mount", "insmod", "mkdir", "cp", "sleep", "poweroff", "switch_root"];
/// Folders that the script uses.
const FOLDERS: [&str; 11] = ["bin", "proc", "sys", "dev", "modules", "lower", "disk", "share", "root", "run", "tmp"];

/// The whole archive. `modules` are uncompressed and come in the order in which they must be loaded.
pub fn archive(busybox: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Archive::default();
    for folder in FOLDERS {
        out.put(folder, 0o040_755, b"");
    }
    out.put("bin/busybox", 0o100_755, busybox);
    for applet in APPLETS {
        out.put(&format!("bin/{applet}"), 0o120_777, b"busybox");
    }
    for (index, (name, content)) in modules.iter().enumerate() {
        out.put(&format!("modules/{index:02}-{name}"), 0o100_644, content);
    }
    out.put("init", 0o100_755, SCRIPT.as_bytes());
    out.finish()
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: usize,
}

impl Archive {
    /// Adds a file, folder or symbolic link, as the type in its mode says.
    fn put(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        let fields = [self.files, usize::try_from(mode).unwrap_or_default(), 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let header = fields.iter().fold(String::from("070701"), |mut header, field| {
            // Writing to a String cannot fail.
            let _ = write!(header, "{field:08X}");
            header
        });
        self.bytes.extend(header.bytes());
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.put("TRAILER!!!", 0, b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_member_is_where_the_header_says() {
        let bytes = archive(b"program", &[("virtio_blk.ko".to_owned(), b"module".to_vec())]);
        let (mut at, mut names) = (0, Vec::new());
        let field = |at: usize, index: usize| {
            let text = std::str::from_utf8(&bytes[at + 6 + 8 * index..at + 14 + 8 * index]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name_size) = (field(at, 6), field(at, 11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 109 + name_size]).unwrap().to_owned();
            if name == "TRAILER!!!" {
                break;
            }
            let content = (at + 110 + name_size).next_multiple_of(4);
            if name == "modules/00-virtio_blk.ko" {
                assert_eq!(&bytes[content..content + size], b"module");
            }
            at = (content + size).next_multiple_of(4);
            names.push(name);
        }
        assert_eq!(names.len(), FOLDERS.len() + APPLETS.len() + 3);
        for applet in APPLETS {
            assert!(SCRIPT.contains(applet), "{applet} is not used");
        }
    }
}
