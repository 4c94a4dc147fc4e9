//! The traffic gate and the ways in which a pod's connections are handed over.
//!
//! Everything here talks netlink to the kernel from inside the pod's network namespace: no program is executed, because all of it runs inside or next to
//! the freeze. Every function blocks for well under a millisecond on a quiet machine.
//!
//! ```text
//!               pod's network namespace
//!   peers ──▶ eth0 ─╳ ingress          gate::Gate      nothing comes in, nothing is acknowledged
//!         ◀── eth0 ─╳ output (ip, arp)                 nothing goes out: no RST, no FIN, no ARP answer
//!              lo  ◀──▶ lo  untouched
//!              lo  + old address        addresses       so that CRIU can bind what was bound to it
//!              sockets of that address  sockets         ended at once before the gate opens
//! ```

pub mod addresses;
#[cfg(test)]
mod anchor_tests;
pub mod attachment;
mod error;
pub mod gate;
pub mod hold;
pub mod links;
pub mod mirror;
mod netlink;
mod netns;
mod packet;
pub mod sockets;
#[cfg(test)]
mod tests;

pub use attachment::Attachment;
pub use error::Error;
pub use gate::Gate;
pub use hold::Hold;
pub use mirror::Mirror;
