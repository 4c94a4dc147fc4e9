//! What a pod asks of CRIU, in its annotation: at the source, and at the target, whose pod has the same.

use godwit_api::names::ANNOTATION_CRIU;
use godwit_criu::options::Options;
use godwit_node::cri::Sandbox;
use godwit_rpc::v1::Failure;

use crate::failure::failure;

/// The options of a pod.
///
/// # Errors
/// The one that no pod may ask for.
pub fn of(sandbox: &Sandbox) -> Result<Options, Failure> {
    let text = sandbox.annotations.get(ANNOTATION_CRIU).map(String::as_str).unwrap_or_default();
    Options::parse(text).map_err(|why| failure(&why.reason, format!("annotation {ANNOTATION_CRIU}: {}", why.message), &why.remedy))
}
