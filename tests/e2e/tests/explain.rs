//! `kubectl migrate explain`: from a record, a log or an archive to cause, plain words and the way out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate;
use godwit_demo::objects::{Pod, python};
use godwit_demo::shell::{Output, wait_until};
use godwit_e2e::faults::Order;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario = Scenario::new("explain", "Why a migration failed is told in plain words, from its record and from CRIU's log.", run);

const PROGRAM: &str = include_str!("programs/late_watch.py");
const LIMIT: Duration = Duration::from_secs(60);

fn run(case: &Case) -> Result<()> {
    let pod = case.start(Pod::new("late", [python("main", PROGRAM, &[])]))?;
    let before = case.good(&pod, "main", 0)?;

    // A dump that fails because of what the program did after the plan was made: CRIU's own words lead to the cause.
    let held = case.fault(&case.pair.a, "agent.source.opened", Order::Delay(Duration::from_secs(15)))?;
    migrate::order(&case.lab, &case.namespace, "dump-fails", &pod, &case.pair.b, &json!({}))?;
    held.wait(LIMIT)?;
    case.exec(&pod, "main", &["touch", "/tmp/watch"])?;
    wait_until("the program watches", LIMIT, || Ok(case.exec(&pod, "main", &["test", "-e", "/tmp/watching"]).ok()))?;
    let record = migrate::wait_final(&case.lab, &case.namespace, "dump-fails")?;
    ensure!(migrate::phase(&record) == "RolledBack", "it ended as {}: {}", migrate::phase(&record), record["status"]["failure"]);
    let said = explained(case, &["explain", "dump-fails"], "Inotify")?;
    for words in
        ["watches a file or directory with inotify", "switch file watching off", "failures.html#inotify", "the pod was taken back", "fsnotify", "the last step"]
    {
        ensure!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    case.goes_on(&pod, "main", &before)?;

    // Without a name: the last one that failed. For programs: the same.
    explained(case, &["explain"], "Inotify")?;
    let value: Value = serde_json::from_str(&case.kubectl_migrate(&["explain", "dump-fails", "-o", "json"])?.success()?)?;
    ensure!(value["reason"] == "Inotify" && value["known"] == true && value["log"].as_array().is_some_and(|lines| !lines.is_empty()), "{value}");

    // The plan refuses now, before anything is touched.
    case.migrate(&pod, &case.pair.b)?.refused("FileWatch")?;
    let said = explained(case, &["explain", "pod/late"], "FileWatch")?;
    ensure!(said.contains("nothing was touched"), "{said}");

    files(case, record["status"]["failure"]["log"].as_str().context("the record has no lines of CRIU's log")?)
}

fn explained(case: &Case, words: &[&str], reason: &str) -> Result<String> {
    let text = case.kubectl_migrate(words)?.success()?;
    ensure!(text.contains(&format!("✘ {reason}")) && text.contains("what to do") && text.contains("read more"), "{words:?} does not explain {reason}:\n{text}");
    Ok(text)
}

/// Logs and archives from anywhere.
fn files(case: &Case, log: &str) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("{}-explain", case.namespace));
    std::fs::create_dir_all(&folder)?;
    let outcome = (|| {
        let file = |name: &str, content: &str| -> Result<String> {
            let path = folder.join(name);
            std::fs::write(&path, content)?;
            Ok(path.to_string_lossy().into_owned())
        };
        let dump = file("dump.log", log)?;
        explained(case, &["explain", &dump], "Inotify")?;
        let archive = folder.join("checkpoint.tar.gz").to_string_lossy().into_owned();
        let packed = godwit_demo::shell::run("tar", &["-C", &folder.to_string_lossy(), "-czf", &archive, "dump.log"], None, LIMIT)?;
        ensure!(packed.code == 0, "tar: {}", packed.stderr);
        explained(case, &["explain", &archive], "Inotify")?;
        let strange = file("restore.log", "(00.1)      1: Error (criu/x.c:1): The moon is full\n(00.2) Error (criu/cr-restore.c:1): Restoring FAILED.\n")?;
        let Output { code, stdout, .. } = case.kubectl_migrate(&["explain", &strange])?;
        ensure!(
            code == 1 && stdout.contains("? RestoreFailed") && stdout.contains("The moon is full") && stdout.contains("A report needs"),
            "{code}: {stdout}"
        );
        Ok(())
    })();
    std::fs::remove_dir_all(&folder)?;
    outcome
}
