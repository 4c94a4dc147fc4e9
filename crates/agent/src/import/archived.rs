//! What a checkpoint image of a container says beside its memory and files. Told by the agent of the source, made an image of by that of the target.

use std::{collections::BTreeMap, path::Path};

use godwit_criu::{descriptors, dump, mounts::External};
use godwit_node::cri::Container;
use godwit_rpc::v1::Failure;
use serde::{Deserialize, Serialize};

use crate::{convert, failure::internal};

/// Travels as JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Archived {
    /// What fds 0, 1, 2 of the init process are: the runtime reads that before there are images.
    pub descriptors: Vec<String>,
    /// The mounts that the target must provide: their keys stand in CRIU's configuration before there are images.
    pub externals: Vec<External>,
    /// What the kubelet has written down with the container.
    pub annotations: BTreeMap<String, String>,
    /// Where its bind mounts are.
    pub binds: Vec<String>,
    /// Paths that are covered.
    pub masked: Vec<String>,
    /// Paths that cannot be written.
    pub readonly: Vec<String>,
    /// The id of its image, without `sha256:`; empty if the runtime does not have it any more.
    pub image_id: String,
}

impl Archived {
    /// Looks at a running container with an image of this id. Touches nothing.
    ///
    /// # Errors
    /// When its mounts cannot be carried, or it has just ended.
    pub fn of(container: &Container, image_id: &str) -> Result<Self, Failure> {
        let (proc, nowhere) = (Path::new("/proc"), Path::new("/"));
        let source = dump::Source { spec: &container.spec.raw, pid: container.pid, proc, freezer: nowhere, rootfs: &container.rootfs };
        let plan = dump::Plan::of(&source).map_err(|problem| convert::criu_failure(&problem.failure(), &container.name))?;
        let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        let binds = container
            .spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind"))
            .map(|mount| text(&mount.destination));
        Ok(Self {
            descriptors: descriptors::of(proc, container.pid).map_err(|error| internal("cannot look at the init process", error))?,
            externals: plan.externals,
            annotations: container.annotations.clone(),
            binds: binds.collect(),
            masked: container.spec.masked_paths.iter().map(text).collect(),
            readonly: container.spec.readonly_paths.iter().map(text).collect(),
            image_id: image_id.to_owned(),
        })
    }
}
