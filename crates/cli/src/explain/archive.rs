//! Checkpoint archives and directories: the logs in them, and what is missing for a restore.

use std::path::Path;

use godwit_criu::archive::{Archive, Layout};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Name and text of each log.
    pub logs: Vec<(String, String)>,
    /// What there is to know, one sentence each.
    pub facts: Vec<String>,
}

/// Looks into an archive or a directory; `None` when a file is neither.
///
/// # Errors
/// When it cannot be read; the text says why.
pub fn look(path: &Path) -> Result<Option<Found>, String> {
    match Archive::open(path) {
        Ok(archive) => Ok(Some(found(archive))),
        // Not compressed, and no tar.
        Err(godwit_criu::Problem::Read { source, .. }) if source.kind() == std::io::ErrorKind::InvalidData => Ok(None),
        Err(problem) => Err(problem.failure().message),
    }
}

fn found(mut archive: Archive) -> Found {
    let logs = archive.logs().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let mut facts = Vec::new();
    if archive.layout != Layout::Images {
        checkpoint(&mut archive, &mut facts);
    }
    Found { logs, facts }
}

fn checkpoint(archive: &mut Archive, facts: &mut Vec<String>) {
    let word = |name: &str| archive.config[name].as_str().unwrap_or("unknown").to_owned();
    facts.push(format!("a checkpoint of container {} ({}), image {}, runtime {}", word("name"), word("id"), word("rootfsImageName"), word("runtime")));
    let lengths = &archive.set.lengths;
    facts.push(format!("{} images, {}", lengths.len(), crate::text::bytes(lengths.values().sum())));
    for (name, _) in lengths.iter().filter(|(name, length)| name.starts_with("pages-") && **length == 0) {
        facts.push(format!("{name} is empty: if there is a pagemap for it, CRIU would read for ever; do not restore this"));
    }
    match archive.layout {
        Layout::CriO if archive.status.is_null() => facts.push("CRI-O's layout: containerd cannot restore it (it wants status.dump)".to_owned()),
        Layout::Containerd => facts.push("containerd's layout: CRI-O cannot restore it (spec.dump lacks io.kubernetes.cri-o.Annotations)".to_owned()),
        Layout::Other => {
            facts.push("neither CRI-O (spec.dump lacks io.kubernetes.cri-o.Annotations) nor containerd (no status.dump) can restore it as it is".to_owned());
        }
        _ => {}
    }
    if let Err(problem) = archive.verify() {
        facts.push(format!("{}: CRIU cannot restore this", problem.failure().message));
    }
}
