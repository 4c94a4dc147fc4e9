//! A large heap that changes all the time travels while its pod runs: every page arrives as it was, and the pod stands still for a moment only.

use anyhow::{Context, Result, ensure};
use godwit_demo::{migrate, pages, pods};
use godwit_e2e::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario::new("memory", "1 GiB that changes by 50 MB/s travels while the pod runs, there and back.", run);

pub const GIVEN_UP: Scenario =
    Scenario::new("memory-gives-up", "A pod that writes faster than its memory travels stays where it is, if that is wished.", given_up);

pub const DIGESTS: Scenario =
    Scenario::new("memory-digests", "Where the kernel cannot tell which pages change, or must not be asked, digests of all memory do.", by_digests);

pub const CONNECTIONS: Scenario = Scenario::new(
    "memory-connections",
    "Where the network limits every connection by itself, memory takes several, and as many as it is told to.",
    connections,
);

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

/// Of every connection to the agents of a node, MiB a second that arrive; the rest is dropped, as networks do that limit each flow. So little that processors which others keep busy do not matter.
const EACH: u32 = 20;

fn connections(case: &Case) -> Result<()> {
    let limits = Limits::on(case)?;
    let mut times = Vec::new();
    for (pod, words) in [("one", &["--connections", "1"][..]), ("three", &["--connections", "3"]), ("unset", &[])] {
        let pod = case.start(pages::pod(pod, HEAP / 4, 0))?;
        let before = case.good(&pod, "main", 0)?;
        let way = [&pod, "--to", &case.pair.b, "--memory", "pre-copy", "--compression", "never"];
        let moved = migrate::migrate_with(&case.lab, &case.namespace, &[&way[..], words].concat())?.moved()?;
        let name = moved.target_pod()?;
        let first = case.goes_on(&name, "main", &before)?;
        case.goes_on(&name, "main", &first)?;
        let used = moved.status("/progress/connections").as_u64().context("no connections in the record")?;
        let steps = moved.status("/timeline");
        let round = steps.as_array().into_iter().flatten().find(|step| step["step"].as_str().is_some_and(|name| name.starts_with("round")));
        let micros = round.and_then(|step| step["durationUs"].as_u64()).context("no first round in the record")?;
        case.note(format!("{pod}: {used} connections, the first round took {} ms", micros / 1000));
        times.push((used, micros));
        case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &name, "--timeout=50s"])?;
    }
    drop(limits);
    let [(one, slow), (three, fast), (unset, itself)] = times[..] else { anyhow::bail!("not all pods were moved") };
    ensure!((one, three) == (1, 3) && unset > 1, "{one}, {three} and {unset} connections were used");
    ensure!(fast * 2 < slow, "three connections took {fast} µs, one {slow} µs");
    ensure!(itself * 4 < slow * 3, "left to itself it took {itself} µs, one connection {slow} µs");
    Ok(())
}

/// While it lives, the second node of a pair takes no more than [`EACH`] of a connection.
struct Limits<'a>(&'a Case);

impl<'a> Limits<'a> {
    fn on(case: &'a Case) -> Result<Self> {
        let rules = format!(
            "add table inet e2e; add set inet e2e flows {{ type ipv4_addr . inet_service; flags dynamic; timeout 1m; }}; \
             add chain inet e2e in {{ type filter hook input priority 0; }}; \
             add rule inet e2e in tcp dport 7410 update @flows {{ ip saddr . tcp sport limit rate over {EACH} mbytes/second burst 4 mbytes }} drop"
        );
        case.lab.on_node(&case.pair.b, &["nft", &rules])?;
        Ok(Self(case))
    }
}

impl Drop for Limits<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.lab.on_node(&self.0.pair.b, &["nft", "delete table inet e2e"]) {
            self.0.note(format!("the limits are still on {}: {error:#}", self.0.pair.b));
        }
    }
}
