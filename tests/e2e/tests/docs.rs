//! The documentation: every shell block that needs a cluster is run, and prints what the page says. With `GODWIT_DOCS_WRITE=1` what it prints is written into
//! the page instead, on the runtime that the page is about: `make docs-output`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::install;
use godwit_demo::objects::IMAGE;
use godwit_docs::block::Place;
use godwit_docs::run::{self, Stage};
use godwit_docs::{book, stage};
use godwit_e2e::{Case, Scenario};

pub const PAGES: Scenario = Scenario::new("docs", "What the documentation tells to type works, and prints what it says.", pages);
pub const QUICK_START: Scenario =
    Scenario::new("quick-start", "The quick start of this runtime works from the installation to taking everything away again.", quick_start).alone();

/// Pages of one runtime. They install and uninstall Godwit.
const QUICK_STARTS: [(&str, &str); 2] = [("containerd", "docs/quick-start-containerd.md"), ("crio", "docs/quick-start-crio.md")];
/// Runtime on which the outputs of all other pages are made.
const WRITTEN_ON: &str = "containerd";
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
            if commands > 0 {
                // Each page begins with an empty namespace.
                case.lab.kubectl(&["delete", "podmigrations,services,deployments,pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
            }
            ran += commands;
        }
        Ok(())
    })?;
    case.note(format!("{ran} commands"));
    ensure!(ran > 20, "only {ran} commands were run");
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

/// What the pages call the nodes, and what they are here.
fn nodes(case: &Case) -> Vec<(String, String)> {
    vec![("node-a".into(), case.pair.a.clone()), ("node-b".into(), case.pair.b.clone())]
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
        place: Place::Lab,
        exact: false,
        write: Stage::writes() && case.pair.runtime == written_on,
        limit: LIMIT,
    };
    let outcome = run(&stage);
    std::fs::remove_dir_all(&folder)?;
    outcome
}
