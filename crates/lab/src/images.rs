//! The lab's container images, as layouts in the cache. There is no registry: see [`crate::loading`] for how they get
//! into the nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{Entry, remove};
use crate::elf;
use crate::ingredients::{Ingredients, pause_program};
use crate::oci::{Layer, image_id, write_layout};
use crate::settings::Settings;

/// Image of the sandboxes' first process.
pub const PAUSE: &str = "localhost/godwit-lab/pause:1";
/// Image for workloads: Debian with Redis, Python and network tools.
const APP: &str = "localhost/godwit-lab/app:1";
/// Image of the cluster's DNS server.
const COREDNS: &str = "localhost/godwit-lab/coredns:1";
/// Image of Godwit itself.
pub const GODWIT: &str = "localhost/godwit:dev";

/// The library that the agent preloads into `criu dump`.
const VEIL: &str = "libgodwit_veil.so";

/// Parts of the workload root that no program reads.
const UNUSED: &[&str] = &["dev", "proc", "run", "sys", "tmp", "usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt"];

/// An image in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name with tag.
    pub name: String,
    /// Its layout folder.
    pub layout: PathBuf,
    /// Digest of its config.
    pub id: String,
}

/// Makes the lab's own images unless they are in the cache.
pub fn ensure(settings: &Settings, ingredients: &Ingredients) -> Result<Vec<Image>> {
    let app_key = ingredients.app_key();
    let layer = app_layer(settings, app_key)?;
    let app = image(settings, APP, "app", &[app_key], &["/bin/sleep", "infinity"], || Ok(vec![Layer::existing(&layer)?]))?;
    let single = |name, file, key: &str, program: &Path| {
        image(settings, name, file, &[key], &[&format!("/{file}")], || {
            let tree = Tree::new(settings, file)?;
            fs::copy(program, tree.root.join(file))?;
            Ok(vec![tree.pack(settings, file)?])
        })
    };
    let pause = single(PAUSE, "pause", ingredients.pause_key(), &pause_program(settings))?;
    let coredns = single(COREDNS, "coredns", ingredients.coredns_key(), &settings.coredns())?;
    let mut all = vec![pause, app, coredns];
    all.extend(last_godwit(settings));
    Ok(all)
}

/// Godwit's image as it was built last: a node that is added or made anew is to have it too.
fn last_godwit(settings: &Settings) -> Option<Image> {
    let layout = settings.images().join("godwit.oci");
    let id = image_id(&layout).ok()?;
    Some(Image { name: GODWIT.to_owned(), layout, id })
}

fn app_layer(settings: &Settings, key: &str) -> Result<PathBuf> {
    let entry = Entry::new(settings.images().join("app.layer"), &[key, &UNUSED.join(" "), "layer 1"]);
    entry.ensure(|target| Layer::pack(&settings.app_root(), UNUSED, target))?;
    Ok(entry.path().to_path_buf())
}

fn image(settings: &Settings, name: &str, file: &str, keys: &[&str], command: &[&str], layers: impl FnOnce() -> Result<Vec<Layer>>) -> Result<Image> {
    let mut parts = vec![name, "layout 1"];
    parts.extend(keys);
    parts.extend(command);
    let entry = Entry::new(settings.images().join(format!("{file}.oci")), &parts);
    entry.ensure(|target| write_layout(name, &layers()?, command, target))?;
    Ok(Image { name: name.to_owned(), id: image_id(entry.path())?, layout: entry.path().to_path_buf() })
}

/// A folder tree that becomes a layer.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn new(settings: &Settings, file: &str) -> Result<Self> {
        let root = settings.images().join(format!("{file}.root"));
        remove(&root)?;
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    fn pack(self, settings: &Settings, file: &str) -> Result<Layer> {
        let target = settings.images().join(format!("{file}.layer"));
        Layer::pack(&self.root, &[], &target)?;
        remove(&self.root)?;
        Layer::existing(&target)
    }
}

/// Builds Godwit's image: the workload layer, shared, and one layer with the project's programs.
pub fn build_godwit(settings: &Settings, ingredients: &Ingredients, programs: &Path) -> Result<Image> {
    let found = find_programs(programs)?;
    let base = app_layer(settings, ingredients.app_key())?;
    // A program is told by size and time: the linker gives every build a new file.
    let about = found
        .iter()
        .map(|program| {
            let about = fs::metadata(program)?;
            Ok(format!("{} {} {:?}", program.display(), about.len(), about.modified()?))
        })
        .collect::<Result<Vec<_>>>()?;
    let keys = [ingredients.app_key(), &about.join("\n")];
    let command = ["/usr/local/bin/godwit-agent"];
    image(settings, GODWIT, "godwit", &keys, &command, || {
        let tree = Tree::new(settings, "godwit")?;
        let bin = tree.root.join("usr/local/bin");
        fs::create_dir_all(&bin)?;
        let lib = tree.root.join("usr/local/lib");
        fs::create_dir_all(&lib)?;
        for program in &found {
            if let Some(name) = program.file_name() {
                let folder = if name == VEIL { &lib } else { &bin };
                copy_stripped(program, &folder.join(name))?;
            }
        }
        Ok(vec![Layer::existing(&base)?, tree.pack(settings, "godwit")?])
    })
}

/// The project's programs in `folder`. `godwit-runtime`, which runs in the nodes' own root, must be static: cargo puts
/// that build into the neighbouring folder of its own profile.
fn find_programs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in ["godwit-agent", "godwit-controller", "kubectl-migrate"] {
        let path = folder.join(name);
        if path.is_file() {
            found.push(path);
        } else {
            missing.push(name);
        }
    }
    let runtime = "godwit-runtime";
    let candidates = [folder.join("../runtime").join(runtime), folder.join(runtime)];
    match candidates.into_iter().find(|path| elf::is_static(path)) {
        Some(path) => found.push(path),
        None => missing.push("godwit-runtime (static)"),
    }
    // Built with the same profile.
    match folder.join("../runtime").join(VEIL) {
        path if path.is_file() => found.push(path),
        _ => missing.push(VEIL),
    }
    if missing.is_empty() {
        return Ok(found);
    }
    bail!("{} not found in {}; build them first: make build", missing.join(", "), folder.display())
}

/// Copies a program without its debug information: ten times smaller, and backtraces still name functions.
fn copy_stripped(program: &Path, target: &Path) -> Result<()> {
    let stripped = Command::new("strip").args(["--strip-debug", "-o"]).args([target, program]).stderr(Stdio::null()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, target).with_context(|| format!("{} cannot be copied", program.display()))?;
    }
    Ok(())
}
