//! What becomes of the pod's connections: the driver, chosen from what the user wants and what the nodes can do.
//!
//! ```text
//!   Auto ──▶ KeepAddress, if the target can have the same address (to which the controller says no, unless it is asked for)
//!        ──▶ Anchor,      if both nodes can: any CNI plugin
//!        ──▶ Close,       with a warning
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Wish {
    /// The best there is.
    #[default]
    Auto,
    /// This one or none.
    Only(Driver),
}

/// How connections are handed over.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Driver {
    /// The old address moves into the new pod, on the network segment that both are on.
    KeepAddress,
    /// The old address lives on in the new pod, through the old pod's sandbox and a tunnel.
    Anchor,
    /// They end at the switch; peers reconnect.
    Close,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeepAddress => "KeepAddress",
            Self::Anchor => "Anchor",
            Self::Close => "Close",
        })
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Situation {
    /// Connections to outside the pod.
    pub connections: u32,
    /// Some of their other ends.
    pub peers: Vec<String>,
    /// Why the target cannot have the same address; empty: it can.
    pub no_same_address: String,
    /// Why one of the nodes cannot have an anchor; empty: both can.
    pub no_anchor: String,
    /// The tunnel of an anchor would be encrypted.
    pub encrypted: bool,
    /// The pod is not restarted by its kubelet: the sealed source keeps its memory as long as its anchor lives.
    pub never_restarted: bool,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How.
    pub driver: Driver,
    /// What it means.
    pub warnings: Vec<String>,
}

/// Chooses.
///
/// # Errors
/// The driver that the user wants cannot be had.
pub fn choose(wish: Wish, situation: &Situation) -> Result<Choice, Failure> {
    let lacking = |driver| match driver {
        Driver::KeepAddress => situation.no_same_address.as_str(),
        Driver::Anchor => situation.no_anchor.as_str(),
        Driver::Close => "",
    };
    let driver = match wish {
        Wish::Auto => [Driver::KeepAddress, Driver::Anchor].into_iter().find(|driver| lacking(*driver).is_empty()).unwrap_or(Driver::Close),
        Wish::Only(driver) if lacking(driver).is_empty() => driver,
        Wish::Only(driver) => {
            return Err(Failure::new(
                "NetworkNotPossible",
                format!("connections cannot be kept by {driver}: {}", lacking(driver)),
                "Choose another way for the connections, or none: network Auto or Close.",
            ));
        }
    };
    let mut warnings = Vec::new();
    match driver {
        _ if situation.connections == 0 => {}
        Driver::Close => {
            if wish == Wish::Auto {
                warnings.push(format!("connections cannot be kept: {}", situation.no_anchor));
            }
            warnings.push(ended(situation));
        }
        Driver::Anchor => {
            let secrecy = if situation.encrypted { "encrypted by WireGuard" } else { "neither encrypted nor authenticated" };
            warnings.push(format!(
                "the old pod stays, sealed, until the last old connection has ended; what these say passes through a tunnel between the nodes, which is {secrecy}"
            ));
            if situation.never_restarted {
                warnings.push("the old pod is one that is not restarted, so its memory is given back only when it goes".to_owned());
            }
        }
        Driver::KeepAddress => {
            warnings.push("the old pod stays, sealed, until the last old connection has ended: it reserves their address".to_owned());
            if situation.never_restarted {
                warnings.push("the old pod is one that is not restarted, so its memory is given back only when it goes".to_owned());
            }
        }
    }
    Ok(Choice { driver, warnings })
}

/// Who will have to reconnect.
fn ended(situation: &Situation) -> String {
    let count = situation.connections;
    let more = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(situation.peers.len());
    let mut peers = situation.peers.join(", ");
    if more > 0 {
        peers = format!("{peers} and {more} more");
    }
    let (noun, verb) = if count == 1 { ("connection", "ends") } else { ("connections", "end") };
    format!("{count} {noun} to outside the pod {verb} at the switch; these peers must reconnect: {peers}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn situation() -> Situation {
        Situation { connections: 3, peers: vec!["10.0.0.1:5".into(), "10.0.0.2:6".into()], no_same_address: "no plugin for it".into(), ..Situation::default() }
    }

    #[test]
    fn the_best_that_can_be_had() {
        let chosen = |situation: &Situation| choose(Wish::Auto, situation).unwrap().driver;
        assert_eq!(chosen(&Situation { no_same_address: String::new(), ..situation() }), Driver::KeepAddress);
        assert_eq!(chosen(&situation()), Driver::Anchor);
        assert_eq!(chosen(&Situation { connections: 0, ..situation() }), Driver::Anchor);
        assert_eq!(chosen(&Situation { no_anchor: "no VXLAN".into(), ..situation() }), Driver::Close);
    }

    #[test]
    fn what_cannot_be_had_is_not_replaced() {
        let why = choose(Wish::Only(Driver::KeepAddress), &situation()).unwrap_err();
        assert_eq!(why.reason, "NetworkNotPossible");
        assert!(why.message.contains("no plugin for it"), "{}", why.message);
        assert_eq!(choose(Wish::Only(Driver::Close), &situation()).unwrap().driver, Driver::Close);
    }

    #[test]
    fn the_tunnel_says_whether_it_is_encrypted() {
        let said = |encrypted| choose(Wish::Auto, &Situation { encrypted, ..situation() }).unwrap().warnings.join("\n");
        assert!(said(true).ends_with("a tunnel between the nodes, which is encrypted by WireGuard"));
        assert!(said(false).ends_with("a tunnel between the nodes, which is neither encrypted nor authenticated"));
    }

    #[test]
    fn what_ends_is_named() {
        let warnings = choose(Wish::Only(Driver::Close), &situation()).unwrap().warnings;
        assert_eq!(warnings, ["3 connections to outside the pod end at the switch; these peers must reconnect: 10.0.0.1:5, 10.0.0.2:6 and 1 more"]);
        let warnings = choose(Wish::Auto, &Situation { no_anchor: "no VXLAN".into(), ..situation() }).unwrap().warnings;
        assert_eq!((warnings.len(), warnings[0].as_str()), (2, "connections cannot be kept: no VXLAN"));
        assert!(choose(Wish::Auto, &Situation { connections: 0, ..situation() }).unwrap().warnings.is_empty());
    }
}
