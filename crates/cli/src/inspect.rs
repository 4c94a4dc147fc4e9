//! What is in a checkpoint, for people and for programs.
//!
//! ```text
//!   archive, OCI image, directory ─▶ criu::archive ─▶ criu::inspect ─▶ tables, JSON
//!                                          └─ verify ─▶ whole, or what is wrong with it (exit code 1)
//! ```

use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};
use godwit_criu::archive::{Archive, Directory, Layout, oci};
use godwit_criu::images::decode as decoded;
use godwit_criu::inspect::{Inspection, Process};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::options::{Output, Runtime};
use crate::text::{bytes, count};

/// What else to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Open files.
    pub files: bool,
    /// Mappings.
    pub maps: bool,
    /// Environments.
    pub environment: bool,
}

/// Everything that is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    layout: Layout,
    /// What is wrong with the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Whether a list of digests was there.
    sealed: bool,
    #[serde(skip_serializing_if = "Value::is_null")]
    config: Value,
    /// Files beside the images.
    others: Vec<(String, u64)>,
    #[serde(flatten)]
    inspection: Inspection,
}

fn open(path: &Path) -> Result<Archive, Error> {
    Archive::open(path).map_err(|problem| Error::Unreadable(path.display().to_string(), problem.failure().message))
}

/// Tells what is in a checkpoint; gives the text and the exit code: 1 when it is damaged.
///
/// # Errors
/// When it cannot be read.
pub fn inspect(path: &Path, wish: Wish, output: Output) -> Result<(String, u8), Error> {
    let mut archive = open(path)?;
    if archive.set.images.is_empty() {
        return Err(Error::Unreadable(path.display().to_string(), "it holds no images of CRIU".to_owned()));
    }
    let verified = archive.verify();
    let images = if path.join("checkpoint").is_dir() { path.join("checkpoint") } else { path.to_path_buf() };
    let mut inspection = if path.is_dir() {
        godwit_criu::inspect::inspect(&archive.set, Some(&Directory(&images)))
    } else {
        godwit_criu::inspect::inspect(&archive.set, Some(&archive))
    };
    if !wish.environment {
        inspection.processes.iter_mut().for_each(|process| process.environment.clear());
    }
    let told = Told {
        layout: archive.layout,
        problem: verified.as_ref().err().map(|problem| problem.failure().message),
        sealed: verified.as_ref().is_ok_and(|summary| summary.sealed),
        config: archive.config.clone(),
        others: archive.sizes.iter().map(|(name, size)| (name.clone(), *size)).collect(),
        inspection,
    };
    let code = u8::from(told.problem.is_some());
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&told).unwrap_or_default(),
        Output::Text => text(path, &told, wish).join("\n"),
    };
    Ok((text, code))
}

/// One image as JSON, or `all` of them by name.
///
/// # Errors
/// When there is no such image.
pub fn decode(path: &Path, image: &str) -> Result<String, Error> {
    let archive = open(path)?;
    if image == "all" {
        let all: serde_json::Map<String, Value> =
            archive.set.images.iter().map(|(name, image)| (name.clone(), Value::Array(decoded::entries(image)))).collect();
        return Ok(serde_json::to_string(&all).unwrap_or_default());
    }
    let found = archive.set.images.get(image);
    let found = found.ok_or_else(|| {
        let names: Vec<&str> = archive.set.images.keys().map(String::as_str).collect();
        Error::Unreadable(format!("{image} in {}", path.display()), format!("there is no such image; there are {}", names.join(" ")))
    })?;
    Ok(serde_json::to_string_pretty(&decoded::entries(found)).unwrap_or_default())
}

/// Writes an archive for another runtime, or as an OCI image; gives what to say.
///
/// # Errors
/// When it is damaged or cannot be read or written.
pub fn convert(path: &Path, target: &Path, to: Option<Runtime>, image: Option<&str>) -> Result<String, Error> {
    let failed = |problem: godwit_criu::Problem| Error::Unreadable(path.display().to_string(), problem.failure().message);
    open(path)?.verify().map_err(failed)?;
    let layout = match to {
        Some(Runtime::Crio) => Layout::CriO,
        Some(Runtime::Containerd) => Layout::Containerd,
        None => {
            let name = image.unwrap_or_default();
            std::fs::create_dir(target)?;
            oci::write(path, target, name).map_err(failed)?;
            return Ok(format!("{}: OCI layout of {name}", target.display()));
        }
    };
    godwit_criu::archive::convert::convert(path, target, layout).map_err(failed)?;
    Ok(format!("{}: {}", target.display(), if layout == Layout::CriO { "layout of CRI-O" } else { "layout of containerd" }))
}

fn text(path: &Path, told: &Told, wish: Wish) -> Vec<String> {
    let inspection = &told.inspection;
    let mut lines = vec![head(path, told)];
    lines.push(match (&told.problem, told.sealed) {
        (Some(problem), _) => format!("✘ damaged: {problem}. Do not restore it"),
        (None, true) => "✔ whole: as it was dumped (digests), and consistent".to_owned(),
        (None, false) => "✔ consistent; it has no list of digests that could say more".to_owned(),
    });
    let stored: u64 = inspection.processes.iter().map(|process| process.memory.stored).fold(0, u64::saturating_add);
    let images = u32::try_from(inspection.sizes.len()).unwrap_or(u32::MAX);
    let mut facts = vec![format!("{} with {}, {} of them memory of processes", count(images, "image", "images"), bytes(inspection.bytes), bytes(stored))];
    let dump = &inspection.dump;
    facts.push(format!("dumped on {}, security module {}", dump.machine, if dump.lsm.is_empty() { "not said" } else { &dump.lsm }));
    facts.extend(dump.frozen_us.map(|micros| format!("CRIU held the processes for {}", crate::text::precise(i64::try_from(micros).unwrap_or(i64::MAX)))));
    facts.extend(inspection.hostname.iter().map(|name| format!("host name {name}")));
    facts.extend((!dump.plugins.is_empty()).then(|| format!("the restore needs CRIU's plugins {}", dump.plugins.join(", "))));
    facts.extend(dump.tcp_close.then(|| "established connections are closed at the restore".to_owned()));
    facts.extend((dump.unknown > 0).then(|| format!("{} fields of a CRIU newer than 4.2 are not understood here; they are kept", dump.unknown)));
    facts.extend(told.others.iter().filter(|(name, _)| name.contains("rootfs-diff")).map(|(name, size)| format!("{name}: {} of changed files", bytes(*size))));
    lines.extend(facts.into_iter().map(|fact| format!("  · {fact}")));
    lines.extend(section("processes", processes(inspection)));
    if wish.environment {
        for process in &inspection.processes {
            lines.extend(section(
                &format!("environment of {} {}", process.pid, process.comm),
                process.environment.iter().map(|word| vec![word.clone()]).collect(),
            ));
        }
    }
    if wish.files {
        for process in &inspection.processes {
            lines.extend(section(&format!("open files of {} {}", process.pid, process.comm), files(process)));
        }
    }
    if wish.maps {
        for process in &inspection.processes {
            lines.extend(section(&format!("memory of {} {}", process.pid, process.comm), maps(process)));
        }
    }
    lines.extend(section("sockets", sockets(inspection)));
    lines.extend(section("mounts", mounts(inspection)));
    lines.extend(section("deleted files that are open", inspection.deleted.iter().map(|(path, size)| vec![path.clone(), bytes(*size)]).collect()));
    lines.extend(section("file locks", inspection.locks.iter().map(|lock| vec![lock.clone()]).collect()));
    lines.extend(section("largest images", inspection.sizes.iter().take(5).map(|(name, size)| vec![name.clone(), bytes(*size)]).collect()));
    lines
}

fn head(path: &Path, told: &Told) -> String {
    let word = |name: &str| told.config[name].as_str().filter(|word| !word.is_empty());
    let layout = match told.layout {
        Layout::Images => "images of CRIU",
        Layout::CriO => "checkpoint archive, layout of CRI-O",
        Layout::Containerd => "checkpoint archive, layout of containerd",
        Layout::Other => "checkpoint archive that neither CRI-O nor containerd can restore as it is",
    };
    let parts = [
        Some(layout.to_owned()),
        word("name").map(|name| format!("container {name}")),
        word("rootfsImageName").or_else(|| word("rootfsImage")).map(|image| format!("image {image}")),
        word("runtime").map(|runtime| format!("runtime {runtime}")),
        word("checkpointedTime").map(|time| format!("at {time}")),
    ];
    format!("{} · {}", path.display(), parts.into_iter().flatten().collect::<Vec<_>>().join(" · "))
}

/// A heading and rows in columns; nothing if there is no row. The first row may be a header in capitals.
fn section(title: &str, rows: Vec<Vec<String>>) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| cell.replace(['\n', '\t'], " ")));
    }
    let mut lines = vec![String::new(), title.to_owned()];
    lines.extend(table.to_string().lines().map(|line| format!(" {}", line.trim_end())));
    lines
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn processes(inspection: &Inspection) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["PID", "PARENT", "STATE", "USER", "CAPABILITIES", "THREADS", "FDS", "MEMORY", "MAPPED", "COMMAND"])];
    for process in &inspection.processes {
        let mut depth = 0;
        let mut parent = process.ppid;
        while let Some(above) = inspection.processes.iter().find(|other| other.pid == parent).filter(|_| depth < 40) {
            depth += 1;
            parent = above.ppid;
        }
        let command = if process.arguments.is_empty() { format!("{} ({})", process.program, process.comm) } else { process.arguments.join(" ") };
        let identity = process.identity.as_ref();
        rows.push(vec![
            process.pid.to_string(),
            process.ppid.to_string(),
            process.state.to_owned(),
            identity.map(|identity| format!("{}:{}", identity.uid[1], identity.gid[1])).unwrap_or_default(),
            identity.map(|identity| identity.effective.trim_start_matches('0').to_owned()).filter(|mask| !mask.is_empty()).unwrap_or_else(|| "none".into()),
            process.threads.len().to_string(),
            process.descriptors.len().to_string(),
            bytes(process.memory.stored),
            bytes(process.memory.mapped),
            format!("{}{command}", "  ".repeat(depth)),
        ]);
    }
    rows
}

fn files(process: &Process) -> Vec<Vec<String>> {
    let all = process.descriptors.iter();
    all.map(|open| vec![open.fd.to_string(), open.kind.to_owned(), if open.cloexec { "cloexec".into() } else { String::new() }, open.what.clone()]).collect()
}

fn maps(process: &Process) -> Vec<Vec<String>> {
    let all = process.memory.mappings.iter();
    all.map(|mapping| vec![format!("{}-{}", mapping.start, mapping.end), mapping.mode.clone(), bytes(mapping.stored), mapping.what.clone()]).collect()
}

fn sockets(inspection: &Inspection) -> Vec<Vec<String>> {
    if inspection.sockets.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![row(&["KIND", "STATE", "LOCAL", "PEER", "UNREAD", "UNSENT", "PROCESS/FD"])];
    rows.extend(inspection.sockets.iter().map(|socket| {
        let amount = |value: u64| if value == 0 { String::new() } else { value.to_string() };
        vec![
            socket.kind.clone(),
            socket.state.to_owned(),
            socket.local.clone(),
            socket.peer.clone(),
            amount(socket.received),
            amount(socket.sent),
            socket.owners.join(" "),
        ]
    }));
    rows
}

fn mounts(inspection: &Inspection) -> Vec<Vec<String>> {
    if inspection.mounts.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![row(&["MOUNTED AT", "TYPE", "FLAGS", "FROM OUTSIDE AS"])];
    rows.extend(
        inspection
            .mounts
            .iter()
            .map(|mount| vec![mount.mountpoint.clone(), mount.kind.clone(), mount.flags.join(","), mount.external.clone().unwrap_or_default()]),
    );
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../criu/tests/fixtures").join(format!("{name}.tar.gz"))
    }

    #[test]
    fn a_dump_with_its_pages_is_told_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(fixture("shell")).unwrap())).unpack(directory.path()).unwrap();
        let (text, code) = inspect(directory.path(), Wish { files: true, maps: true, environment: true }, Output::Text).unwrap();
        assert_eq!(code, 0, "{text}");
        insta::assert_snapshot!(text.replace(&directory.path().display().to_string(), "DIRECTORY"));
    }

    #[test]
    fn an_archive_without_pages_is_damaged_but_told() {
        let (text, code) = inspect(&fixture("everything"), Wish::default(), Output::Text).unwrap();
        assert_eq!(code, 1);
        insta::assert_snapshot!(text.replace(&fixture("everything").display().to_string(), "FILE"));
        let (json, _) = inspect(&fixture("everything"), Wish::default(), Output::Json).unwrap();
        let told: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((told["processes"].as_array().unwrap().len(), told["layout"].as_str()), (5, Some("images")));
        assert!(told["problem"].as_str().unwrap().contains("pages-"));
    }

    #[test]
    fn one_image_is_shown_with_its_own_names() {
        let json: Value = serde_json::from_str(&decode(&fixture("shell"), "pstree.img").unwrap()).unwrap();
        assert_eq!((json[0]["pid"].as_u64(), json[0]["threads"][0].as_u64()), (Some(1), Some(1)));
        assert!(decode(&fixture("shell"), "nothing.img").is_err_and(|error| error.to_string().contains("pstree.img")));
    }
}
