//! `create`: an ordinary container, or one that waits for a migration.
//!
//! ```text
//!   no container of a pod that names a migration ───────────▶ runc create
//!   consumed/<pod uid> exists (the migration has run) ──────▶ runc create       (a restart by the kubelet, also after a reboot)
//!   agent: Plain ───────────────────────────────────────────▶ runc create
//!   agent: Keep ────────────────────────────────────────────▶ keeper
//!   agent: Fail, or away ───────────────────────────────────▶ error; the kubelet tries again
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    arguments::{Invocation, is_name},
    cgroup, client,
    config::Config,
    error::Error,
    keeper,
    layout::Layout,
    protocol::{CONSUMED, Reply, Request, SOCKET},
    record::{self, Record},
    spec::Spec,
};

/// How long an agent that restarts is waited for before the caller is told. Nothing is decided by it: the kubelet calls again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Gives the exit code, or `None`: the runtime below shall do it.
///
/// # Errors
/// When the container must not be created now.
pub fn create(invocation: &Invocation, config: &Config, id: &str) -> Result<Option<i32>, Error> {
    let bundle = invocation.value(&["bundle", "b"]).map_or_else(|| PathBuf::from("."), PathBuf::from);
    // A bundle that cannot be read is the runtime's to complain about: it names no migration that anybody could know of.
    let Ok(spec) = Spec::load(&bundle) else {
        return Ok(None);
    };
    let Some(migration) = spec.migration() else {
        return Ok(None);
    };
    let unnamed = |missing| Error::Unnamed { container: id.into(), missing };
    let pod_uid = spec.pod_uid().filter(|uid| is_name(uid)).ok_or_else(|| unnamed("pod UID"))?;
    let name = spec.container_name().ok_or_else(|| unnamed("container name"))?;
    if Path::new(CONSUMED).join(pod_uid).exists() {
        return Ok(None);
    }
    let bundle = fs::canonicalize(&bundle).map_err(Error::file("cannot find", &bundle))?;
    let layout = vacant(id)?;
    let request = Request::Create {
        container: id.into(),
        name: name.into(),
        pod_uid: pod_uid.into(),
        migration: migration.into(),
        source_uid: spec.source_uid().unwrap_or_default().into(),
        bundle: bundle.clone(),
    };
    let refused = |why: String| Error::Refused { container: name.into(), migration: migration.into(), why };
    let away = |source| Error::AgentAway { container: name.into(), migration: migration.into(), socket: SOCKET.into(), source };
    match ask(&request).map_err(away)? {
        Reply::Plain => return Ok(None),
        Reply::Keep => {}
        Reply::Fail { why } | Reply::Abort { why } => return Err(refused(why)),
        other => {
            return Err(refused(format!("the agent gave an answer that does not fit: {other:?}")));
        }
    }
    if spec.process.terminal || invocation.value(&["console-socket"]).is_some_and(|path| !path.is_empty()) {
        return Err(Error::Terminal { container: id.into() });
    }
    let record = Record {
        id: id.into(),
        name: name.into(),
        pod_uid: pod_uid.into(),
        migration: migration.into(),
        source_uid: spec.source_uid().unwrap_or_default().into(),
        rootfs: bundle.join(&spec.root.path),
        bundle,
        created: crate::error::now(),
        oci_version: spec.version.clone(),
        runtime: config.runtime()?,
        globals: record::globals_for_restore(&invocation.globals),
        no_pivot: invocation.has(&["no-pivot"]),
        pid_file: invocation.value(&["pid-file"]).map(|path| absolute(Path::new(path))),
        cgroup: Vec::new(),
        origin: Vec::new(),
        cgroup_namespace: spec.new_cgroup_namespace(),
        namespaces: spec
            .linux
            .namespaces
            .iter()
            .filter(|namespace| !namespace.path.is_empty() && matches!(namespace.kind.as_str(), "network" | "ipc" | "uts"))
            .map(|namespace| (namespace.kind.clone(), PathBuf::from(&namespace.path)))
            .collect(),
    };
    keep(&layout, &with_cgroups(record, &spec, invocation.systemd)).map(Some)
}

/// Asks, giving an agent that restarts a moment.
fn ask(request: &Request) -> io::Result<Reply> {
    let end = Instant::now() + PATIENCE;
    loop {
        match client::ask(request) {
            Ok(reply) => return Ok(reply),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(client::PAUSE),
        }
    }
}

/// Fills in where the container's cgroup is and where we are.
fn with_cgroups(record: Record, spec: &Spec, systemd: bool) -> Record {
    let hierarchies = cgroup::hierarchies();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let init = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    Record {
        cgroup: cgroup::of_container(&hierarchies, &spec.linux.cgroups_path, &record.id, systemd, &own, &init),
        origin: cgroup::of_process(&hierarchies, &own),
        ..record
    }
}

/// The directory for a new container; what an earlier one of the same id left is removed.
fn vacant(id: &str) -> Result<Layout, Error> {
    let layout = Layout::of(id).ok_or_else(|| Error::Runtime(format!("invalid container id {id:?}")))?;
    if layout.keeper().is_some_and(|keeper| keeper.alive()) || layout.restored().is_some_and(|real| real.alive()) {
        return Err(Error::Runtime("container with given ID already exists".into()));
    }
    layout.remove().map_err(Error::file("cannot remove", &layout.path))?;
    Ok(layout)
}

/// Leaves a keeper in the container's place.
fn keep(layout: &Layout, record: &Record) -> Result<i32, Error> {
    fs::create_dir_all(&layout.path).map_err(Error::file("cannot make", &layout.path))?;
    layout.write("record.json", &record).map_err(Error::file("cannot write", layout.file("record.json")))?;
    let started = keeper::spawn(layout);
    if started.is_err() {
        cgroup::remove(&record.cgroup);
        let _ = layout.remove();
    }
    started.map(|()| 0)
}

/// A path seen from anywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
