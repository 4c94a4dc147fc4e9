//! Puts the runtime handler `godwit` onto the node.
//!
//! ```text
//!   agent's image                      node
//!   /usr/local/bin/godwit-runtime ──▶  /opt/godwit/bin/godwit-runtime
//!   /usr/local/lib/libgodwit_veil.so ▶ /opt/godwit/lib/libgodwit_veil.so
//!                                      /etc/containerd/conf.d/godwit.toml        (containerd: then restarted; its shims keep every pod running)
//!                                      /etc/crio/crio.conf.d/50-godwit.conf      (CRI-O: likewise; a reload by SIGHUP shows a new handler in its status, but does not run it)
//! ```
//! The runtime itself is asked (CRI `Status`) whether it knows the handler; only what is missing is done, so running pods are never disturbed twice.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use godwit_api::names::{IMAGES_PORT, RUNTIME_HANDLER};
use godwit_node::{
    cgroup,
    cri::{self, Kind},
    host::Host,
};
use nix::sys::signal::Signal;

/// The wrapper in the agent's image.
const IN_IMAGE: &str = "/usr/local/bin/godwit-runtime";
/// What is ours on the node.
pub const FOLDER: &str = "/opt/godwit";
/// The wrapper on the node.
pub const ON_NODE: &str = "/opt/godwit/bin/godwit-runtime";
/// The library that is preloaded into `criu dump`, in the agent's image.
const VEIL_IN_IMAGE: &str = "/usr/local/lib/libgodwit_veil.so";
/// The same on the node.
pub const VEIL_ON_NODE: &str = "/opt/godwit/lib/libgodwit_veil.so";
/// Which runtime is below the wrapper, for the wrapper.
const SETTINGS: &str = "/opt/godwit/etc/runtime.json";
/// For how long a restart of the runtime waits for pods that are being started or taken away, and then, as one whose network or volume does not come would hold it up for ever,
/// once more for those that the runtime knows. One whose image cannot be pulled is waited for twice as long.
const CALM_WITHIN: Duration = Duration::from_secs(12);
/// So many looks in a row must see none.
const CALM_LOOKS: u32 = 3;
/// Between two looks.
const CALM_PAUSE: Duration = Duration::from_millis(200);
/// For how long a runtime may need to come back with the handler.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is written for a runtime.
pub struct DropIn {
    /// Its file on the node.
    pub path: &'static str,
    /// The process that reads it when it starts.
    pub process: &'static str,
}

/// Where a runtime wants its handlers described.
#[must_use]
pub fn drop_in(kind: Kind) -> DropIn {
    match kind {
        Kind::Containerd => DropIn { path: "/etc/containerd/conf.d/godwit.toml", process: "containerd" },
        Kind::CriO => DropIn { path: "/etc/crio/crio.conf.d/50-godwit.conf", process: "crio" },
    }
}

/// The handler as the runtime wants it described. CRI-O has one cgroup driver for all handlers; to containerd each handler says its own, and the kubelet's is that of the default
/// one: with another one containers would lie outside their pod's cgroup.
async fn content(client: &cri::Client) -> anyhow::Result<String> {
    Ok(match client.kind() {
        Kind::Containerd => containerd(client.systemd_cgroups().await.context("containerd does not say who makes its cgroups")?),
        Kind::CriO => crio(),
    })
}

fn containerd(systemd: bool) -> String {
    let driver = if systemd { "    SystemdCgroup = true\n" } else { "" };
    format!(
        r#"# Written by Godwit's agent: the runtime handler of pods that arrive by migration.
version = 3

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{RUNTIME_HANDLER}]
  runtime_type = 'io.containerd.runc.v2'
  pod_annotations = ['godwit.dev/*']

  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{RUNTIME_HANDLER}.options]
    BinaryName = '{ON_NODE}'
{driver}"#
    )
}

fn crio() -> String {
    format!(
        r#"# Written by Godwit's agent: the runtime handler of pods that arrive by migration.
[crio.runtime.runtimes.{RUNTIME_HANDLER}]
runtime_path = "{ON_NODE}"
runtime_type = "oci"
runtime_root = "/run/runc"
"#
    )
}

/// Has CRI-O pull from the agent's own registry on this node by plain HTTP (containers-registries.conf.d(5)).
pub const REGISTRIES: &str = "/etc/containers/registries.conf.d/50-godwit.conf";

/// Installs or renews everything; returns when the runtime knows the handler, or at once if there shall be none.
///
/// # Errors
/// When a file cannot be written, runc is not on the node, or the runtime does not take the handler up.
pub async fn install(host: &Host, handler: bool) -> anyhow::Result<cri::Client> {
    let runc = find(host, "runc").context("runc is not on this node: install it (1.2 or later); restored pods run under it")?;
    let settings = format!("{{\"runtime\": \"{}\"}}\n", runc.display());
    write_if_other(&host.path(SETTINGS), settings.as_bytes(), 0o644)?;
    let wrapper = fs::read(IN_IMAGE).with_context(|| format!("{IN_IMAGE} is not in the agent's image"))?;
    write_if_other(&host.path(ON_NODE), &wrapper, 0o755)?;

    let veil = fs::read(VEIL_IN_IMAGE).with_context(|| format!("{VEIL_IN_IMAGE} is not in the agent's image"))?;
    write_if_other(&host.path(VEIL_ON_NODE), &veil, 0o755)?;

    let client = cri::Client::detect(host).await.context("neither containerd nor CRI-O answers on this node")?;
    if !handler {
        return Ok(client);
    }
    let drop_in = drop_in(client.kind());
    let changed = write_if_other(&host.path(drop_in.path), content(&client).await?.as_bytes(), 0o644)?;
    if !changed && knows_handler(&client).await && !older_than(host, drop_in.process, &host.path(drop_in.path)) {
        return Ok(client);
    }
    tracing::info!(file = drop_in.path, runtime = drop_in.process, "runtime handler installed");
    restart(&client, host).await?;
    match wait_for_handler(host, PATIENCE).await {
        Some(client) => Ok(client),
        None if client.kind() == Kind::Containerd => {
            bail!("containerd does not take up {}: add `imports = [\"/etc/containerd/conf.d/*.toml\"]` to /etc/containerd/config.toml", drop_in.path)
        }
        None => bail!("CRI-O does not take up {}: look at its log for the reason", drop_in.path),
    }
}

/// Lets the runtime pull checkpoint images from the agent, or no more.
///
/// # Errors
/// When a file cannot be written or removed, or CRI-O is not there to read it.
pub fn images(host: &Host, client: &cri::Client, wanted: bool) -> anyhow::Result<()> {
    let path = host.path(REGISTRIES);
    let changed = if wanted && client.kind() == Kind::CriO {
        let text = format!(
            "# Written by Godwit's agent: checkpoint images that it makes for this node.\n[[registry]]\nlocation = \"127.0.0.1:{IMAGES_PORT}\"\ninsecure = true\n"
        );
        write_if_other(&path, text.as_bytes(), 0o644)?
    } else {
        remove_if_there(&path)?
    };
    if changed && client.kind() == Kind::CriO {
        reload(host, "crio").context("CRI-O cannot be told to read its registries again")?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// How one of our files on the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// As this agent writes it.
    AsIs,
    /// Something else.
    Other,
    /// Not there.
    Missing,
}

/// Our files on the node, as they are.
pub async fn files(host: &Host, client: &cri::Client) -> Vec<(&'static str, Found)> {
    let found = |path: &Path, wanted: Option<&[u8]>| match (fs::read(host.path(path)), wanted) {
        (Ok(there), Some(wanted)) if there == wanted => Found::AsIs,
        (Ok(_), _) => Found::Other,
        (Err(_), _) => Found::Missing,
    };
    let wrapper = fs::read(IN_IMAGE).ok();
    // What it should be is not known where the runtime does not answer.
    let content = content(client).await.ok();
    let drop_in = Path::new(drop_in(client.kind()).path);
    vec![("wrapper", found(Path::new(ON_NODE), wrapper.as_deref())), ("drop-in", found(drop_in, content.as_deref().map(str::as_bytes)))]
}

fn find(host: &Host, program: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/libexec/crio"]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| host.path(path).exists())
}

/// Whether the file had to be written. The file is replaced by a rename: what runs from the old one goes on.
fn write_if_other(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<bool> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let temporary = path.with_extension("godwit-new");
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(true)
}

async fn knows_handler(client: &cri::Client) -> bool {
    client.handlers().await.is_ok_and(|handlers| handlers.iter().any(|handler| handler == RUNTIME_HANDLER))
}

async fn wait_for_handler(host: &Host, patience: Duration) -> Option<cri::Client> {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Ok(client) = cri::Client::detect(host).await
            && knows_handler(&client).await
        {
            return Some(client);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    None
}

/// Restarts the node's container runtime, when no pod is being started or taken away if it can be: through systemd where it runs, else by ending the process for its supervisor to
/// start it again.
///
/// # Errors
/// When there is no such process, or systemd refuses.
pub async fn restart(client: &cri::Client, host: &Host) -> anyhow::Result<()> {
    let process = drop_in(client.kind()).process;
    for beside in [true, false] {
        // An answer that does not come holds nothing up.
        if tokio::time::timeout(CALM_WITHIN, wait_for_calm(client, beside.then_some(host))).await.is_ok() {
            break;
        }
    }
    if host.path("/run/systemd/system").exists() {
        let status = host.command("systemctl", ["restart", process])?.status().await?;
        if !status.success() {
            bail!("systemctl restart {process} failed: {status}");
        }
        return Ok(());
    }
    signal(host, process, Signal::SIGTERM).map_err(|error| anyhow::anyhow!("cannot restart {process}: {error}"))
}

/// Waits until no pod of the node is being started, and, with the host to look at, none without a sandbox is expected. A runtime that goes away between the kubelet's
/// CreateContainer and StartContainer makes it give up the created container and start another beside it, which counts as a restart of a pod that has just come; one that goes
/// away while it makes a sandbox may leave a shim that nobody knows of.
async fn wait_for_calm(client: &cri::Client, host: Option<&Host>) {
    let mut calm = 0;
    while calm < CALM_LOOKS {
        let expected = host.map(|host| cgroup::pods_beside(host, std::process::id().cast_signed())).transpose();
        let expected = expected.inspect_err(|error| tracing::debug!(%error, "the pods' cgroups are not seen")).ok().flatten().unwrap_or_default();
        calm = match client.unsettled(expected).await {
            Ok(unsettled) if !unsettled.is_empty() => 0,
            _ => calm + 1,
        };
        tokio::time::sleep(CALM_PAUSE).await;
    }
}

/// Has a service of the node read its settings again.
///
/// # Errors
/// When there is no such process.
pub fn reload(host: &Host, process: &str) -> io::Result<()> {
    signal(host, process, Signal::SIGHUP)
}

fn signal(host: &Host, process: &str, signal: Signal) -> io::Result<()> {
    let (pid, _) = oldest(host, process).ok_or(io::ErrorKind::NotFound)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).map_err(io::Error::from)
}

/// Whether the service was started before the file was written: it may have read it since without acting on it (CRI-O on SIGHUP).
fn older_than(host: &Host, process: &str, file: &Path) -> bool {
    let written = fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    let booted =
        fs::read_to_string(host.path("/proc/stat")).ok().and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok()));
    match (written, booted, oldest(host, process)) {
        // Start times are in ticks of 10 ms since boot (proc_pid_stat(5), sysconf(_SC_CLK_TCK) is 100 on Linux).
        (Some(written), Some(booted), Some((_, ticks))) => std::time::UNIX_EPOCH + Duration::from_secs(booted) + Duration::from_millis(ticks * 10) < written,
        _ => false,
    }
}

/// Pid and start time (clock ticks since boot) of the oldest process of that name.
fn oldest(host: &Host, process: &str) -> Option<(i32, u64)> {
    let processes = fs::read_dir(host.path("/proc")).ok()?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let started = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
        (comm.trim_end() == process).then_some((pid, started))
    });
    processes.min_by_key(|(_, started)| *started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handler_makes_cgroups_as_the_others_do() {
        assert!(containerd(true).ends_with("    BinaryName = '/opt/godwit/bin/godwit-runtime'\n    SystemdCgroup = true\n"));
        assert!(containerd(false).ends_with("    BinaryName = '/opt/godwit/bin/godwit-runtime'\n"));
    }
}
