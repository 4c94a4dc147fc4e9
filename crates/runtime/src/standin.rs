//! The stand-in for `criu`: it is first in the PATH of `runc restore`, which therefore can be started long before the images are there.
//!
//! runc calls CRIU as `criu swrk FD` several times: to learn its version and features, then to restore. Each time it sends one request (`CriuReq` of CRIU's
//! rpc.proto) on the SEQPACKET socket FD. The stand-in looks at it without taking it, waits if it is a restore, and becomes CRIU.
//!
//! ```text
//!   runc ── CriuReq{type} ──▶ FD        peek: RESTORE ──▶ agent: Images ──▶ Go ──▶ exec criu swrk FD
//!                                             other  ───────────────────────────▶ exec criu swrk FD
//! ```

use std::{
    env,
    ffi::{OsStr, OsString},
    os::fd::RawFd,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{MsgFlags, recv},
};

use crate::{
    client,
    config::Config,
    layout::{ENV_CONTAINER, Layout},
    protocol::{Reply, Request},
    record::Record,
    runc,
};

/// `CriuReqType.RESTORE` (rpc.proto).
const RESTORE: u64 = 2;

/// Runs the stand-in; gives an exit code only if CRIU is not to run.
#[must_use]
pub fn run(arguments: &[OsString]) -> i32 {
    if worker(arguments).and_then(peek) == Some(RESTORE) {
        match ready() {
            Ok(true) => {}
            // Not a word: standard error is the container's log, and who stopped the restore knows why.
            Ok(false) => return 1,
            Err(why) => {
                eprintln!("godwit: the restore is stopped before CRIU reads an image: {why}");
                return 1;
            }
        }
    }
    let Some(criu) = Config::load().criu() else {
        eprintln!("godwit: no criu in $PATH; install CRIU 4.1 or newer on this node");
        return 127;
    };
    let error = runc::become_program(&criu, OsStr::new("criu"), arguments);
    eprintln!("{}", error.text());
    126
}

/// The descriptor of `swrk FD`.
fn worker(arguments: &[OsString]) -> Option<RawFd> {
    let at = arguments.iter().position(|word| word == "swrk")?;
    arguments.get(at + 1)?.to_str()?.parse().ok()
}

/// The type of the request that waits on the socket.
fn peek(fd: RawFd) -> Option<u64> {
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match recv(fd, &mut buffer, MsgFlags::MSG_PEEK) {
            Ok(count) => return request_type(buffer.get(..count)?),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Waits for the images and makes what CRIU does not make itself; false if the migration is taken back. `Err`: why it cannot be made.
fn ready() -> Result<bool, String> {
    let Some(layout) = env::var(ENV_CONTAINER).ok().and_then(|id| Layout::existing(&id)) else { return Ok(true) };
    let request = Request::Images { container: layout.id.clone() };
    let go = client::insist(&request, |reply| match reply {
        Reply::Go => Some(true),
        Reply::Abort { .. } => Some(false),
        _ => None,
    });
    if !go {
        return Ok(false);
    }
    // CRIU with `manage-cgroups=ignore` leaves its children in its own cgroup namespace, and runc makes none in a restore. runc has put this process into the
    // container's cgroup, so that a namespace made here has the same root as one that `runc create` makes.
    let record: Record = layout.read("record.json").map_err(|error| error.to_string())?;
    if record.cgroup_namespace {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|errno| format!("no cgroup namespace for the container: {errno}"))?;
    }
    Ok(true)
}

/// Field 1 of a protobuf message, a varint (the last one counts). `None` if there is none or the message is cut before it.
fn request_type(mut bytes: &[u8]) -> Option<u64> {
    let mut found = None;
    while let Some(tag) = varint(&mut bytes) {
        let size = match tag & 7 {
            0 => {
                let Some(value) = varint(&mut bytes) else {
                    break;
                };
                if tag >> 3 == 1 {
                    found = Some(value);
                }
                0
            }
            1 => 8,
            2 => match varint(&mut bytes).and_then(|size| usize::try_from(size).ok()) {
                Some(size) => size,
                None => break,
            },
            5 => 4,
            _ => break,
        };
        match bytes.get(size..) {
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    found
}

/// A base-128 number, low groups first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(at).ok()? * 7)?;
        if byte & 0x80 == 0 {
            *bytes = bytes.get(at + 1..)?;
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        assert_eq!(request_type(&[0x08, 0x02, 0x12, 0x03, 1, 2, 3]), Some(2));
        assert_eq!(request_type(&[0x12, 0x02, 0x08, 0x05, 0x08, 0x02]), Some(2));
        assert_eq!(request_type(&[0x08, 0x02, 0x12, 0x7f, 1]), Some(2));
        assert_eq!(request_type(&[0x08, 0x0a]), Some(10));
        assert_eq!(request_type(&[]), None);
        assert_eq!(request_type(&[0x12]), None);
        assert_eq!(request_type(&[0xff; 12]), None);
    }

    #[test]
    fn the_worker_descriptor() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(worker(&words("swrk 3")), Some(3));
        assert_eq!(worker(&words("--version")), None);
        assert_eq!(worker(&words("swrk")), None);
    }
}
