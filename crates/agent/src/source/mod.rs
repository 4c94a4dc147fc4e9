//! The source role: the pod leaves this node.

pub mod dump;
pub mod fence;
pub mod fetch;
pub mod files;
pub mod filled;
pub mod grip;
pub mod hold;
pub mod init;
pub mod lanes;
pub mod memory;
mod need;
pub mod orphans;
pub mod packer;
pub mod pod;
pub mod session;
pub mod stream;
pub mod travel;
pub mod width;
mod window;
