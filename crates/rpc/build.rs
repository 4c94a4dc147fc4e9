//! Compiles the contract without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/godwit/agent/v1/agent.proto"], ["proto"])?;
    // Neither a key nor a password is ever printed: src/key.rs and src/login.rs say what stands in their place.
    // Memory is not copied when a message is taken apart.
    tonic_prost_build::configure()
        .skip_debug([".godwit.agent.v1.CheckpointKey", ".godwit.agent.v1.RegistryLogin"])
        .bytes(".godwit.agent.v1.PageChunk.data")
        .compile_fds(descriptors)?;
    Ok(())
}
