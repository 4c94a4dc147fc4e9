//! Planning, the parts that need nothing but values: whether two nodes are alike enough, and what becomes of connections. The controller puts them together
//! with what it and the agents have found.

pub mod network;
pub mod nodes;

pub use nodes::{Comparison, Needs, Node, compare};
