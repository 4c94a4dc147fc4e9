//! Compiles the contract without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/godwit/agent/v1/agent.proto"], ["proto"])?;
    // A key is never printed: crates/rpc/src/key.rs says what stands in its place.
    tonic_prost_build::configure().skip_debug([".godwit.agent.v1.CheckpointKey"]).compile_fds(descriptors)?;
    Ok(())
}
