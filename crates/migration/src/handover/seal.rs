//! The seal: what the source agent reads when it is asked whether the source still stands still, and what follows from it.
//!
//! The question behind it is one: *has any code of the pod run since its dump, and can any run before the arbiter says `Aborted`?* Three things keep it still:
//!
//! | what | holds against | lost by |
//! |---|---|---|
//! | the containers' cgroups frozen | the processes | `runc kill KILL`, which thaws a container's cgroup (v1) |
//! | the pod's cgroup frozen, from the end of the dump on | a kubelet that kills; a container made anew starts frozen | a reboot |
//! | the *fence*: something on the node's disk because of which the kubelet cannot create a container of this pod | a container made anew, also after a reboot | nothing but its removal |
//!
//! **A source container that was killed under the seal is not a "no".** It died without running (SIGKILL is delivered before a task returns to user mode), the
//! dump is complete and the target holds it: answering "no" would throw away the only copy of the pod's memory, for nothing. The answer is "no" only when code of
//! the pod ran or may have run: a container was started since the freeze; the pod's cgroup is not frozen although nobody was told to thaw it; the node was
//! rebooted (the fence held, but nobody can tell any more whether somebody had thawed the pod before that); the fence is gone. After a "no" the target gives the
//! pod back and the source goes on, afresh if its processes are gone.
//!
//! **Why there is a fence.** No question closes this window: the source node reboots right *after* it answered "yes", the target opens, and the kubelet of the
//! source starts the pod afresh beside it, until the source pod's deletion is on its way. Only something that outlives the reboot does. The model shows that
//! trace (`tests/model`, variant `NoFence`), so a source without a fence does not offer its dump.

use serde::{Deserialize, Serialize};

/// What the source agent finds at the moment of the question.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct SealFacts {
    /// The node's boot id is the one of the freeze.
    pub same_boot: bool,
    /// The pod's cgroup is frozen, or no process is in it.
    pub frozen: bool,
    /// The fence is in place (it was put there before the freeze).
    pub fenced: bool,
    /// A container of the pod that ended since the freeze: its name and what was seen.
    pub died: Option<String>,
    /// A container of the pod that was started since the freeze (another id, a higher restart count): its name and what was seen.
    pub started: Option<String>,
}

/// The answer to "still sealed?".
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Sealed {
    /// Nothing of the pod has run since the dump, and nothing will before `Aborted`.
    Yes,
    /// Something ran or may have run.
    No {
        /// What was seen.
        why: String,
    },
}

impl SealFacts {
    /// Judges the facts while the dump is on offer.
    #[must_use]
    pub fn sealed(&self) -> Sealed {
        let no = |why: String| Sealed::No { why };
        if let Some(container) = &self.started {
            no(format!("a container of the source pod was started since the freeze: {container}"))
        } else if !self.same_boot {
            no("the source node was rebooted".into())
        } else if !self.frozen {
            no("the source pod's cgroup is not frozen any more".into())
        } else if !self.fenced {
            no("nothing keeps the kubelet from creating containers of the source pod: the fence is not in place".into())
        } else {
            Sealed::Yes
        }
    }

    /// Judges the facts at the moment in which the seal closes: here a container that ended is a "no", because it may have run between dump and seal.
    #[must_use]
    pub fn closed(&self) -> Sealed {
        match &self.died {
            Some(container) => Sealed::No { why: format!("a container of the source pod ended during the dump: {container}") },
            None => self.sealed(),
        }
    }
}
