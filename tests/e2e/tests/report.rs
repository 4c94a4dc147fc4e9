//! `kubectl migrate report`: one page that needs nothing but itself, looked at in a real browser.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::pods;
use godwit_demo::shell;
use godwit_docs::run::Stage;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::Value;

use crate::docs::keep;

pub const SCENARIO: Scenario = Scenario::new("report", "One page tells everything about a migration and fetches nothing.", run);

/// How long a browser may take.
const LIMIT: Duration = Duration::from_secs(60);

fn run(case: &Case) -> Result<()> {
    let mut road = Road::start(case)?;
    let moved = case.migrate(&road.pod, &road.target())?.moved()?;
    road.arrive(&moved)?;
    let failed = case.taken_back("sleeper")?;
    if Stage::writes() {
        keep(&failed.record.iter().cloned().collect::<Vec<_>>())?;
    }
    let folder = std::env::temp_dir().join(format!("{}-report", case.namespace));
    std::fs::create_dir_all(&folder)?;
    let outcome = pages(case, &folder, &[(moved.record.context("no record")?, false), (failed.record.context("no record")?, true)]);
    // GODWIT_E2E_KEEP leaves pages and pictures to be looked at.
    if !godwit_e2e::suite::is_set("GODWIT_E2E_KEEP") {
        std::fs::remove_dir_all(&folder)?;
    } else {
        case.note(format!("pages in {}", folder.display()));
    }
    outcome
}

fn pages(case: &Case, folder: &Path, records: &[(Value, bool)]) -> Result<()> {
    for (record, failed) in records {
        let name = pods::name(record);
        let path = folder.join(format!("{}.html", if *failed { "failed" } else { "moved" }));
        let file = path.to_string_lossy();
        case.kubectl_migrate(&["report", name, "-f", &file])?.success()?;
        let page = std::fs::read_to_string(&path)?;
        for words in ["<svg", "The freeze", "restore", "In full", "default-src 'none'", record["status"]["sourceNode"].as_str().unwrap_or("?")] {
            ensure!(page.contains(words), "{words:?} is not in the report of {name}");
        }
        ensure!(page.contains("class=\"diagnosis\"") == *failed, "the diagnosis of {name}");
        ensure!(!page.contains("<script") && !page.contains("src="), "the page fetches something");
        look(case, &path)?;
    }
    let whole: Value = serde_json::from_str(&case.kubectl_migrate(&["report", pods::name(&records[0].0), "-o", "json"])?.success()?)?;
    ensure!(whole["record"]["status"]["phase"] == "Succeeded" && whole["timeline"]["steps"].is_array(), "-o json is not whole");
    Ok(())
}

/// A browser draws it in both themes, wide and narrow: the picture is not empty, and nothing is wider than a narrow screen.
fn look(case: &Case, page: &Path) -> Result<()> {
    let Some(browser) =
        ["chromium", "chromium-browser"].into_iter().find(|name| shell::run(name, &["--version"], None, LIMIT).is_ok_and(|output| output.code == 0))
    else {
        case.note("not looked at: this machine has no chromium");
        return Ok(());
    };
    let url = format!("file://{}", page.display());
    for (name, size, theme) in [("light", "1200,1600", "1"), ("dark", "1200,1600", "0"), ("narrow", "500,1600", "1")] {
        let picture = page.with_extension(format!("{name}.png"));
        let profile = page.with_extension("profile");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--hide-scrollbars".into(),
            format!("--user-data-dir={}", profile.display()),
            format!("--blink-settings=preferredColorScheme={theme}"),
            format!("--window-size={size}"),
            format!("--screenshot={}", picture.display()),
            url.clone(),
        ];
        let output = shell::run(browser, &arguments, None, LIMIT)?;
        let bytes = std::fs::metadata(&picture).with_context(|| format!("no picture: {}", output.stderr))?.len();
        ensure!(bytes > 20_000, "the {name} picture has {bytes} bytes");
        let _ = std::fs::remove_dir_all(profile);
    }
    Ok(())
}
