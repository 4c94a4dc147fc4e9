//! Has the runtime log more for as long as somebody listens who asked for it.
//!
//! CRI-O takes its log level up again when it is told to (SIGHUP): a drop-in of ours raises it, and goes when the last listener has gone, or when the next agent
//! starts. containerd reads its level only when it starts, and a restart is not worth it: that is said. The kubelet's level is raised by `kubectl migrate trace`
//! itself, with the rights of its user, through the API server (`PUT …/nodes/NODE/proxy/debug/flags/v`): agents have no such right.

use std::fs;
use std::sync::{Mutex, PoisonError};

use godwit_node::cri::Kind;
use godwit_node::host::Host;

use super::Listener;
use crate::install;
use crate::node::Node;

/// The drop-in. CRI-O reads these in the order of their names, the last one wins.
const DROP_IN: &str = "/etc/crio/crio.conf.d/99-godwit-trace.conf";
const CONTENT: &str = "# Written by Godwit's agent while `kubectl migrate trace --raise` runs; it goes with it.\n[crio.runtime]\nlog_level = \"debug\"\n";

/// How many listen.
static LISTENERS: Mutex<usize> = Mutex::new(0);

/// The level is raised while this is there.
pub struct Raised(Option<Host>);

impl Drop for Raised {
    fn drop(&mut self) {
        let Some(host) = &self.0 else { return };
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        *listeners = listeners.saturating_sub(1);
        if *listeners == 0 {
            lower(host);
        }
    }
}

/// Raises it, or says why not.
pub async fn raise(node: &Node, listener: &Listener) -> Raised {
    if node.cri.kind() == Kind::Containerd {
        listener.explain("containerd logs no more than before: it reads its level ([debug] level) only when it starts").await;
        return Raised(None);
    }
    let outcome = {
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = if *listeners == 0 { fs::write(node.host.path(DROP_IN), CONTENT).and_then(|()| install::reload(&node.host, "crio")) } else { Ok(()) };
        if outcome.is_ok() {
            *listeners += 1;
        }
        outcome
    };
    match outcome {
        Ok(()) => {
            listener.explain("CRI-O logs more while this trace lasts").await;
            Raised(Some(node.host.clone()))
        }
        Err(error) => {
            let _ = fs::remove_file(node.host.path(DROP_IN));
            listener.explain(&format!("CRI-O logs no more than before: {error}")).await;
            Raised(None)
        }
    }
}

/// What an agent that was killed has left raised.
pub fn undo_leftovers(host: &Host) {
    if host.path(DROP_IN).exists() {
        lower(host);
    }
}

fn lower(host: &Host) {
    let gone = fs::remove_file(host.path(DROP_IN)).and_then(|()| install::reload(host, "crio"));
    if let Err(error) = gone {
        tracing::warn!(%error, "CRI-O may go on logging more: remove {DROP_IN} and send it SIGHUP");
    }
}
