//! What the wrapper, the keeper and the CRIU stand-in with its gate say to the agent, and its answers.
//!
//! One connection to the root-only unix socket [`SOCKET`] for each question: one line of JSON there, one line of JSON back. The answer may take as long
//! as the migration needs; whoever asks never acts on a time-out. A connection that breaks (the agent restarted) is made again and the question asked again,
//! so every question is idempotent.
//!
//! ```text
//!   create (wrapper) ── Create ──▶ Plain | Keep | Fail
//!   keeper           ── Keeper ──▶ Restore | Exit             (answered at Handoff.Open)
//!   criu stand-in    ── Images ──▶ Go | Abort                 (answered when the images are there and verified)
//!   criu stand-in    ── Gate ────▶ Go | Abort                 (answered after the commit; CRIU is held at post-restore)
//!   criu stand-in    ── Resumed ─▶ Ok                         (post-resume: the processes run)
//!   keeper           ── Restored ▶ Ok                         (runc restore has ended)
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The agent's socket on the node.
pub const SOCKET: &str = "/run/godwit/agent.sock";
/// One directory for each container that a keeper holds or held, named by the container's id.
pub const CONTAINERS: &str = "/run/godwit/containers";
/// One empty file for each target pod, named by its UID, made (and fsynced) by the agent as soon as something of the pod has run, not before the gate opens
/// (`godwit_migration::handover`, rule 3). From then on `create` of a container of that pod starts the image afresh. Survives reboots.
pub const CONSUMED: &str = "/var/lib/godwit/consumed";

/// A question.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// The wrapper was called with `create` for a container whose pod names a migration.
    Create {
        /// The container's id.
        container: String,
        /// The container's name in its pod.
        name: String,
        /// UID of the (target) pod.
        pod_uid: String,
        /// Annotation `godwit.dev/migration`.
        migration: String,
        /// Annotation `godwit.dev/source-uid`.
        source_uid: String,
        /// The OCI bundle.
        bundle: PathBuf,
    },
    /// The keeper asks what to do.
    Keeper {
        /// The container's id.
        container: String,
    },
    /// The stand-in for criu was told to restore and asks whether the images are there.
    Images {
        /// The container's id.
        container: String,
    },
    /// CRIU stands at `post-restore`: everything is restored, nothing has run.
    Gate {
        /// The container's id.
        container: String,
        /// Pid of the restored init process in the node's pid namespace.
        init_pid: i32,
    },
    /// CRIU has resumed the processes.
    Resumed {
        /// The container's id.
        container: String,
        /// Pid of the restored init process in the node's pid namespace.
        init_pid: i32,
    },
    /// `runc restore` has ended.
    Restored {
        /// The container's id.
        container: String,
        /// Its exit code; 0 is success.
        code: i32,
        /// The end of its output, for the diagnosis.
        output: String,
    },
}

/// An answer.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Reply {
    /// To `Create`: this is an ordinary container, call the runtime below.
    Plain,
    /// To `Create`: leave a keeper.
    Keep,
    /// To `Create`: fail, with this text; the kubelet will call again.
    Fail {
        /// What to tell the caller.
        why: String,
    },
    /// To `Keeper`: restore from here. The directory holds `descriptors.json` now and the images once `Images` is answered.
    Restore {
        /// The image directory.
        images: PathBuf,
        /// More lines for the CRIU configuration file of this restore, e.g. `external mnt[/dev]:/run/godwit/…`.
        criu: Vec<String>,
        /// The page store: memory that travelled before, which fills the processes while they run. Its table is there once `Images` is answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store: Option<PathBuf>,
    },
    /// To `Keeper`: there is nothing to restore (an init container that is done, a migration that was undone).
    Exit {
        /// The exit code to end with.
        code: i32,
    },
    /// To `Images` and `Gate`: go on.
    Go,
    /// To `Images` and `Gate`: fail the restore; nothing has run and nothing will.
    Abort {
        /// For the log.
        why: String,
    },
    /// To `Resumed` and `Restored`: noted.
    Ok,
}
