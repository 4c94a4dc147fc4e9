//! The target role: the pod comes to this node.

mod compare;
pub mod consumed;
pub mod desk;
pub mod files;
pub mod mounts;
pub mod pages;
pub mod pod;
pub mod receive;
pub mod session;
