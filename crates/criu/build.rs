//! Makes descriptors of CRIU's images from its own definitions, without `protoc`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = fs::read_dir("proto/criu")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|end| end == "proto"));
    files.sort();
    // CRIU's files include one another without a folder.
    let descriptors = protox::Compiler::new(["proto/criu"])?.include_imports(true).open_files(files)?.encode_file_descriptor_set();
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("images.descriptors"), descriptors)?;
    Ok(())
}
