//! The lab's container images, as archives in the cache, and how they get into the nodes. There is no registry.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cache::{Entry, remove};
use crate::ingredients::pause_program;
use crate::machine::Machine;
use crate::oci::{Layer, write_archive};
use crate::settings::Settings;
use crate::topology::{Node, Runtime};

/// Image of the sandboxes' first process.
pub const PAUSE: &str = "localhost/godwit-lab/pause:1";
/// Image for workloads: Debian with Redis, Python and network tools.
pub const APP: &str = "localhost/godwit-lab/app:1";
/// Image of Godwit itself.
pub const GODWIT: &str = "localhost/godwit:dev";

/// Parts of the workload root that no program reads.
const UNUSED: &[&str] = &[
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
];

/// An image in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name with tag.
    pub name: String,
    /// Its archive.
    pub archive: PathBuf,
    /// File in a node that says which version of it is loaded there.
    id: String,
}

/// Makes the lab's own images unless they are in the cache.
pub fn ensure(settings: &Settings, app_key: &str, pause_key: &str) -> Result<Vec<Image>> {
    let layer = app_layer(settings, app_key)?;
    let app = image(
        settings,
        APP,
        "app",
        app_key,
        &["/bin/sleep", "infinity"],
        |_| Ok(vec![Layer::existing(&layer)?]),
    )?;
    let pause = image(settings, PAUSE, "pause", pause_key, &["/pause"], |folder| {
        fs::create_dir_all(folder.join("root"))?;
        fs::copy(pause_program(settings), folder.join("root/pause"))?;
        let layer = Layer::pack(&folder.join("root"), &[], &folder.join("layer.tar"))?;
        Ok(vec![layer])
    })?;
    Ok(vec![pause, app])
}

fn app_layer(settings: &Settings, key: &str) -> Result<PathBuf> {
    let entry = Entry::new(
        settings.images().join("app.layer"),
        &[key, &UNUSED.join(" "), "layer 1"],
    );
    entry.ensure(|target| Layer::pack(&settings.app_root(), UNUSED, target).map(drop))?;
    Ok(entry.path().to_path_buf())
}

fn image(
    settings: &Settings,
    name: &str,
    file: &str,
    key: &str,
    command: &[&str],
    layers: impl FnOnce(&Path) -> Result<Vec<Layer>>,
) -> Result<Image> {
    let archive = settings.images().join(format!("{file}.tar"));
    let entry = Entry::new(archive, &[name, key, &command.join(" "), "archive 1"]);
    entry.ensure(|target| {
        let folder = settings.images().join(format!("{file}.work"));
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        write_archive(name, &layers(&folder)?, command, target)?;
        remove(&folder)
    })?;
    Ok(Image {
        name: name.to_owned(),
        archive: entry.path().to_path_buf(),
        id: entry.key().to_owned(),
    })
}

/// Builds Godwit's image: the workload layer, shared, and one layer with the project's programs.
pub fn build_godwit(settings: &Settings, app_key: &str, programs: &Path) -> Result<PathBuf> {
    let wanted = [
        "godwit-agent",
        "godwit-controller",
        "godwit-runtime",
        "kubectl-migrate",
    ];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|name| !programs.join(name).is_file())
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} not found in {}; build them first: make build",
            missing.join(", "),
            programs.display()
        );
    }
    let base = app_layer(settings, app_key)?;
    let folder = settings.images().join("godwit.work");
    remove(&folder)?;
    let bin = folder.join("root/usr/local/bin");
    fs::create_dir_all(&bin)?;
    for name in wanted {
        fs::copy(programs.join(name), bin.join(name))?;
    }
    let layers = [
        Layer::existing(&base)?,
        Layer::pack(&folder.join("root"), &[], &folder.join("layer.tar"))?,
    ];
    let temporary = settings.images().join("godwit.tar.new");
    let archive = settings.images().join("godwit.tar");
    write_archive(
        GODWIT,
        &layers,
        &["/usr/local/bin/godwit-agent"],
        &temporary,
    )?;
    fs::rename(&temporary, &archive)?;
    remove(&folder)?;
    Ok(archive)
}

/// Loads images into a node unless it has them already.
pub fn load_missing(node: &Node, machine: &Machine, images: &[Image]) -> Result<()> {
    for image in images {
        let mark = machine.path(&format!(
            "/var/lib/{}/godwit-lab-{}",
            storage(node.runtime),
            image.name.replace(['/', ':'], "_")
        ));
        if fs::read_to_string(&mark).is_ok_and(|id| id == image.id) {
            continue;
        }
        load(node, machine, &image.archive)?;
        fs::write(&mark, &image.id)?;
    }
    Ok(())
}

/// Folder below `/var/lib` where a runtime keeps its images.
pub fn storage(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd => "containerd",
        Runtime::Crio => "containers",
    }
}

/// Loads an archive into a node's image store; its names then mean this archive's images.
pub fn load(node: &Node, machine: &Machine, archive: &Path) -> Result<()> {
    let file =
        File::open(archive).with_context(|| format!("{} is unreadable", archive.display()))?;
    let mut command = match node.runtime {
        Runtime::Containerd => {
            let mut command = machine.command("ctr")?;
            command.args(["-n", "k8s.io", "images", "import", "-"]);
            command.stdin(file);
            command
        }
        Runtime::Crio => {
            // skopeo wants a file it can seek in.
            drop(file);
            let inside = format!("/run/godwit-lab/{}.tar", std::process::id());
            let copy = machine.path(&inside);
            fs::copy(archive, &copy)?;
            let names = archive_names(&copy)?;
            let mut command = machine.command("sh")?;
            let copies: Vec<String> = names
                .iter()
                .map(|name| {
                    format!("skopeo copy -q oci-archive:{inside}:{name} containers-storage:{name}")
                })
                .collect();
            command.args([
                "-c",
                &format!(
                    "{}; code=$?; rm -f {inside}; exit $code",
                    copies.join(" && ")
                ),
            ]);
            command.stdin(Stdio::null());
            command
        }
    };
    let output = command.output()?;
    if !output.status.success() {
        bail!(
            "{} could not load {}: {}",
            node.name,
            archive.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn archive_names(archive: &Path) -> Result<Vec<String>> {
    let read = |member: &str| {
        std::process::Command::new("tar")
            .args(["-xOf"])
            .arg(archive)
            .arg(member)
            .output()
    };
    let mut output = read("./index.json")?;
    if !output.status.success() {
        output = read("index.json")?;
    }
    let index: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} is no OCI archive", archive.display()))?;
    let names: Vec<String> = index
        .get("manifests")
        .and_then(|manifests| manifests.as_array())
        .into_iter()
        .flatten()
        .filter_map(|manifest| manifest.pointer("/annotations/org.opencontainers.image.ref.name"))
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let odd = |name: &String| {
        !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/:.-_".contains(c))
    };
    if names.is_empty() || names.iter().any(odd) {
        bail!("{} holds no image with a plain name", archive.display());
    }
    Ok(names)
}
