//! A pod that stands still for a checkpoint must go on whatever becomes of the agent: what is needed for that is in the journal before the freeze.

use std::{path::Path, sync::Arc, time::Duration};

use godwit_rpc::v1::Failure;
use serde::{Deserialize, Serialize};

use crate::{
    failure::internal,
    node::Node,
    source::{grip::Grip, orphans},
};

/// Role name in the journal.
pub const ROLE: &str = "checkpoint";

/// How often a pod is tried to be let go, and the pause between.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// The journal's entry.
#[derive(Clone, Deserialize, Serialize)]
pub struct Entry {
    /// UID of the checkpoint.
    pub uid: String,
    /// The pod.
    pub grip: Grip,
}

impl Entry {
    /// Writes it down; from now on the pod goes on.
    ///
    /// # Errors
    /// When the disk refuses: nothing may be frozen then.
    pub fn write(&self, node: &Node) -> Result<(), Failure> {
        node.journal.write(ROLE, &self.uid, self).map_err(|error| internal("the journal cannot be written", error))
    }

    /// The pod goes on: what it sends and gets passes again, its processes run.
    pub async fn let_go(&self, node: &Arc<Node>) {
        for attempt in 0..ATTEMPTS {
            let (entry, here) = (self.clone(), node.clone());
            match tokio::task::spawn_blocking(move || entry.release(&here)).await {
                Ok(Ok(())) => {
                    if let Err(error) = node.journal.remove(ROLE, &self.uid) {
                        tracing::warn!(%error, "the journal keeps an entry of a checkpoint that has ended");
                    }
                    return;
                }
                Ok(Err(why)) => tracing::error!(pod = self.grip.uid(), reason = why.reason, message = why.message, attempt, "the pod cannot be thawed"),
                Err(error) => tracing::error!(%error, pod = self.grip.uid(), attempt, "the pod cannot be thawed"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        // The next agent tries again: the journal has it.
    }

    fn release(&self, node: &Node) -> Result<(), Failure> {
        // Without its sandbox there are no rules and nobody to thaw.
        if let Ok(gate) = self.grip.gate(&node.host) {
            gate.open().map_err(|error| internal("cannot open the traffic gate", error))?;
        }
        self.grip.thaw()
    }
}

/// Lets every pod go on that an earlier agent had frozen for a checkpoint, once its CRIU has ended. Before anybody can order another checkpoint.
///
/// # Errors
/// When the journal cannot be read.
pub async fn recover(node: &Arc<Node>) -> anyhow::Result<()> {
    for entry in node.journal.load::<Entry>(ROLE)? {
        orphans::await_criu(&node.host, &images_of(&entry.uid)).await;
        if entry.grip.same_boot() {
            tracing::warn!(pod = entry.grip.uid(), "a checkpoint was cut off; its pod goes on");
            entry.let_go(node).await;
        } else if let Err(error) = node.journal.remove(ROLE, &entry.uid) {
            tracing::warn!(%error, "the journal keeps an entry of a checkpoint that has ended");
        }
        tidy(node, &entry.uid);
    }
    Ok(())
}

/// Where a checkpoint's images are while they are made, as the node names it: tmpfs.
#[must_use]
pub fn images_of(uid: &str) -> std::path::PathBuf {
    Path::new(crate::source::pod::IMAGES).join(uid)
}

/// Frees them.
pub fn tidy(node: &Node, uid: &str) {
    let images = node.host.path(images_of(uid));
    if let Err(error) = std::fs::remove_dir_all(&images)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, images = %images.display(), "cannot free the images");
    }
}
