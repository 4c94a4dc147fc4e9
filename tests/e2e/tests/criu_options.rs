//! CRIU options that a pod asks for in its annotation: they arrive at dump and restore, and what is not allowed is refused before anything is touched.

use anyhow::{Result, ensure};
use godwit_demo::migrate::migrate_with;
use godwit_demo::objects::{Pod, container};
use godwit_e2e::{Case, Scenario};

use crate::checkpoint::{expect, ok, store};
use crate::refusals::explained;

pub const SCENARIO: Scenario = Scenario::new("criu-options", "A pod may ask for some of CRIU's options, by both engines; others are refused.", run);

const ANNOTATION: &str = "criu.godwit.dev/options";
/// Has a removed file of 1 MiB open, and counts.
const GHOST: &str = "trap 'exit 0' TERM; head -c 1048576 /dev/zero > /tmp/ghost; exec 3<>/tmp/ghost; rm /tmp/ghost; \
    id=$(cat /proc/sys/kernel/random/uuid); i=0; while :; do i=$((i+1)); echo good $i $id; sleep 0.1; done";

fn run(case: &Case) -> Result<()> {
    store(case)?;
    let start = |name: &str, options: &str| case.start(Pod::new(name, [container("main", &["sh", "-c", GHOST])]).annotation(ANNOTATION, options));

    let greedy = start("greedy", "ghost-limit=2M action-script=/tmp/x")?;
    let before = case.good(&greedy, "main", 0)?;
    case.migrate(&greedy, &case.pair.b)?.refused("CriuOptionRefused").and_then(explained)?;
    expect(&case.kubectl_migrate(&["checkpoint", &greedy])?, "CriuOptionRefused")?;
    case.goes_on(&greedy, "main", &before)?;

    // It arrives at the dump, which now finds the file too large.
    let narrow = start("narrow", "ghost-limit=64K")?;
    let before = case.good(&narrow, "main", 0)?;
    let said = case.migrate(&narrow, &case.pair.b)?.taken_back().and_then(explained)?;
    let message = said.status("/failure/message").as_str().unwrap_or_default().to_owned();
    ensure!(said.text().contains("ghost"), "it does not say that the file is too large: {message}");
    case.goes_on(&narrow, "main", &before)?;

    let wide = start("wide", "ghost-limit=2M timeout=10 force-irmap evasive-devices file-validation=filesize skip-file-rwx-check")?;
    let before = case.good(&wide, "main", 0)?;
    let mut pod = wide;
    for (engine, node) in [("live", &case.pair.b), ("checkpoint", &case.pair.a)] {
        pod = migrate_with(&case.lab, &case.namespace, &[&pod, "--to", node, "--engine", engine])?.moved()?.target_pod()?;
        case.ready(&pod)?;
        case.goes_on(&pod, "main", &before)?;
        let length = case.exec(&pod, "main", &["sh", "-c", "wc -c < /proc/1/fd/3"])?;
        ensure!(length.trim() == "1048576", "the removed file has {length} bytes after {engine}");
        let kept = case.pod(&pod)?["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or_default().to_owned();
        ensure!(kept.starts_with("ghost-limit=2M"), "the annotation did not go along: {kept:?}");
    }
    ok(case.kubectl_migrate(&["checkpoint", &pod, "--name", "wide"])?)?;
    ok(case.kubectl_migrate(&["restore", "wide", "--name", "copy", "--node", &case.pair.b])?)?;
    case.goes_on("copy", "main", &before)?;
    case.lab.kubectl(&["delete", "pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
    Ok(())
}
