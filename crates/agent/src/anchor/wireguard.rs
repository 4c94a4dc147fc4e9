//! Tunnels of this node: encrypted, where both nodes have WireGuard. Nodes tell each other their public keys by the agents' own connections; who is let in
//! is let in for as long as a tunnel needs it, and a while longer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use godwit_network::{
    links::Tunnel,
    wireguard::{self, Key},
};
use godwit_rpc::v1::Failure;

use super::refused;
use crate::failure::{failure, internal};

/// For so long a node is let in after its last tunnel. Longer than any session of WireGuard lasts (180 s): when one end forgets the other one, no session is left at which
/// that one would talk to nobody.
const LINGER: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Default)]
pub struct WireGuard {
    key: Option<Key>,
    /// Who is let in.
    peers: Mutex<HashMap<Key, Peer>>,
}

struct Peer {
    /// The node's name; of one that was let in before this agent started it is not known.
    node: Option<String>,
    /// When it was needed last.
    needed: Instant,
}

impl WireGuard {
    /// This node's. The kernel may have none: then no tunnel is encrypted.
    #[must_use]
    pub fn open() -> Self {
        let known = |key| (key, Peer { node: None, needed: Instant::now() });
        match wireguard::raise() {
            Ok((key, peers)) => Self { key: Some(key), peers: Mutex::new(peers.into_iter().map(known).collect()) },
            Err(error) => {
                tracing::warn!(why = refused(&error).message, "tunnels of anchors from and to this node are not encrypted");
                Self::default()
            }
        }
    }

    /// Its public key; empty: it has none.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        self.key.map(Vec::from).unwrap_or_default()
    }

    /// Whether tunnels to other nodes that have one are encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.key.is_some()
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<Key, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way from this node, at `local`, to `node`, at `remote`: encrypted if this node and that one, by its key `other`, have WireGuard. Then it is let in from now on.
    ///
    /// # Errors
    /// When the key is none, or another node's, or the kernel refuses.
    pub fn tunnel(&self, vni: u32, (local, remote): (IpAddr, IpAddr), (node, other): (&str, &[u8])) -> Result<Tunnel, Failure> {
        match self.key {
            Some(own) if !other.is_empty() => self.admit(node, other, remote).map(|other| Tunnel::encrypted(vni, &own, &other)),
            _ => Ok(Tunnel::plain(vni, local, remote)),
        }
    }

    /// As [`WireGuard::tunnel`], for a node that has made its end already: encrypted if it says its key.
    ///
    /// # Errors
    /// As there; and when this node has none.
    pub fn answering(&self, vni: u32, ends: (IpAddr, IpAddr), other: (&str, &[u8])) -> Result<Tunnel, Failure> {
        if self.key.is_none() && !other.1.is_empty() {
            return Err(failure("WireGuardLost", "the node of the old pod had WireGuard and has it no more", "look at the log of its agent, and restart it"));
        }
        self.tunnel(vni, ends, other)
    }

    fn admit(&self, node: &str, key: &[u8], endpoint: IpAddr) -> Result<Key, Failure> {
        let key = Key::try_from(key).map_err(|error| internal("the other node's key", error))?;
        let mut peers = self.peers();
        let clashes = |(other, peer): (&Key, &Peer)| {
            let same_node = peer.node.as_deref().map_or(*other == key, |known| known == node);
            !same_node && wireguard::address(other) == wireguard::address(&key)
        };
        if peers.iter().any(clashes) {
            return Err(failure(
                "WireGuardKeyTaken",
                format!("the key of node {node} is another node's"),
                "look at the agents of the nodes: one may be forged",
            ));
        }
        wireguard::admit(&key, endpoint).map_err(|error| refused(&error))?;
        peers.insert(key, Peer { node: Some(node.to_owned()), needed: Instant::now() });
        Ok(key)
    }

    /// Lets in no more who has had no tunnel for a while: those in `used` have one.
    pub fn keep_only(&self, used: &[Vec<u8>]) {
        self.peers().retain(|key, peer| {
            if used.iter().any(|used| used == key) {
                peer.needed = Instant::now();
            }
            let stays = peer.needed.elapsed() < LINGER;
            stays || wireguard::dismiss(key).inspect_err(|error| tracing::warn!(why = refused(error).message, "a node's tunnels are still let in")).is_err()
        });
    }
}
