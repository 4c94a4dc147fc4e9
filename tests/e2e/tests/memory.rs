//! A large heap that changes all the time travels while its pod runs: every page arrives as it was, and the pod stands still for a moment only.

use anyhow::{Context, Result, ensure};
use godwit_demo::{migrate, pages, pods};
use godwit_e2e::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario::new("memory", "1 GiB that changes by 50 MB/s travels while the pod runs, there and back.", run);

pub const GIVEN_UP: Scenario =
    Scenario::new("memory-gives-up", "A pod that writes faster than its memory travels stays where it is, if that is wished.", given_up);

pub const DIGESTS: Scenario =
    Scenario::new("memory-digests", "Where the kernel cannot tell which pages change, or must not be asked, digests of all memory do.", by_digests);

/// MiB of the heap.
const HEAP: u32 = 1024;
/// MB of it that change every second.
const RATE: u32 = 50;

fn run(case: &Case) -> Result<()> {
    let mut pod = case.start(pages::family("pages", HEAP, RATE))?;
    let mut before = case.good(&pod, "main", 0)?;
    let mut uncompressed = u64::MAX;
    for (way, compression) in [("there", "never"), ("back", "always")] {
        let node = case.pair.other(pods::node(&case.pod(&pod)?)).to_owned();
        let moved = migrate::migrate_with(&case.lab, &case.namespace, &[&pod, "--to", &node, "--memory", "pre-copy", "--compression", compression])?.moved()?;
        let name = moved.target_pod()?;
        case.ready(&name)?;
        let plan = moved.status("/plan/memory");
        ensure!(plan == "PreCopy", "the plan says {plan}");
        let rounds = moved.status("/progress/round").as_u64().context("no round in the record")?;
        // Its pages are made of a few patterns, so they compress well. How many are sent depends on how long it takes.
        let sent = moved.status("/progress/bytes").as_u64().context("no bytes in the record")?;
        if compression == "never" {
            ensure!(sent >= u64::from(HEAP) << 20, "without compression only {sent} bytes were sent");
            uncompressed = sent;
        }
        ensure!(compression == "never" || sent < uncompressed / 2, "with compression {sent} bytes were sent, without {uncompressed}");
        // One turn may have been half done before the move; the second is of what arrived only.
        let first = case.goes_on(&name, "main", &before)?;
        before = case.goes_on(&name, "main", &first)?;
        let gap = pages::gap(&case.logs(&name, "main")?).context("the program does not say that it stood still")?;
        let reported = moved.freeze_ms().context("no freeze in the record")?;
        case.note(format!("{way}: {rounds} rounds, {gap} ms by its own clock, {reported} reported, {} MB sent", sent / 1_000_000));
        if name != pod {
            pods::wait_gone(&case.lab, &case.namespace, &pod, godwit_e2e::case::MINUTE)?;
        }
        pod = name;
    }
    Ok(())
}

/// What may travel, in MiB a second: much less than the program changes.
const TRICKLE: &str = "24";

fn given_up(case: &Case) -> Result<()> {
    let pod = case.start(pages::family("pages", 64, 4 * RATE))?;
    let before = case.good(&pod, "main", 0)?;
    let words = [&pod, "--to", &case.pair.b, "--memory", "pre-copy", "--bandwidth", TRICKLE, "--compression", "never", "--if-not-converging", "give-up"];
    let ended = migrate::migrate_with(&case.lab, &case.namespace, &words)?;
    let ended = ended.taken_back()?;
    ensure!(ended.text().contains("NotConverging"), "the reason is not in:\n{}", ended.text());
    case.goes_on(&pod, "main", &before)?;
    let phase = ended.status("/phase");
    ensure!(phase == "RolledBack", "the record says {phase}");
    Ok(())
}

fn by_digests(case: &Case) -> Result<()> {
    let (mib, words) = (256, ["--tracking", "digests"]);
    // What a device writes into memory no write protection notices: the plan does not need to be told.
    for (pod, words) in [(pages::family("asked", mib, RATE), &words[..]), (pages::direct("direct", mib, RATE), &[])] {
        let pod = case.start(pod)?;
        let before = case.good(&pod, "main", 0)?;
        let node = case.pair.other(pods::node(&case.pod(&pod)?)).to_owned();
        let moved = migrate::migrate_with(&case.lab, &case.namespace, &[&[pod.as_str(), "--to", &node, "--memory", "pre-copy"], words].concat())?.moved()?;
        let name = moved.target_pod()?;
        let (memory, tracking) = (moved.status("/plan/memory"), moved.status("/plan/tracking"));
        ensure!(memory == "PreCopy" && tracking == "Digests", "the plan says {memory} and {tracking}");
        let first = case.goes_on(&name, "main", &before)?;
        case.goes_on(&name, "main", &first)?;
        let rounds = moved.status("/progress/round").as_u64().context("no round in the record")?;
        let reported = moved.freeze_ms().context("no freeze in the record")?;
        case.note(format!("{pod}: {rounds} rounds, freeze {reported} ms"));
    }
    Ok(())
}
