//! The target role: the pod comes to this node.

mod compare;
pub mod consumed;
pub mod deaths;
pub mod desk;
pub mod files;
pub mod filling;
mod lost;
pub mod mounts;
pub mod pages;
pub mod pod;
pub mod receive;
pub mod roots;
pub mod session;
pub mod voices;

use std::time::Duration;

use godwit_node::host::Host;

/// Between two looks for what nobody needs any more.
const SWEEP: Duration = Duration::from_secs(3);

/// Takes away, for ever, markers whose pod is gone and what killed restores have left.
pub async fn keep_swept(host: Host) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if let Err(error) = consumed::sweep(&host) {
            tracing::warn!(%error, "cannot sweep the consumed markers");
        }
        if let Err(error) = roots::sweep(&host).await {
            tracing::warn!(%error, "cannot sweep what a killed restore left");
        }
    }
}
