//! What a container changed in its root file system: CRI-O has a plain tar and a list of deleted paths, containerd a compressed layer with whiteouts.
//!
//! ```text
//!   CRI-O                                   containerd (OCI layer)
//!   rootfs-diff.tar  a/b, c                 rootfs-diff.tar  a/b, c, d/.wh.e
//!   deleted.files    ["/d/e"]
//! ```

use std::io::{self, Read, Write};

/// What marks a deleted file (OCI image specification, layer.md).
const WHITEOUT: &str = ".wh.";
/// What marks a directory whose lower content is hidden as a whole.
const OPAQUE: &str = ".wh..wh..opq";

/// Writes CRI-O's tar of a layer; gives the paths that the layer deletes.
///
/// # Errors
/// If it cannot be read or written, or hides the whole content of a directory: a list cannot say that without the image.
pub fn without_whiteouts(layer: impl Read, out: &mut impl Write) -> io::Result<Vec<String>> {
    let mut deleted = Vec::new();
    let mut tar = tar::Builder::new(out);
    for entry in tar::Archive::new(layer).entries()? {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == OPAQUE {
            return Err(io::Error::other(format!("the container replaced the directory {folder} of its image: a list of deleted files cannot say that")));
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            deleted.push(format!("/{folder}/{gone}").replace("//", "/").replace("/./", "/"));
            continue;
        }
        append(&mut tar, entry)?;
    }
    tar.finish()?;
    Ok(deleted)
}

/// Writes containerd's layer of CRI-O's tar and list.
///
/// # Errors
/// If it cannot be read or written.
pub fn with_whiteouts(tar_of_changes: Option<impl Read>, deleted: &[String], out: &mut impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    if let Some(changes) = tar_of_changes {
        for entry in tar::Archive::new(changes).entries()? {
            append(&mut tar, entry?)?;
        }
    }
    for path in deleted {
        let path = path.trim_start_matches('/');
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o600);
        tar.append_data(&mut header, format!("{folder}{}{WHITEOUT}{name}", if folder.is_empty() { "" } else { "/" }), io::empty())?;
    }
    tar.finish()
}

/// Copies an entry with everything that belongs to it.
fn append<W: Write, R: Read>(tar: &mut tar::Builder<W>, mut entry: tar::Entry<'_, R>) -> io::Result<()> {
    let extensions: Vec<(String, Vec<u8>)> = match entry.pax_extensions()? {
        // Paths and sizes are written anew.
        Some(all) => all
            .filter_map(Result::ok)
            .filter_map(|one| Some((one.key().ok()?.to_owned(), one.value_bytes().to_vec())))
            .filter(|(key, _)| !matches!(key.as_str(), "path" | "linkpath" | "size"))
            .collect(),
        None => Vec::new(),
    };
    if !extensions.is_empty() {
        tar.append_pax_extensions(extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    }
    let mut header = entry.header().clone();
    let path = entry.path()?.into_owned();
    match entry.link_name()? {
        Some(target) if header.entry_type().is_symlink() || header.entry_type().is_hard_link() => {
            let target = target.into_owned();
            tar.append_link(&mut header, path, target)
        }
        _ => tar.append_data(&mut header, path, &mut entry),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn names(tar: &[u8]) -> Vec<String> {
        tar::Archive::new(tar).entries().unwrap().map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn whiteouts_become_a_list_and_back() {
        let mut plain = Vec::new();
        let deleted = without_whiteouts(tar_of(&[("root/new", "x"), ("etc/.wh.motd", ""), (".wh.top", "")]).as_slice(), &mut plain).unwrap();
        assert_eq!((names(&plain), deleted.clone()), (vec!["root/new".to_owned()], vec!["/etc/motd".to_owned(), "/top".to_owned()]));
        let mut layer = Vec::new();
        with_whiteouts(Some(plain.as_slice()), &deleted, &mut layer).unwrap();
        assert_eq!(names(&layer), ["root/new", "etc/.wh.motd", ".wh.top"]);
        assert!(without_whiteouts(tar_of(&[("etc/.wh..wh..opq", "")]).as_slice(), &mut Vec::new()).is_err());
    }
}
