//! The two nodes without their agents: processes, cgroups, fence, marker.

use godwit_migration::handover::SealFacts;

/// The source pod; its containers count as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceNode {
    pub alive: bool,
    pub frozen: bool,
    pub sealed: bool,
    pub fenced: bool,
    /// A container was started afresh since the freeze.
    pub started: bool,
    /// The freeze began: what runs from now on must not run at both nodes.
    pub froze: bool,
    pub dumping: bool,
    /// The pod object is being deleted: the kubelet starts nothing.
    pub deleted: bool,
    pub boot: u8,
    pub freeze_boot: u8,
}

impl SourceNode {
    pub fn new() -> Self {
        Self { alive: true, frozen: false, sealed: false, fenced: false, started: false, froze: false, dumping: false, deleted: false, boot: 0, freeze_boot: 0 }
    }

    pub fn runs(&self) -> bool {
        self.alive && !self.frozen && !self.sealed
    }

    pub fn facts(&self) -> SealFacts {
        SealFacts {
            same_boot: self.boot == self.freeze_boot,
            frozen: self.sealed,
            fenced: self.fenced,
            died: (!self.alive || self.started).then(String::new),
            started: self.started.then(String::new),
        }
    }
}

/// Where a container of the target pod really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// A keeper waits for images.
    Keeper,
    /// CRIU holds it at the gate.
    Held,
    /// The gate said go; nothing has run yet.
    Going,
    /// It ran.
    Resumed,
    /// The restore ended; whether the agent must assume that it ran.
    Broken { ran: bool },
    /// Nothing there.
    Gone,
    /// The image was started afresh: it ran.
    Fresh,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    pub at: At,
    /// The agent, in its present life, was told.
    pub told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetNode {
    pub containers: Vec<Container>,
    pub consumed: bool,
    pub images_go: bool,
    pub verifying: bool,
    pub boot: u8,
}

impl TargetNode {
    pub fn new(containers: usize) -> Self {
        Self { containers: vec![Container { at: At::Keeper, told: true }; containers], consumed: false, images_go: false, verifying: false, boot: 0 }
    }
}

pub fn name(index: usize) -> String {
    ["a", "b", "c"][index].to_string()
}
