//! `kubectl migrate run ARCHIVE`: this node's own container runtime restores a checkpoint archive, over CRI and beside Kubernetes. Everything is looked at before; then it is the runtime's
//! work, and the result nobody's pod: for nodes without a kubelet, for a look at what an archive does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use godwit_criu::archive::{Archive, Layout, MADE_BY_CRIO};
use godwit_node::cri::{Bind, Client, Kind, Order};
use godwit_node::{Host, process};
use serde_json::Value;

use crate::error::Error;
use crate::options::Run;

/// How long the runtime may take for one call.
const PATIENCE: Duration = Duration::from_secs(300);
/// Where files are that a kubelet would have made, and the log; a folder for each pod.
const FOLDER: &str = "/var/lib/godwit/archives";
/// Files that a kubelet makes of each pod.
const KUBELETS: [(&str, &str); 2] = [("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"), ("/dev/termination-log", "")];

/// Does it; gives what to say.
///
/// # Errors
/// Why not. Nothing stays then.
pub async fn run(order: &Run) -> Result<String, Error> {
    let host = Host::at("/");
    let client = match &order.runtime {
        Some(socket) => Client::connect_within(&host, socket, PATIENCE).await,
        None => Client::detect_within(&host, PATIENCE).await,
    };
    let client = client.map_err(refused)?;
    if let Some(sandbox) = &order.remove {
        return match client.remove_archived(sandbox).await.map_err(refused)? {
            Some(name) => {
                clear(&Path::new(FOLDER).join(name));
                Ok(format!("sandbox {sandbox} is gone"))
            }
            None => {
                Err(Error::Refused(format!("{sandbox} is no sandbox that `kubectl migrate run` has made\n  What to do: give the whole id, as it was printed")))
            }
        };
    }
    let given = order.archive.clone().unwrap_or_default();
    if let Some(pid) = process::named(&host.path("/proc"), "kubelet").first() {
        return Err(Error::Refused(format!(
            "a kubelet runs on this node (process {pid}), and would end a pod that it does not know\n  What to do: kubectl migrate convert {} DIRECTORY --image NAME makes an image that a kubelet takes",
            given.display()
        )));
    }
    let path = fs::canonicalize(&given).map_err(|error| Error::Unreadable(given.display().to_string(), error.to_string()))?;
    let binds = binds(&checked(&path, client.kind())?.spec, &order.name, &order.mount)?;
    let folder = Path::new(FOLDER).join(&order.name);
    fresh(&folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_nanos()).unwrap_or_default();
    let uid = format!("godwit-archive-{now}");
    let made = client.run_archive(&Order { name: &order.name, uid: &uid, archive: &path, binds: &binds, logs: &folder }).await.map_err(|error| {
        clear(&folder);
        refused(error)
    })?;
    Ok(format!(
        "✔ container {} runs, restored from {}\n  log: {}\n  end it: kubectl migrate run --remove {}",
        made.container,
        path.display(),
        made.log.display(),
        made.sandbox
    ))
}

/// Removes the folder of a pod, and with the last one the folder of all.
fn clear(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    let _ = fs::remove_dir(FOLDER);
}

/// Makes the folder of a pod, which no other may have.
fn fresh(folder: &Path) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        Error::Refused(format!("{}: {error}\n  What to do: run it as root; give another --name if that one is taken", folder.display()))
    };
    fs::create_dir_all(FOLDER).and_then(|()| fs::create_dir(folder)).map_err(failed)?;
    KUBELETS.iter().try_for_each(|(file, content)| fs::write(folder.join(name_of(file)), content)).map_err(failed)
}

fn refused(error: godwit_node::cri::Error) -> Error {
    let finding = error.finding();
    Error::Refused(format!("{}: {}\n  What to do: {}", finding.reason, finding.message, finding.remedy))
}

/// An archive that is whole, and of this runtime: CRIU never ends on some that are not.
fn checked(path: &Path, kind: Kind) -> Result<Archive, Error> {
    let failed = |problem: godwit_criu::Problem| Error::Unreadable(path.display().to_string(), problem.failure().message);
    if !path.is_file() {
        return Err(Error::Unreadable(path.display().to_string(), "an archive is a file".into()));
    }
    let mut archive = Archive::open(path).map_err(failed)?;
    archive.verify().map_err(failed)?;
    let (own, name) = if kind == Kind::CriO { (Layout::CriO, "crio") } else { (Layout::Containerd, "containerd") };
    if archive.layout == own {
        return Ok(archive);
    }
    Err(Error::Refused(format!(
        "this node's runtime is {name}, and the archive is none of its own\n  What to do: kubectl migrate convert {} TARGET --to {name}",
        path.display()
    )))
}

/// What is mounted where: all that the archive's container had, or the first that nobody named.
fn binds(spec: &Value, name: &str, named: &[(PathBuf, PathBuf)]) -> Result<Vec<Bind>, Error> {
    let mounts = spec["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let destinations: BTreeSet<&str> = mounts.iter().filter_map(|mount| mount["destination"].as_str()).collect();
    let mut binds = Vec::new();
    for destination in destinations.into_iter().filter(|destination| !MADE_BY_CRIO.contains(destination)) {
        let source = named.iter().find(|(known, _)| known == Path::new(destination)).map(|(_, source)| source.clone());
        let own = || KUBELETS.iter().any(|(file, _)| *file == destination).then(|| Path::new(FOLDER).join(name).join(name_of(destination)));
        let source = source.or_else(own).ok_or_else(|| {
            Error::Refused(format!("the container had something mounted at {destination}\n  What to do: --mount {destination}=PATH, a path of this node"))
        })?;
        binds.push(Bind { destination: destination.into(), source });
    }
    Ok(binds)
}

fn name_of(path: &str) -> String {
    path.trim_start_matches('/').replace('/', "-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mount_that_nobody_names_is_named() {
        let spec = json!({"mounts": [
            {"destination": "/proc", "type": "proc"}, {"destination": "/etc/hosts", "type": "bind"},
            {"destination": "/etc/resolv.conf", "type": "bind"}, {"destination": "/data", "type": "bind"}]});
        let missing = binds(&spec, "web", &[]).unwrap_err().to_string();
        assert!(missing.contains("mounted at /data"), "{missing}");
        let all = binds(&spec, "web", &[("/data".into(), "/srv/x".into())]).unwrap();
        let pairs: Vec<_> = all.iter().map(|bind| (bind.destination.to_str().unwrap(), bind.source.to_str().unwrap())).collect();
        assert_eq!(pairs, [("/data", "/srv/x"), ("/etc/hosts", "/var/lib/godwit/archives/web/etc-hosts")]);
    }

    #[test]
    fn what_is_no_archive_of_this_runtime_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(checked(folder.path(), Kind::CriO), Err(Error::Unreadable(..))));
    }
}
