//! Which lines concern one migration.
//!
//! A line does when it names one of the migration's own names: its UID, the UIDs of its pods, `namespace/pod`, a container's or sandbox's id, the pid of a
//! task. Ids are learned on the way: a line that names a pod and one or two ids says whose they are. A line with many ids is a list of everything on the
//! node: it teaches nothing and concerns nobody. Nor does one that lists pods teach, and one that is about a pod (`pod="namespace/name"`) is about that one.

use std::collections::BTreeSet;

/// Length of a container's or sandbox's id.
const ID: usize = 64;
/// With more ids than this a line is a list.
const LIST: usize = 3;
/// What lists of pods and containers begin with, in the kubelet's and the runtimes' words; a short one has few ids.
const LISTS: [&str; 3] = ["pods=[", "v1.List", "ContainersResponse"];
/// How the kubelet says which pod a line is about, and CRI-O which container: `pod="shop/web-1"`, `description=shop/web-1/main`.
const SUBJECTS: [&str; 2] = ["pod=\"", "description="];
/// How CRI-O and containerd say which sandbox a container belongs to.
const OF_A_SANDBOX: [&str; 2] = ["sandboxID=", "within sandbox"];
/// What stands before the id of an image or of a layer, which many containers share.
const SHARED: [&str; 5] = ["sha256:", "@", "overlay/", "overlay-images/", "overlay-layers/"];

/// The names of one migration on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    names: BTreeSet<String>,
    /// Ids from lines that named the pod.
    learned: BTreeSet<String>,
    pids: BTreeSet<i32>,
}

impl Interest {
    /// From UIDs: of the migration and of its pods. What is empty is left out.
    #[must_use]
    pub fn in_uids<'a>(uids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut interest = Self::default();
        uids.into_iter().for_each(|uid| interest.add(uid));
        interest
    }

    /// Adds a name: a UID (also as systemd writes it in the name of a slice) or an id.
    pub fn add(&mut self, name: &str) {
        // Shorter ones would be found in the middle of anything.
        if name.len() >= 8 {
            self.names.insert(name.to_owned());
            if name.len() == 36 && name.contains('-') {
                self.names.insert(name.replace('-', "_"));
            }
        }
    }

    /// Adds a pod by its name.
    pub fn add_pod(&mut self, namespace: &str, name: &str) {
        if !namespace.is_empty() && !name.is_empty() {
            self.names.insert(format!("{namespace}/{name}"));
            self.names.insert(format!("{namespace}_{name}"));
        }
    }

    /// Adds the pid of a task.
    pub fn add_pid(&mut self, pid: i32) {
        if pid > 1 {
            self.pids.insert(pid);
        }
    }

    /// The pids.
    #[must_use]
    pub fn pids(&self) -> &BTreeSet<i32> {
        &self.pids
    }

    /// Whether the text concerns the migration; learns ids from it if so.
    pub fn concerns(&mut self, text: &str) -> bool {
        let named = self.names.iter().any(|name| stands_in(name, text));
        if !named && !self.learned.iter().any(|id| text.contains(id)) {
            return false;
        }
        let found = ids(text);
        if found.len() > LIST || self.is_of_another(text) {
            return false;
        }
        // One wrong id would teach the next: a line without a name of ours teaches only which containers a sandbox has.
        let teaches = (named || OF_A_SANDBOX.iter().any(|words| text.contains(words))) && !LISTS.iter().any(|list| text.contains(list));
        if teaches {
            self.learned.extend(found.into_iter().map(str::to_owned));
        }
        true
    }

    /// Whether the line says itself that it is about another pod.
    fn is_of_another(&self, text: &str) -> bool {
        SUBJECTS.iter().filter_map(|before| text.split_once(before)).any(|(_, rest)| {
            let subject = rest.split(['"', ' ']).next().unwrap_or_default();
            let mut parts = subject.splitn(3, '/');
            let (Some(namespace), Some(pod)) = (parts.next(), parts.next()) else { return false };
            !self.names.contains(&format!("{namespace}/{pod}"))
        })
    }

    /// Whether a process with this pid is a task of the pod.
    #[must_use]
    pub fn has_pid(&self, pid: i32) -> bool {
        self.pids.contains(&pid)
    }
}

/// Whether the name stands in the text as a word of its own: `shop/web-1` does not stand in `shop/web-10`.
fn stands_in(name: &str, text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        // cgroups and mounts are named `pod<uid>`, `kubepods-pod<uid>.slice`.
        let free_before = before.is_none_or(|c| !part(c)) || text[..at].ends_with("pod") || text[..at].ends_with('-');
        free_before && after.is_none_or(|c| !part(c) || (c == '-' && name.len() >= 36))
    })
}

/// Ids of containers and sandboxes, not those of images and layers.
fn ids(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let mut done = 0;
    while let Some(start) = text[done..].find(hex).map(|at| done + at) {
        done = text[start..].find(|c| !hex(c)).map_or(text.len(), |length| start + length);
        if done - start == ID && !SHARED.iter().any(|before| text[..start].ends_with(before)) {
            found.insert(&text[start..done]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "84abe4ca-71ee-420d-b7bd-259ba141862f";
    const SANDBOX: &str = "7c2510e30ba22b44347c9904ebc6e7c07ab0bacc0b4297c42a318beac8a40790";
    const CONTAINER: &str = "da33e324ae5bb5202f994b6ef6463f773217f0bcc20f0d9bd404894da85382d7";

    #[test]
    fn ids_are_learned_from_lines_of_the_kubelet_and_of_the_runtime() {
        let mut interest = Interest::in_uids([UID, ""]);
        assert!(!interest.concerns(&format!("Starting container: {CONTAINER}")));
        assert!(interest.concerns(&format!("Got pod network &{{Name:small-m12 Namespace:godwit-bench ID:{SANDBOX} UID:{UID} NetNS:/var/run/netns/x")));
        assert!(interest.concerns(&format!("Started container containerID={CONTAINER} sandboxID={SANDBOX}")));
        assert!(interest.concerns(&format!("Starting container: {CONTAINER}")));
    }

    #[test]
    fn a_pods_name_is_a_word() {
        let mut interest = Interest::default();
        interest.add_pod("shop", "web-1");
        assert!(interest.concerns(r#""SyncLoop ADD" source="api" pods=["shop/web-1"]"#));
        assert!(interest.concerns("Creating container: shop/web-1/main"));
        assert!(interest.concerns("Adding pod shop_web-1 to CNI network"));
        for other in [r#"pods=["shop/web-10"]"#, r#"pods=["eshop/web-1"]"#, r#"pods=["shop/web-1-x"]"#] {
            assert!(!interest.concerns(other), "{other}");
        }
    }

    #[test]
    fn lists_and_images_teach_nothing() {
        let mut interest = Interest::in_uids([UID]);
        let id = |digit: char| digit.to_string().repeat(64);
        let list = format!("{UID} {} {} {} {}", id('a'), id('b'), id('c'), id('d'));
        assert!(!interest.concerns(&list));
        assert!(!interest.concerns(&id('a')));
        assert!(interest.concerns(&format!("image {UID} docker.io/x@sha256:{}", id('e'))));
        assert!(!interest.concerns(&id('e')));
        assert!(interest.concerns(&format!("Mounted container of {UID} at /var/lib/containers/storage/overlay/{}/merged", id('f'))));
        assert!(!interest.concerns(&format!("Mounted another one at /var/lib/containers/storage/overlay/{}/merged", id('f'))));
    }

    #[test]
    fn a_short_list_teaches_nothing_and_a_pods_line_is_about_that_pod() {
        let mut interest = Interest::in_uids([UID]);
        interest.add_pod("shop", "web-1");
        assert!(interest.concerns(&format!(r#"Response: *v1.ListContainersResponse: {{pod uid {UID}}} {{id:"{CONTAINER}"}}"#)));
        assert!(interest.concerns(r#""SyncLoop (SYNC) pods" total=2 pods=["shop/web-1","shop/web-2"]"#));
        assert!(!interest.concerns(&format!("Starting container: {CONTAINER}")));
        assert!(!interest.concerns(&format!(r#""Status updated" pod="shop/web-2" status={{"ownerUid":"{UID}"}}"#)));
        assert!(!interest.concerns(&format!("Started container PID=1 containerID=x description=shop/web-2/main sandbox of {UID}")));
        assert!(interest.concerns(&format!(r#""Status updated" pod="shop/web-1" id={CONTAINER}"#)));
        assert!(interest.concerns(&format!("Started container PID=1 containerID={CONTAINER} description=shop/web-1/main sandboxID=x")));
        assert!(interest.concerns(&format!("Starting container: {CONTAINER}")));
    }

    #[test]
    fn cgroups_of_both_drivers_name_the_pod() {
        let mut interest = Interest::in_uids([UID]);
        assert!(interest.concerns(&format!("oom-kill:task_memcg=/kubepods/besteffort/pod{UID}/x")));
        let slice = format!("kubepods-besteffort-pod{}.slice", UID.replace('-', "_"));
        assert!(interest.concerns(&slice), "{slice}");
    }
}
