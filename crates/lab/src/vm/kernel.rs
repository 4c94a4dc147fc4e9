//! A Debian kernel in the cache: `vmlinuz`, `initrd`, and `modules/`, which a virtual machine sees as /usr/lib/modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::initrd;
use super::tools::{self, Tools};
use crate::cache::{Entry, remove, run_logged};
use crate::ingredients::Ingredient;
use crate::settings::Settings;
use crate::topology::Kernel;

/// The kernel for virtual machines: small, with all that containers, CRIU and the lab need.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Modules that the first root needs; what they need comes along. File systems are built in.
const FIRST: [&str; 2] = ["virtio_blk", "overlay"];

/// Its folder.
pub fn folder(settings: &Settings, kernel: Kernel) -> PathBuf {
    settings.cache.join("vm").join(format!("kernel-{}", kernel.suite()))
}

/// The kernel, to be made; the tools are there by then.
pub fn ingredient(settings: &Settings, kernel: Kernel) -> Ingredient {
    let (suite, tools) = (kernel.suite(), Tools::of(settings));
    let log = settings.build_log(&format!("kernel-{suite}"));
    let tools_key = tools::key(settings);
    let entry = Entry::new(folder(settings, kernel), &["kernel 1", suite, PACKAGE, &FIRST.join(" "), initrd::SCRIPT, &tools_key]);
    let make = move |target: &Path| {
        let (download, unpacked) = (target.join("download"), target.join("unpacked"));
        fs::create_dir_all(&unpacked)?;
        let mut command = Command::new("debootstrap");
        command.args(["--download-only", "--variant=minbase"]).arg(format!("--include={PACKAGE}")).arg(suite).arg(&download);
        run_logged(&mut command, &log)?;
        for package in fs::read_dir(download.join("var/cache/apt/archives"))?.flatten() {
            let name = package.file_name().to_string_lossy().into_owned();
            // One package, or one each for the kernel, its modules and its texts.
            if name.starts_with("linux-") {
                run_logged(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&unpacked), &log)?;
            }
        }
        let modules = unpacked.join("usr/lib/modules");
        let release = only_child(&modules)?;
        // depmod looks below /lib/modules.
        std::os::unix::fs::symlink("usr/lib", unpacked.join("lib"))?;
        run_logged(tools.command_as("usr/bin/kmod", "depmod").arg("-b").arg(&unpacked).arg(&release), &log)?;
        let program = [unpacked.join(format!("boot/vmlinuz-{release}")), modules.join(&release).join("vmlinuz")].into_iter().find(|path| path.is_file());
        fs::copy(program.with_context(|| format!("the package {PACKAGE} of {suite} has no vmlinuz"))?, target.join("vmlinuz"))?;
        fs::write(target.join("initrd"), first_root(&tools, &modules.join(&release))?)?;
        fs::rename(&modules, target.join("modules"))?;
        remove(&download)?;
        remove(&unpacked)
    };
    Ingredient::new(format!("Debian {suite}'s kernel"), entry, make)
}

fn only_child(folder: &Path) -> Result<String> {
    let names: Vec<String> = fs::read_dir(folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => bail!("{} holds {} kernels, not one", folder.display(), names.len()),
    }
}

fn first_root(tools: &Tools, folder: &Path) -> Result<Vec<u8>> {
    let list = fs::read_to_string(folder.join("modules.dep")).context("the kernel has no modules.dep")?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let busybox = fs::read(tools.path("usr/bin/busybox")).context("the tools have no busybox")?;
    let mut modules = Vec::new();
    for path in in_order(&list, &builtin, &FIRST)? {
        let name = Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        modules.push((name, uncompressed(tools, &folder.join(&path))?));
    }
    Ok(initrd::archive(&busybox, &modules))
}

/// The paths of modules and of what they need, in the order in which they must be loaded; what is built in needs none.
/// `list` is modules.dep (`path: path…`), `builtin` modules.builtin, see depmod(8).
fn in_order(list: &str, builtin: &str, names: &[&str]) -> Result<Vec<String>> {
    let is = |path: &str, name: &str| path.rsplit('/').next().and_then(|file| file.split(".ko").next()).is_some_and(|own| own.replace('-', "_") == name);
    let mut order: Vec<String> = Vec::new();
    for name in names {
        if builtin.lines().any(|path| is(path, name)) {
            continue;
        }
        let line = list.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| is(path, name));
        let (path, needs) = line.with_context(|| format!("the kernel has no module {name}"))?;
        // The list names what is needed in reverse order.
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

fn uncompressed(tools: &Tools, path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "usr/bin/xz",
        Some("zst") => "usr/bin/zstd",
        _ => return Ok(fs::read(path)?),
    };
    let output = tools.command(program).args(["-dc"]).arg(path).output()?;
    if !output.status.success() {
        bail!("{} cannot be uncompressed: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let list = "kernel/drivers/block/virtio-blk.ko.xz: kernel/b.ko.xz kernel/a.ko.xz\nkernel/fs/overlay.ko: kernel/a.ko.xz\n";
        let order = in_order(list, "kernel/fs/ext4/ext4.ko\n", &["virtio_blk", "overlay", "ext4"]).unwrap();
        assert_eq!(order, ["kernel/a.ko.xz", "kernel/b.ko.xz", "kernel/drivers/block/virtio-blk.ko.xz", "kernel/fs/overlay.ko"]);
        assert!(in_order(list, "", &["ext4"]).unwrap_err().to_string().contains("no module ext4"));
    }
}
