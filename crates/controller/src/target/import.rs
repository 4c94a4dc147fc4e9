//! The target pod of a migration without Godwit's runtime handler: its containers name checkpoint images that the target's agent makes and serves. And back: what such a pod
//! runs when a container starts anew.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod, PodSpec, Volume};
use kube::ResourceExt;

use godwit_api::names;

/// The own images of a pod's containers by their names, if it came so.
#[must_use]
pub fn own_images(pod: &Pod) -> BTreeMap<String, String> {
    pod.annotations().get(names::ANNOTATION_IMAGES).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whether a volume of such a pod only has an image pulled.
#[must_use]
pub fn only_pulls(volume: &Volume) -> bool {
    volume.image.is_some() && volume.name.starts_with(names::VOLUME_BASE)
}

/// Gives the containers of a pod that came so their own images again.
pub fn own(spec: &mut PodSpec, origin: &Pod) {
    let images = own_images(origin);
    for container in &mut spec.containers {
        if container.image.as_deref().is_some_and(names::is_checkpoint_image) {
            container.image = images.get(&container.name).cloned();
        }
    }
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| !only_pulls(volume));
    }
}

/// Has the container runtime make the containers from checkpoint images; gives their own. The kubelet has those pulled, too, with the pod's own secrets: for a volume that no
/// container mounts.
pub fn checkpoints(spec: &mut PodSpec, migration: &str) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    for (number, container) in spec.containers.iter_mut().enumerate() {
        let own = container.image.replace(names::checkpoint_image(migration, &container.name)).unwrap_or_default();
        let source = ImageVolumeSource { reference: Some(own.clone()), pull_policy: container.image_pull_policy.replace("IfNotPresent".into()) };
        let volume = Volume { name: format!("{}{number}", names::VOLUME_BASE), image: Some(source), ..Volume::default() };
        spec.volumes.get_or_insert_default().push(volume);
        images.insert(container.name.clone(), own);
    }
    // They were done at the source, and nothing would keep them from being done again.
    spec.init_containers = None;
    images
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_gets_its_own_images_back() {
        let origin = json!({"containers": [{"name": "web", "image": "app:1", "imagePullPolicy": "Never"}], "initContainers": [{"name": "first"}], "volumes": [{"name": "data", "emptyDir": {}}]});
        let mut spec: PodSpec = serde_json::from_value(origin.clone()).unwrap();
        let images = checkpoints(&mut spec, "uid");
        assert_eq!(spec.containers[0].image.as_deref(), Some("127.0.0.1:741/uid/web:1"));
        assert_eq!((spec.containers[0].image_pull_policy.as_deref(), spec.init_containers.as_ref()), (Some("IfNotPresent"), None));
        let volume = &spec.volumes.as_ref().unwrap()[1];
        assert_eq!(volume.image.as_ref().unwrap().pull_policy.as_deref(), Some("Never"));
        let mut pod = Pod { spec: Some(spec.clone()), ..Pod::default() };
        pod.annotations_mut().insert(names::ANNOTATION_IMAGES.into(), serde_json::to_string(&images).unwrap());
        own(&mut spec, &pod);
        assert_eq!((spec.containers[0].image.as_deref(), spec.volumes.unwrap().len()), (Some("app:1"), 1));
    }
}
