//! journald of the node, through the node's own `journalctl`.

use std::process::Stdio;
use std::time::Duration;

use godwit_node::host::Host;
use godwit_trace::read::{self, Scene};
use jiff::tz::TimeZone;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::Listener;
use crate::clock::now_us;

/// What is asked for: units of kubelets and runtimes, and what conmon and OCI runtimes say of themselves. `+` is "or".
const MATCHES: [&str; 18] = [
    "_SYSTEMD_UNIT=kubelet.service",
    "+",
    "_SYSTEMD_UNIT=crio.service",
    "+",
    "_SYSTEMD_UNIT=containerd.service",
    "+",
    "_SYSTEMD_UNIT=k3s.service",
    "+",
    "_SYSTEMD_UNIT=k3s-agent.service",
    "+",
    "_SYSTEMD_UNIT=rke2-agent.service",
    "+",
    "_SYSTEMD_UNIT=rke2-server.service",
    "+",
    "SYSLOG_IDENTIFIER=conmon",
    "+",
    "SYSLOG_IDENTIFIER=runc",
    "SYSLOG_IDENTIFIER=crun",
];
/// How long the past may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the node has a journal.
#[must_use]
pub fn there(host: &Host) -> bool {
    let program = ["/usr/bin/journalctl", "/bin/journalctl"].iter().any(|path| host.path(path).exists());
    program && ["/run/log/journal", "/var/log/journal"].iter().any(|path| host.path(path).is_dir())
}

/// Tells what it holds; gives the cursor of the last entry.
pub async fn past(host: &Host, listener: &Listener) -> Option<String> {
    let since = format!("--since=@{}", listener.since_us / 1_000_000);
    match tokio::time::timeout(PATIENCE, read(host, listener, &[since])).await {
        Ok(cursor) => cursor,
        Err(_) => {
            listener.explain(&format!("journalctl did not end within {} s", PATIENCE.as_secs())).await;
            None
        }
    }
}

/// Tells what comes, until nobody listens.
pub async fn follow(host: Host, listener: Listener, cursor: Option<String>) {
    let from = cursor.map_or_else(|| "--since=now".to_owned(), |cursor| format!("--after-cursor={cursor}"));
    let closed = listener.out.clone();
    let words = ["--follow".to_owned(), "--lines=all".to_owned(), from];
    tokio::select! {
        _ = read(&host, &listener, &words) => {}
        () = closed.closed() => {}
    }
}

async fn read(host: &Host, listener: &Listener, words: &[String]) -> Option<String> {
    let fixed = ["--output=json", "--all", "--no-pager", "--quiet"].map(str::to_owned);
    let all = fixed.iter().chain(words).cloned().chain(MATCHES.map(str::to_owned));
    let mut command = host.command("journalctl", all).ok()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            listener.explain(&format!("journalctl cannot be started: {error}")).await;
            return None;
        }
    };
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    let mut cursor = None;
    while let Ok(Some(text)) = lines.next_line().await {
        if let Some(found) = cursor_of(&text) {
            cursor = Some(found);
        }
        let scene = Scene { now_us: now_us(), zone: TimeZone::UTC };
        if listener.concerns(&text)
            && let Some(line) = read::journal::line(&text, &scene)
        {
            listener.tell(line).await;
        }
    }
    let _ = child.wait().await;
    cursor
}

fn cursor_of(text: &str) -> Option<String> {
    let rest = text.split_once("\"__CURSOR\":\"")?.1;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_found() {
        assert_eq!(cursor_of(r#"{"MESSAGE":"x","__CURSOR":"s=ab;i=1","_PID":"1"}"#).as_deref(), Some("s=ab;i=1"));
        assert_eq!(cursor_of("{}"), None);
    }
}
