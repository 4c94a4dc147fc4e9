//! containerd's or CRI-O's own settings, as far as Godwit's runtime handler depends on them.

use std::fs;
use std::path::Path;

use super::{Check, State, version};
use crate::Host;
use crate::cri::{Client, Kind};

const AREA: &str = "runtime";

/// All of it; what is about our drop-in only with a `handler`, for which there is one.
pub fn all(host: &Host, client: &Client, handler: bool) -> Vec<Check> {
    let said = format!("{} {}", client.runtime_name(), client.runtime_version());
    let itself = match client.kind() {
        Kind::Containerd => containerd(&said),
        Kind::CriO => Check::ok(AREA, "version", said),
    };
    let drop_in = handler.then(|| match client.kind() {
        Kind::Containerd => imports(fs::read_to_string(host.path("/etc/containerd/config.toml")).ok().as_deref()),
        Kind::CriO => order(&files(host, "/etc/crio/crio.conf.d")),
    });
    std::iter::once(itself).chain(drop_in).collect()
}

fn containerd(said: &str) -> Check {
    if version(said).is_some_and(|there| there >= (2, 0)) {
        return Check::ok(AREA, "version", said);
    }
    Check::bad(AREA, "version", State::Failed, said, "install containerd 2.0 or later: the drop-in is in the format of version 3")
}

fn imports(config: Option<&str>) -> Check {
    let name = "imports";
    let line = "imports = [\"/etc/containerd/conf.d/*.toml\"]";
    let has = |text: &str| text.lines().map(str::trim).any(|line| line.starts_with("imports") && line.contains("/etc/containerd/conf.d/"));
    match config {
        Some(text) if has(text) => Check::ok(AREA, name, "/etc/containerd/conf.d"),
        Some(_) => {
            Check::bad(AREA, name, State::Failed, "/etc/containerd/config.toml imports no drop-ins", format!("add `{line}` at its top and restart containerd"))
        }
        None => Check::bad(
            AREA,
            name,
            State::Failed,
            "there is no /etc/containerd/config.toml",
            format!("write one with `version = 3` and `{line}`, and restart containerd"),
        ),
    }
}

/// Files of a folder with their texts, in the order in which CRI-O reads them.
fn files(host: &Host, folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(host.path(Path::new(folder))).into_iter().flatten().flatten();
    let mut files: Vec<(String, String)> =
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path()).unwrap_or_default())).collect();
    files.sort();
    files
}

/// A later drop-in wins: one that speaks of our handler after ours changes it.
fn order(files: &[(String, String)]) -> Check {
    let name = "drop-in order";
    let ours = files.iter().position(|(name, _)| name == "50-godwit.conf");
    let after = files.iter().skip(ours.map_or(0, |index| index + 1)).find(|(_, text)| text.contains("[crio.runtime.runtimes.godwit]"));
    match (ours, after) {
        (None, _) => Check::bad(AREA, name, State::Failed, "50-godwit.conf is missing", "kubectl migrate doctor --fix"),
        (Some(_), Some((other, _))) => Check::bad(
            AREA,
            name,
            State::Failed,
            format!("{other} changes the handler godwit after 50-godwit.conf"),
            format!("remove [crio.runtime.runtimes.godwit] from /etc/crio/crio.conf.d/{other}"),
        ),
        (Some(_), None) => Check::ok(AREA, name, "50-godwit.conf has the last word on its handler"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_judged() {
        assert_eq!([containerd("containerd v2.1.9").state, containerd("containerd 1.7.20").state], [State::Ok, State::Failed]);
        let good = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
        assert_eq!([imports(Some(good)).state, imports(Some("version = 3\n")).state, imports(None).state], [State::Ok, State::Failed, State::Failed]);
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let ours = file("50-godwit.conf", "[crio.runtime.runtimes.godwit]\n");
        assert_eq!(order(&[file("10-crun.conf", ""), ours.clone(), file("99.conf", "x")]).state, State::Ok);
        assert_eq!(order(&[ours, file("99.conf", "[crio.runtime.runtimes.godwit]")]).state, State::Failed);
        assert_eq!(order(&[]).state, State::Failed);
    }
}
