//! The documentation: every shell block that needs a cluster is run, and prints what the page says. With `GODWIT_DOCS_WRITE=1` what it prints is written into
//! the page instead, on the runtime that the page is about: `make docs-output`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::IMAGE;
use godwit_demo::{install, migrate};
use godwit_docs::block::Place;
use godwit_docs::run::{self, Stage};
use godwit_docs::{book, stage};
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const PAGES: Scenario = Scenario::new("docs", "What the documentation tells to type works, and prints what it says.", pages);
pub const QUICK_START: Scenario =
    Scenario::new("quick-start", "The quick start of this runtime works from the installation to taking everything away again.", quick_start).alone();

/// Pages of one runtime. They install and uninstall Godwit.
const QUICK_STARTS: [(&str, &str); 2] = [("containerd", "docs/quick-start-containerd.md"), ("crio", "docs/quick-start-crio.md")];
/// Runtime on which the outputs of all other pages are made.
const WRITTEN_ON: &str = "containerd";
/// Records of migrations from which pages of `kubectl migrate report` are made: see scripts/report-check.
const RECORDS: &str = "crates/cli/tests/records";
/// What the pages call the namespace, where something prints it.
const NAMESPACE: &str = "shop";
/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(240);

/// All pages but the quick starts, in the order of the book.
fn pages(case: &Case) -> Result<()> {
    let root = book::root();
    let pages: Vec<PathBuf> = book::pages(&root)?.into_iter().filter(|page| QUICK_STARTS.iter().all(|(_, quick)| Path::new(quick) != page)).collect();
    let mut ran = 0;
    with_stage(case, nodes(case), WRITTEN_ON, |stage| {
        for page in &pages {
            let commands = run::page(&root.join(page), stage)?;
            if stage.write {
                keep(&migrate::records(&case.lab, &case.namespace)?)?;
            }
            if commands > 0 {
                // Each page begins with an empty namespace.
                case.lab.kubectl(&["delete", "podmigrations,services,deployments,pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
            }
            ran += commands;
        }
        Ok(())
    })?;
    case.note(format!("{ran} commands"));
    ensure!(ran > 15, "only {ran} commands were run");
    Ok(())
}

/// Godwit is taken away first, and put back in the end.
fn quick_start(case: &Case) -> Result<()> {
    let (runtime, page) = QUICK_STARTS.into_iter().find(|(runtime, _)| *runtime == case.pair.runtime).context("no quick start for this runtime")?;
    install::uninstall(&case.lab)?;
    let values = format!("--set image.tag=dev --values {}", book::root().join("lab/godwit/values.yaml").display());
    let words = vec![("registry.example/godwit".into(), "localhost/godwit".into()), ("--set image.tag=0.1.0".into(), values)];
    let outcome = with_stage(case, words, runtime, |stage| run::page(&book::root().join(page), stage));
    install::install(&case.lab, true)?;
    case.note(format!("{} commands", outcome?));
    Ok(())
}

/// Writes records where the test of the pages of `kubectl migrate report` finds them, but for what is the lab's own.
///
/// # Errors
/// When one cannot be written.
pub fn keep(records: &[Value]) -> Result<()> {
    for record in records {
        let name = match (migrate::phase(record), record["status"]["failure"].is_object()) {
            ("Succeeded", _) if record["status"]["plan"]["memory"] == "PreCopy" => "moved",
            ("RolledBack", _) if record["spec"]["cancel"] == true => "cancelled",
            ("RolledBack", true) => "failed",
            ("Failed", true) => "refused",
            _ => continue,
        };
        let mut record = record.clone();
        record["metadata"] = json!({"name": record["metadata"]["name"], "namespace": NAMESPACE, "creationTimestamp": record["metadata"]["creationTimestamp"]});
        std::fs::write(book::root().join(RECORDS).join(name).with_extension("json"), serde_json::to_string_pretty(&record)? + "\n")?;
    }
    Ok(())
}

/// What the pages call the nodes, and what they are here: the nodes of another pair change places with those of the pages.
fn nodes(case: &Case) -> Vec<(String, String)> {
    let pairs = [("node-a", &case.pair.a), ("node-b", &case.pair.b)];
    pairs.into_iter().flat_map(|(page, here)| [(page.to_owned(), here.clone()), (here.clone(), page.to_owned())]).collect()
}

/// This machine's kernel, and its version without what its builder has added.
fn kernel() -> Result<(String, String)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let version = release.split(|char: char| char != '.' && !char.is_ascii_digit()).next().unwrap_or_default().to_owned();
    Ok((release, version))
}

/// Runs something with a folder and a kubeconfig whose namespace is the case's; the folder goes afterwards.
fn with_stage<T>(case: &Case, words: Vec<(String, String)>, written_on: &str, run: impl FnOnce(&Stage) -> Result<T>) -> Result<T> {
    let folder = std::env::temp_dir().join(&case.namespace);
    let _ = std::fs::remove_dir_all(&folder);
    stage::examples(&folder, &nodes(case).into_iter().chain([("python:3-slim".into(), IMAGE.into())]).collect::<Vec<_>>())?;
    let config = folder.join("kubeconfig");
    std::fs::copy(std::env::var("KUBECONFIG").context("KUBECONFIG is not set")?, &config)?;
    let config = config.to_string_lossy().into_owned();
    case.lab.kubectl(&["config", "set-context", "--current", "--namespace", &case.namespace, "--kubeconfig", &config])?;
    let stage = Stage {
        folder: folder.clone(),
        environment: vec![("KUBECONFIG".into(), config)],
        words: words.into_iter().filter(|(page, here)| page != here).collect(),
        printed: vec![(case.namespace.clone(), NAMESPACE.into()), kernel()?],
        place: Place::Lab,
        exact: false,
        write: Stage::writes() && case.pair.runtime == written_on,
        limit: LIMIT,
    };
    let outcome = run(&stage);
    std::fs::remove_dir_all(&folder)?;
    outcome
}
