//! Names of target pods: `<base>-m<n>`.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use godwit_api::names;

/// Longest name that is a host name as well.
const LONGEST: usize = 63;

/// Name and number of the pod that continues `source`, beginning with `n = next_number(source)`.
#[must_use]
pub fn target_name(source: &Pod, n: u32) -> String {
    let name = source.name_any();
    let base = split(source, &name).0;
    let suffix = format!("-m{n}");
    let room = LONGEST.saturating_sub(suffix.len()).min(base.len());
    format!("{}{suffix}", base[..room].trim_end_matches(['-', '.']))
}

/// Name number `n` of a pod that is made of a checkpoint of the pod `name`: `<name>-r<n>`.
#[must_use]
pub fn restored_name(name: &str, n: u32) -> String {
    let suffix = format!("-r{n}");
    let room = LONGEST.saturating_sub(suffix.len()).min(name.len());
    format!("{}{suffix}", name[..room].trim_end_matches(['-', '.']))
}

/// The first number to try: one more than the source's own, if it was made by a migration itself.
#[must_use]
pub fn next_number(source: &Pod) -> u32 {
    split(source, &source.name_any()).1.saturating_add(1)
}

/// Base and number. Only a pod that a migration made has a number; another one may be called `-m1` for its own reasons.
fn split<'a>(source: &Pod, name: &'a str) -> (&'a str, u32) {
    if !source.annotations().contains_key(names::ANNOTATION_MIGRATION) {
        return (name, 0);
    }
    match name.rsplit_once("-m") {
        Some((base, number)) if !base.is_empty() => number.parse().map_or((name, 0), |number| (base, number)),
        _ => (name, 0),
    }
}

/// The host name that the source's processes see, if a pod may be given it (a DNS label).
#[must_use]
pub fn hostname(source: &Pod) -> Option<String> {
    if let Some(name) = source.spec.as_ref().and_then(|spec| spec.hostname.clone()) {
        return Some(name);
    }
    // As the kubelet does: the pod's name, cut at 63, without trailing separators.
    let name = source.name_any();
    let cut = name[..name.len().min(LONGEST)].trim_end_matches(['-', '.']).to_owned();
    (!cut.contains('.')).then_some(cut)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use kube::api::ObjectMeta;

    fn pod(name: &str, moved: bool) -> Pod {
        let annotations = moved.then(|| [(names::ANNOTATION_MIGRATION.to_owned(), "u".to_owned())].into());
        Pod { metadata: ObjectMeta { name: Some(name.into()), annotations, ..ObjectMeta::default() }, ..Pod::default() }
    }

    fn first(pod: &Pod) -> String {
        target_name(pod, next_number(pod))
    }

    #[test]
    fn a_moved_pod_counts_on() {
        assert_eq!(first(&pod("web-0", false)), "web-0-m1");
        assert_eq!(first(&pod("web-0-m1", true)), "web-0-m2");
        assert_eq!(first(&pod("web-0-m9", true)), "web-0-m10");
        assert_eq!(first(&pod("web-0-m1", false)), "web-0-m1-m1");
        assert_eq!(first(&pod("-m3", true)), "-m3-m1");
        assert_eq!(first(&pod("web-mx", true)), "web-mx-m1");
    }

    #[test]
    fn names_stay_host_names() {
        let long = first(&pod(&"a".repeat(63), false));
        assert_eq!(long, format!("{}-m1", "a".repeat(60)));
        let dash = first(&pod(&format!("{}-{}", "a".repeat(59), "bcd"), false));
        assert_eq!(dash, format!("{}-m1", "a".repeat(59)));
        assert!(first(&pod(&"b".repeat(253), false)).len() <= 63);
    }

    #[test]
    fn restored_pods_are_numbered() {
        assert_eq!(restored_name("web-0", 1), "web-0-r1");
        assert_eq!(restored_name(&"a".repeat(200), 12), format!("{}-r12", "a".repeat(59)));
    }

    #[test]
    fn the_host_name_is_kept() {
        assert_eq!(hostname(&pod("web-0", false)), Some("web-0".into()));
        assert_eq!(hostname(&pod("web.0", false)), None);
        assert_eq!(hostname(&pod(&"a".repeat(80), false)), Some("a".repeat(63)));
        let mut named = pod("web-0", false);
        named.spec = Some(k8s_openapi::api::core::v1::PodSpec { hostname: Some("db".into()), ..Default::default() });
        assert_eq!(hostname(&named), Some("db".into()));
    }
}
