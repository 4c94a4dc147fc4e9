//! Post-copy: pages of a source that has been offered and stands still, handed out from the target's restore on. Changes nothing and remembers nothing, so it may be asked again, and after a
//! restart of the agent.

use std::io;

use godwit_memory::{Range, read};
use godwit_rpc::v1::FetchReply;
use nix::libc::ESRCH;

use super::{grip::Grip, memory::inside};

/// Bytes that are handed out at once.
pub const MOST: u64 = 1 << 20;

/// Pages of a process of a container, named by its number in there. In the reply is why they do not exist any more, if that is so.
///
/// # Errors
/// When it cannot be told now.
pub fn pages(grip: &Grip, container: &str, process: i32, ranges: &[Range]) -> io::Result<FetchReply> {
    let gone = |gone: String| Ok(FetchReply { gone, ..FetchReply::default() });
    if !grip.same_boot() {
        return gone("its node was rebooted".into());
    }
    let Some(cgroup) = grip.cgroup_of(container) else { return gone(format!("container {container} of it is gone")) };
    let killed = || gone(format!("process {process} of container {container} was killed"));
    let Some(pid) = cgroup.pids().map_err(io::Error::other)?.into_iter().find(|pid| inside(*pid) == Some(process)) else { return killed() };
    let data = match read::whole(pid, ranges) {
        Ok(data) => data,
        Err(error) if error.raw_os_error() == Some(ESRCH) => return killed(),
        Err(error) => return Err(error),
    };
    // What runs there is not what was frozen: its memory may be another by now.
    if !grip.stands_still() {
        return Err(io::Error::other(format!("container {container} does not stand still")));
    }
    Ok(FetchReply { digest: blake3::hash(&data).as_bytes().to_vec(), data, gone: String::new() })
}
