//! The root-only unix socket on which the node's wrappers, keepers and CRIU stand-ins ask (protocol in `godwit_runtime::protocol`).
//!
//! ```text
//!   godwit-runtime ──one JSON line──▶ socket ──▶ Desk::answer ──(may wait for long)──▶ one JSON line back
//! ```

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use godwit_runtime::protocol::{Reply, Request};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::{target::desk::Desk, trace};

/// Serves until the process ends; `containers` is where the containers' directories are.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(path: &Path, containers: PathBuf, desk: Arc<Desk>) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("cannot replace the old socket");
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (desk, containers) = (desk.clone(), containers.clone());
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &containers, &desk).await {
                        tracing::debug!(%error, "a question on the node's socket was left");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the node's socket does not accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// Reads one question and answers it, unless whoever asked leaves before.
async fn answer(stream: UnixStream, containers: &Path, desk: &Desk) -> anyhow::Result<()> {
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(64 << 10);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            tracing::debug!(?request, "asked");
            trace::asked::asked(&request, peer);
            trace::asked::follow_restore(&request, containers);
            let mut rest = [0u8; 1];
            tokio::select! {
                reply = desk.answer(&request) => {
                    trace::asked::answered(&request, &reply);
                    reply
                }
                _ = reader.read(&mut rest) => {
                    desk.left(&request);
                    anyhow::bail!("{request:?}: whoever asked has gone");
                }
            }
        }
        Err(error) => Reply::Fail { why: format!("not a question of this protocol: {error}") },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    Ok(())
}
