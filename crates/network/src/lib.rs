//! The traffic gate and the ways in which a pod's connections are handed over.
//!
//! Everything here talks netlink to the kernel from inside the pod's network namespace: no program is executed, because all of it runs inside or next to
//! the freeze. Every function blocks for well under a millisecond on a quiet machine; what the kernel takes longer to close is closed aside ([`close`]).
//!
//! ```text
//!               pod's network namespace
//!   peers ──▶ eth0 ─╳ ingress          gate::Gate      nothing comes in, nothing is acknowledged
//!         ◀── eth0 ─╳ output (ip, arp)                 nothing goes out: no RST, no FIN, no ARP answer
//!              lo  ◀──▶ lo  untouched
//!              lo  + old address        addresses       so that CRIU can bind what was bound to it
//!              sockets of that address  sockets         ended at once before the gate opens
//! ```
//!
//! Where connections live on, frames pass through the old pod's namespace to an interface of the new pod:
//!
//! ```text
//!   peers ⇄ eth0 ⇄ anc0 ═══ links: tunnel or pair ═══ old0 ⇄ the same connections, in the new pod
//!           Gate::connect                             mirror::Mirror: old address, old MAC, old routes
//!           hold::Hold keeps what comes too early     attachment::Attachment: what there is to mirror
//!                            wireguard: what tunnels go through where both nodes have it
//!                                                     replies: answers to datagrams have the address that was asked
//! ```
//!
//! Where both pods are on one network segment, the old address moves by itself:
//!
//! ```text
//!   peers ⇄ segment ⇄ eth0 of the new pod ⇄ old0   segment: macvlan with the old address and the old MAC; announce: it is here now
//!              └───── eth0 of the old pod: sealed  relay::Relay sends after it what came meanwhile
//!                                                 neighbours: whom a last reset goes to
//! ```

pub mod addresses;
#[cfg(test)]
mod anchor_tests;
pub mod announce;
pub mod attachment;
pub mod close;
pub mod echo;
mod error;
pub mod gate;
pub mod hold;
pub mod links;
pub mod mirror;
pub mod neighbours;
mod netlink;
mod netns;
mod nft;
mod packet;
pub mod relay;
pub mod replies;
pub mod segment;
#[cfg(test)]
mod segment_tests;
pub mod sockets;
#[cfg(test)]
mod tests;
pub mod wireguard;

pub use attachment::Attachment;
pub use error::Error;
pub use gate::Gate;
pub use hold::Hold;
pub use mirror::Mirror;
pub use netns::here;
pub use relay::Relay;
