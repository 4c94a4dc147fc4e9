//! A pod that came here a moment ago may still be filled by its pagers: what has not been filled is nowhere in its processes, and would be missing in a dump.

use std::{
    io,
    time::{Duration, Instant},
};

use godwit_node::{cri::Container, host::Host};
use godwit_rpc::v1::Failure;
use godwit_runtime::entry::PAGER;

use super::orphans;
use crate::failure::failure;

/// How long it is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// The pid of a pager that fills one of the containers with these ids.
///
/// # Errors
/// When the node's processes cannot be listed.
pub fn pager(host: &Host, ids: &[String]) -> io::Result<Option<String>> {
    orphans::find(host, |_, words| words.first() == Some(&PAGER) && ids.iter().any(|id| words.get(2) == Some(&id.as_str())))
}

/// Waits until no pager fills one of the containers with these ids, however long that takes.
pub async fn wait(host: &Host, ids: &[String]) {
    while !matches!(pager(host, ids), Ok(None)) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until no pager fills one of the containers. None is started for them later.
///
/// # Errors
/// When one does not end.
pub async fn await_filled(host: &Host, containers: &[Container]) -> Result<(), Failure> {
    let (end, ids) = (Instant::now() + PATIENCE, containers.iter().map(|container| container.id.clone()).collect::<Vec<_>>());
    loop {
        let who = match pager(host, &ids) {
            Ok(None) => return Ok(()),
            Ok(Some(pid)) => format!("process {pid}, {PAGER}, fills it"),
            Err(error) => format!("it cannot be seen whether it is filled: {error}"),
        };
        if Instant::now() > end {
            return Err(failure(
                "StillFilling",
                format!("memory of the pod is still on its way from its last move ({who})"),
                "try again when that move has ended: kubectl get podmigrations",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
