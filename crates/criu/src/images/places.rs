//! What processes live in: mounts, cgroups, seccomp filters.

use std::collections::BTreeSet;

use super::Set;
use super::tree::{Life, Process};
use crate::Problem;

/// The ids of all mounts.
pub fn mounts(set: &Set) -> Result<BTreeSet<u64>, Problem> {
    let mut ids = BTreeSet::new();
    for (name, image) in set.images.iter().filter(|(name, _)| name.starts_with("mountpoints-")) {
        let own: BTreeSet<u64> = image.views().filter_map(|mount| mount.number("mnt_id")).collect();
        if own.len() != image.len() {
            return Err(Problem::damaged(name, "a mount is there twice"));
        }
        // The root's parent is the mount of another namespace.
        let orphans = image.views().filter(|mount| mount.number("parent_mnt_id").is_none_or(|parent| !own.contains(&parent))).count();
        if orphans != 1 && !own.is_empty() {
            return Err(Problem::damaged(name, format!("{orphans} mounts have no parent, instead of the root alone")));
        }
        if let Some(mount) = image.views().find(|mount| mount.flag("ext_mount") && mount.text("ext_key").is_some_and(|key| key.is_empty())) {
            return Err(Problem::damaged(name, format!("the external mount {} has no key", mount.text("mountpoint").unwrap_or_default())));
        }
        ids.extend(own);
    }
    Ok(ids)
}

/// Checks what threads refer to.
pub fn check(set: &Set, processes: &[(Process, Life)]) -> Result<(), Problem> {
    let sets: BTreeSet<u64> =
        set.images.get("cgroup.img").iter().filter_map(|image| image.first()).flat_map(|all| all.views("sets")).filter_map(|one| one.number("id")).collect();
    let filters = set.images.get("seccomp.img").and_then(|image| image.first()).map_or(0, |all| all.views("seccomp_filters").len() as u64);
    for thread in processes.iter().filter(|(_, life)| life.alive).flat_map(|(process, _)| &process.threads) {
        let name = format!("core-{thread}.img");
        let core = set.first(&name)?;
        let Some(own) = core.view("thread_core") else { continue };
        let group = own.number("cg_set").or_else(|| core.view("tc")?.number("cg_set"));
        if let Some(group) = group.filter(|group| !sets.contains(group)) {
            return Err(Problem::damaged(&name, format!("its set of cgroups {group} is not in cgroup.img")));
        }
        // SECCOMP_MODE_FILTER
        if own.number("seccomp_mode") == Some(2) && own.number("seccomp_filter").unwrap_or(0) >= filters {
            return Err(Problem::damaged(&name, "its seccomp filter is not in seccomp.img"));
        }
        if own.view("creds").is_none() && !set.images.contains_key(&format!("creds-{thread}.img")) {
            return Err(Problem::damaged(&name, "it has no credentials"));
        }
    }
    let namespaces =
        |pid: i32| set.first(&format!("core-{pid}.img")).ok().and_then(|core| core.view("ids")).or_else(|| set.first(&format!("ids-{pid}.img")).ok());
    let has_mounts = set.images.keys().any(|name| name.starts_with("mountpoints-"));
    for (process, _) in processes.iter().filter(|(_, life)| life.alive) {
        if let Some(id) = namespaces(process.pid).and_then(|ids| ids.number("mnt_ns_id"))
            && has_mounts
        {
            set.image(&format!("mountpoints-{id}.img"))?;
        }
    }
    Ok(())
}
