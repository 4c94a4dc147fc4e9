//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, as in the `mnt_id` of fdinfo.
    pub id: u32,
    /// Directory inside its filesystem that is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Kind of filesystem.
    pub kind: String,
    /// Options of the filesystem, unescaped values.
    pub options: Vec<String>,
}

impl Mount {
    /// The value of an option such as `upperdir=…`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The mounts that the process behind `proc` (such as `/proc/1`) sees, in order; later ones cover earlier ones.
pub fn of(proc: &Path) -> io::Result<Vec<Mount>> {
    Ok(fs::read_to_string(proc.join("mountinfo"))?.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ');
    let id = front.next()?.parse().ok()?;
    let root = unescape(front.nth(2)?).into();
    let point = unescape(front.next()?).into();
    let mut back = back.split(' ');
    let kind = back.next()?.to_owned();
    let options = split_options(&unescape(back.nth(1)?));
    Some(Mount { id, root, point, kind, options })
}

/// Options are separated by commas; overlayfs writes a comma in a path as `\,`.
fn split_options(text: &str) -> Vec<String> {
    let (mut options, mut current, mut escaped) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '\\' if !escaped => escaped = true,
            ',' if !escaped => options.push(std::mem::take(&mut current)),
            _ => {
                if escaped && character != ',' && character != '\\' && character != ':' {
                    current.push('\\');
                }
                current.push(character);
                escaped = false;
            }
        }
    }
    options.push(current);
    options
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                result.push(char::from(byte));
                result.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                result.push('\\');
                result.push_str(part);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = r"36 35 0:58 / /run/a\040b/rootfs rw,relatime shared:1 - overlay overlay rw,lowerdir=/l/1:/l/2,upperdir=/snap/7/fs\054,workdir=/w";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.point.as_path(), mount.kind.as_str()), (36, Path::new("/run/a b/rootfs"), "overlay"));
        assert_eq!(mount.option("lowerdir"), Some("/l/1:/l/2"));
        assert!(mount.option("upperdir").is_some());
        assert_eq!(split_options(r"upperdir=/a\,b,x"), ["upperdir=/a,b", "x"]);
    }
}
