//! How images get into the nodes.
//!
//! ```text
//!   containerd   tar of the layout without the blobs that the node has ──stdin──▶ ctr images import
//!   CRI-O        the cache is bound into the node ──▶ skopeo copy oci:… containers-storage:…
//! ```
//! Both runtimes notice by themselves that a tag means another image now.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::images::Image;
use crate::machine::Machine;
use crate::oci::{blobs, names_in_archive};
use crate::topology::{Node, Runtime};

/// Folder below `/var/lib` where a runtime keeps its images.
pub fn storage(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd => "containerd",
        Runtime::Crio => "containers",
    }
}

/// Loads images into a node unless it has them already; the image that had the name before is removed.
pub fn load_missing(node: &Node, machine: &Machine, images: &[Image]) -> Result<()> {
    for image in images {
        let mark = format!("/var/lib/{}/godwit-lab-{}", storage(node.runtime), image.name.replace(['/', ':'], "_"));
        let known = String::from_utf8_lossy(&machine.read(&mark)?.unwrap_or_default()).into_owned();
        if known == image.id {
            continue;
        }
        match node.runtime {
            Runtime::Containerd => into_containerd(machine, image)?,
            Runtime::Crio => into_crio(machine, image)?,
        }
        machine.write(&mark, 0o644, &image.id)?;
        if !known.is_empty() {
            forget(node, machine, &known);
        }
    }
    Ok(())
}

fn into_containerd(machine: &Machine, image: &Image) -> Result<()> {
    let mut list = machine.command("ctr")?;
    let listed = list.args(["-n", "k8s.io", "content", "ls", "-q"]).output();
    let there = String::from_utf8_lossy(&checked(machine, "ctr content ls", listed?)?).into_owned();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&image.layout);
    for blob in blobs(&image.layout)? {
        if there.lines().any(|line| line.trim() == format!("sha256:{blob}")) {
            tar.arg(format!("--exclude=./blobs/sha256/{blob}"));
        }
    }
    let mut tar = tar.args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn().context("tar cannot be run")?;
    let stream = tar.stdout.take().context("tar has no output")?;
    let mut import = machine.command("ctr")?;
    import.args(["-n", "k8s.io", "images", "import", "-"]);
    let output = import.stdin(stream).output()?;
    tar.wait()?;
    checked(machine, &format!("import of {}", image.name), output).map(drop)
}

fn into_crio(machine: &Machine, image: &Image) -> Result<()> {
    let folder = image.layout.file_name().unwrap_or_default();
    let source = format!("oci:/opt/godwit-lab/images/{}:{}", folder.to_string_lossy(), image.name);
    skopeo(machine, &source, &image.name)
}

fn skopeo(machine: &Machine, source: &str, name: &str) -> Result<()> {
    let mut copy = machine.command("skopeo")?;
    copy.args(["copy", "-q", source, &format!("containers-storage:{name}")]);
    let output = copy.stdin(Stdio::null()).output()?;
    checked(machine, &format!("copy of {name}"), output).map(drop)
}

/// Removes an image that has lost its name. Containers that were made from it go on: their snapshots are their own.
fn forget(node: &Node, machine: &Machine, id: &str) {
    let command = match node.runtime {
        Runtime::Containerd => vec!["ctr", "-n", "k8s.io", "images", "rm", id],
        // All images without a name that no container uses: containers-storage keeps those in use.
        Runtime::Crio => vec!["podman", "image", "prune", "--force"],
    };
    let Some((program, arguments)) = command.split_first() else {
        return;
    };
    // What is left over only takes room.
    if let Ok(mut command) = machine.command(program) {
        let _ = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Loads somebody's OCI archive into a node's image store; its names then mean this archive's images.
pub fn load_archive(node: &Node, machine: &Machine, archive: &Path) -> Result<()> {
    let unreadable = || format!("{} is unreadable", archive.display());
    let names = names_in_archive(archive)?;
    match node.runtime {
        Runtime::Containerd => {
            let mut import = machine.command("ctr")?;
            import.args(["-n", "k8s.io", "images", "import", "-"]);
            import.stdin(File::open(archive).with_context(unreadable)?);
            let what = format!("import of {}", archive.display());
            checked(machine, &what, import.output()?).map(drop)
        }
        Runtime::Crio => {
            // skopeo wants a file it can seek in.
            let inside = format!("/run/godwit-lab/{}.tar", std::process::id());
            machine.put(archive, &inside)?;
            let loaded = names.iter().try_for_each(|name| skopeo(machine, &format!("oci-archive:{inside}:{name}"), name));
            let removed = machine.command("rm")?.args(["-f", &inside]).stdin(Stdio::null()).output()?;
            loaded.and(checked(machine, &format!("removal of {inside}"), removed).map(drop))
        }
    }
}

fn checked(machine: &Machine, what: &str, output: Output) -> Result<Vec<u8>> {
    if !output.status.success() {
        bail!("{}: {what} failed: {}", machine.name, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
