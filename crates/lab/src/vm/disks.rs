//! The disks of virtual machines.
//!
//! ```text
//!   cache/vm/root.img            the nodes' root, shared by all, read-only
//!   cache/vm/disk-<runtime>.img  what a node's own disk begins with: the runtime's store with the lab's images in it, loaded by a node of namespaces
//!   machines/<name>/disk.img     a node's own: its files beside the root, its images and containers; it stays when the power is cut
//! ```
//! Loading the images in the virtual machine itself would take minutes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::tools::{self, Tools};
use crate::cache::{Entry, remove, run_logged};
use crate::images::{GODWIT, Image};
use crate::ingredients::{Ingredient, Ingredients};
use crate::loading::{self, storage};
use crate::machine::{self, MachineSpec};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::topology::{Node, Runtime};
use crate::{runtimes, trash};

/// Size of the disks; they are sparse files.
const SIZE: u64 = 12 << 30;

/// The nodes' root as a disk.
pub fn root(settings: &Settings) -> PathBuf {
    settings.cache.join("vm/root.img")
}

/// The root disk, to be made; the nodes' root and the tools are there by then.
pub fn ingredient(settings: &Settings, node_key: &str) -> Ingredient {
    let (tools, lower, log) = (Tools::of(settings), settings.node_root(), settings.build_log("vm-root"));
    let entry = Entry::new(root(settings), &["root disk 1", node_key, &tools::key(settings)]);
    Ingredient::new("the nodes' root as a disk".to_owned(), entry, move |target: &Path| image(&tools, &lower, &["-O", "^has_journal"], target, &log))
}

/// A disk with the content of a folder.
fn image(tools: &Tools, folder: &Path, options: &[&str], target: &Path, log: &Path) -> Result<()> {
    File::create(target).and_then(|file| file.set_len(SIZE)).with_context(|| format!("{} cannot be made", target.display()))?;
    let mut command = tools.command("usr/sbin/mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1"]).args(options).arg("-d").arg(folder).arg(target);
    run_logged(&mut command, log)
}

/// What the own disk of a node with this runtime begins with.
fn seed(settings: &Settings, runtime: Runtime) -> PathBuf {
    settings.cache.join(format!("vm/disk-{}.img", runtime.name()))
}

/// Makes the seed of a runtime's nodes unless it is fresh. Godwit's image stays out: it changes all the time and is small beside the others.
pub fn ensure_seed(settings: &Settings, ingredients: &Ingredients, runtime: Runtime, images: &[Image], progress: &Progress) -> Result<()> {
    let images: Vec<Image> = images.iter().filter(|image| image.name != GODWIT).cloned().collect();
    let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
    let tools_key = tools::key(settings);
    let entry = Entry::new(seed(settings, runtime), &["seed 1", runtime.name(), &ids.join(" "), ingredients.node_key(), &tools_key]);
    if entry.is_fresh() {
        return Ok(());
    }
    progress.step(&format!("a disk with {}'s images", runtime.name()), || fill(settings, &entry, runtime, &images))
}

fn fill(settings: &Settings, entry: &Entry, runtime: Runtime, images: &[Image]) -> Result<()> {
    entry.ensure(|target| {
        let name = format!("seed-{}", runtime.name());
        let node = Node { name: name.clone(), number: 0, runtime, vm: None };
        let mut spec = MachineSpec::new(settings, &name, &[storage(runtime)]);
        runtimes::prepare(settings, &node, &mut spec)?;
        let filled = spec.start().and_then(|machine| {
            runtimes::start(&node, &machine)?;
            runtimes::wait(&node, &machine)?;
            loading::load_missing(&node, &machine, images)
        });
        machine::power_off(&spec.folder, &name)?;
        // Only the folder's `lib` is wanted on the disk; the rest goes with the machine.
        let tree = spec.folder.join("disk");
        let made = filled.and_then(|()| {
            fs::create_dir_all(&tree)?;
            fs::rename(spec.folder.join("lib"), tree.join("lib"))?;
            image(&Tools::of(settings), &tree, &[], target, &settings.build_log(&format!("vm-disk-{}", runtime.name())))
        });
        trash::throw(settings, &spec.folder)?;
        made
    })
}

/// Gives a node its own disk, if it has none yet.
pub fn provide(settings: &Settings, runtime: Runtime, target: &Path) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    let source = seed(settings, runtime);
    let copy = || -> Result<()> {
        let temporary = target.with_extension("new");
        remove(&temporary)?;
        // cp keeps the holes.
        let status = Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&source).arg(&temporary).status()?;
        anyhow::ensure!(status.success() && fs::metadata(&temporary)?.size() == SIZE, "the copy is not whole");
        Ok(fs::rename(&temporary, target)?)
    };
    copy().with_context(|| format!("{} cannot be copied to {}", source.display(), target.display()))
}
