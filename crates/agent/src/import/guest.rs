//! Whose containers the runtime makes: those of a migration's target pod, or of a new pod that a checkpoint is restored in.

use std::{path::PathBuf, sync::Arc};

use godwit_migration::handover::target::State;
use godwit_rpc::v1::{Failure, Migration};
use godwit_runtime::protocol::Reply;

use crate::{
    checkpoint::restore::Restoration,
    target::{pod::images_of, session::Session},
};

/// What names a pod that is to come.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// UID of the migration or of the PodRestore.
    pub uid: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Where its images come, as the node names it.
    pub images: PathBuf,
}

impl From<&Migration> for Arrival {
    fn from(migration: &Migration) -> Self {
        Self { uid: migration.uid.clone(), pod_uid: migration.target_pod_uid.clone(), images: images_of(&migration.source_pod_uid) }
    }
}

/// How it stands with containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// The next one that comes is taken.
    Open,
    /// Those that have come count; what was made for them stays.
    Counted,
    /// It has ended.
    Over,
}

/// See the module.
#[derive(Clone)]
pub enum Guest {
    /// A migration in the target role.
    Migration(Session),
    /// A restore.
    Restore(Arc<Restoration>),
}

impl Guest {
    /// How it stands.
    #[must_use]
    pub fn stand(&self) -> Stand {
        match self {
            Self::Migration(session) => match session.machine().state() {
                State::Prepared => Stand::Open,
                State::Running | State::Done | State::Never { .. } => Stand::Over,
                _ => Stand::Counted,
            },
            Self::Restore(restoration) => restoration.stand(),
        }
    }

    /// A container has come: CRIU waits. Anything but [`Reply::Keep`]: it is not taken.
    pub async fn create(&self, name: &str, id: &str) -> Reply {
        match self {
            Self::Migration(session) => session.create(name, id).await,
            Self::Restore(restoration) => restoration.create(name, id),
        }
    }

    /// It cannot come.
    pub fn refuse(&self, why: Failure) {
        match self {
            Self::Migration(session) => session.refuse(why),
            Self::Restore(restoration) => restoration.end(why),
        }
    }
}
