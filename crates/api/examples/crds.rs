//! Prints the CustomResourceDefinitions as YAML. With a directory as argument, writes each to a file of its own there:
//! `cargo run -p godwit-api --example crds -- deploy/chart/godwit/crds`. The one that the chart has behind a value goes to the folder `files` beside it.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    for crd in godwit_api::crds() {
        let yaml = serde_saphyr::to_string(&crd)?;
        match &directory {
            Some(directory) => std::fs::write(directory.join(format!("{}.yaml", crd.metadata.name.unwrap_or_default())), yaml)?,
            None => println!("---\n{yaml}"),
        }
    }
    let crd = godwit_api::lpm_crd();
    let yaml = serde_saphyr::to_string(&crd)?;
    match &directory {
        Some(directory) => std::fs::write(directory.join("../files").join(format!("{}.yaml", crd.metadata.name.unwrap_or_default())), yaml)?,
        None => println!("---\n{yaml}"),
    }
    Ok(())
}
