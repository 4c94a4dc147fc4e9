//! The mount table of a process: `/proc/PID/mountinfo` as proc(5) describes it.

use std::path::Path;

use crate::Problem;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the file system.
    pub device: String,
    /// Which directory or file of the file system is mounted.
    pub root: String,
    /// Where, inside the container.
    pub mountpoint: String,
    /// Options of this mount, without `rw` and `relatime`.
    pub flags: Vec<String>,
    /// Whether it receives mounts from another peer group (`master:N`).
    pub slave: bool,
    /// Type of the file system.
    pub kind: String,
    /// Options of the file system.
    pub options: String,
}

/// Reads the table of `pid`.
pub fn read(proc: &Path, pid: i32) -> Result<Vec<Mount>, Problem> {
    let path = proc.join(pid.to_string()).join("mountinfo");
    let text = std::fs::read_to_string(&path).map_err(Problem::read(&path))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mut words = mount.split(' ').skip(2);
    let device = words.next()?.to_owned();
    let (root, mountpoint, flags) = (unescape(words.next()?), unescape(words.next()?), words.next()?);
    let slave = words.any(|word| word.starts_with("master:"));
    let mut words = system.split(' ');
    let kind = words.next()?.to_owned();
    let options = words.nth(1)?.to_owned();
    let flags = flags.split(',').filter(|flag| !matches!(*flag, "rw" | "relatime")).map(str::to_owned).collect();
    Some(Mount { device, root, mountpoint, flags, slave, kind, options })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(word: &str) -> String {
    let bytes = word.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (byte, octal) {
            (b'\\', Some(value)) => {
                out.push(value);
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_a_line() {
        let mount = parse("124 123 0:29 /kube/a /sys/fs/cgroup/cpu ro,nosuid,relatime master:5 - cgroup cgroup rw,cpu").unwrap();
        assert_eq!((mount.device.as_str(), mount.root.as_str(), mount.mountpoint.as_str()), ("0:29", "/kube/a", "/sys/fs/cgroup/cpu"));
        assert_eq!(mount.flags, ["ro", "nosuid"]);
        assert!(mount.slave);
        assert_eq!((mount.kind.as_str(), mount.options.as_str()), ("cgroup", "rw,cpu"));
    }

    #[test]
    fn reads_a_path_with_blanks() {
        let mount = parse(r"1 2 0:46 / /my\040data\134x rw,relatime - tmpfs tmpfs rw").unwrap();
        assert_eq!(mount.mountpoint, r"/my data\x");
        assert!(!mount.slave && mount.flags.is_empty());
    }
}
