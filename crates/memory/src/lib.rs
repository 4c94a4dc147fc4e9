//! What memory a pod has, and how much of it must travel.

mod footprint;

pub use footprint::{Footprint, footprint};
