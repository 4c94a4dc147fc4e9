//! The stand-in for `criu`: it is first in the PATH of `runc restore`, which therefore can be started long before the images are there.
//!
//! runc calls CRIU as `criu swrk FD` several times: to learn its version and features, then to restore. Each time it sends one request on the SEQPACKET socket
//! FD ([`rpc`](crate::rpc)). The stand-in looks at it without taking it. Unless it is a restore, the stand-in becomes CRIU. If it is one, CRIU is started with a socket of the
//! stand-in's and waits for its first word, with all its libraries loaded; what runc and CRIU say to each other then passes through here ([`relay`]), and with it
//! every stage that CRIU comes to: this is where the [`gate`](crate::gate) stands, and CRIU need start no program at any stage.
//!
//! ```text
//!   runc ── request ──▶ FD    peek: RESTORE ──▶ start CRIU ──▶ agent: Images ──▶ Go ──▶ the request ──▶ CRIU
//!                             other  ───────────▶ exec criu swrk FD                         ◀── stages ──
//! ```

pub mod relay;

use std::{
    ffi::{OsStr, OsString},
    os::fd::RawFd,
    path::Path,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{MsgFlags, recv},
};

use self::relay::Relay;
use crate::{client, config::Config, gate::Gate, layout::Layout, protocol, record::Record, rpc::Request, runc};

/// Runs the stand-in; gives an exit code only if CRIU is not to take its place.
#[must_use]
pub fn run(arguments: &[OsString]) -> i32 {
    let Some(criu) = Config::load().criu() else {
        eprintln!("godwit: no criu in $PATH; install CRIU 4.1 or newer on this node");
        return 127;
    };
    let outcome = match worker(arguments).map(|socket| (socket, peek(socket))) {
        Some((socket, Ok(request))) if request.restores() => restore(&criu, arguments, socket, &request),
        Some((_, Err(why))) => Err(why),
        _ => Err(runc::become_program(&criu, OsStr::new("criu"), arguments).text()),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("godwit: CRIU is not let begin: {why}");
        1
    })
}

/// The descriptor of `swrk FD`.
fn worker(arguments: &[OsString]) -> Option<RawFd> {
    let at = arguments.iter().position(|word| word == "swrk")?;
    arguments.get(at + 1)?.to_str()?.parse().ok()
}

/// The request that waits on the socket.
fn peek(socket: RawFd) -> Result<Request, String> {
    let unread = |errno| format!("no request can be read: {errno}");
    let mut buffer = vec![0; relay::length(socket).map_err(unread)?];
    let count = relay::again(|| recv(socket, &mut buffer, MsgFlags::MSG_PEEK)).map_err(unread)?;
    // One that is not understood could be a restore, and nothing would hold it.
    let request = Request::read(buffer.get(..count).unwrap_or_default()).ok_or_else(|| "what the runtime below sent is no request to CRIU".to_owned())?;
    // Nor would the next one be seen here.
    if request.keeps_open() { Err("the runtime below wants to send CRIU several requests".to_owned()) } else { Ok(request) }
}

/// Starts CRIU, waits for the images and lets it restore. Gives its exit code. `Err`: why nothing was restored.
fn restore(criu: &Path, arguments: &[OsString], socket: RawFd, request: &Request) -> Result<i32, String> {
    let gate = Gate::from_environment().ok_or("it is not known which container is restored")?;
    if !request.tells_stages() {
        return Err("the runtime below does not ask to be told of the stages of a restore, so nothing could hold it; use runc 1.1 or newer".to_owned());
    }
    enter_cgroup_namespace(gate.layout())?;
    let relay = Relay::start(criu, arguments, socket, &request.folders()).map_err(|error| format!("it cannot be started: {error}"))?;
    let question = protocol::Request::Images { container: gate.layout().id.clone() };
    // Not a word if not: standard error is the container's log, and who stopped the restore knows why.
    Ok(if client::permission(&question).is_ok() { relay.run(gate) } else { relay.stop() })
}

/// CRIU with `manage-cgroups=ignore` leaves its children in its own cgroup namespace, and runc makes none in a restore. runc has put this process into the
/// container's cgroup, so that a namespace made here has the same root as one that `runc create` makes.
fn enter_cgroup_namespace(layout: &Layout) -> Result<(), String> {
    let record: Record = layout.read("record.json").map_err(|error| error.to_string())?;
    if record.cgroup_namespace {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|errno| format!("no cgroup namespace for the container: {errno}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_descriptor() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(worker(&words("swrk 3")), Some(3));
        assert_eq!(worker(&words("--version")), None);
        assert_eq!(worker(&words("swrk")), None);
    }
}
