//! Runs scenarios: the pairs side by side, each with the next scenario that its runtime has not run yet, what is cluster-wide at the end and alone.
//!
//! Arguments are parts of names, or with `=` before it a whole name; without any, everything runs. `--list` names everything. Environment: `GODWIT_E2E_PART=road` runs what proves the road
//! itself, `GODWIT_E2E_PART=rest` all else. `GODWIT_E2E_INSTALLED=1` takes Godwit as it is, `GODWIT_E2E_KEEP=1` keeps the namespace of what failed, `GODWIT_E2E_RUNTIME=containerd` (or `crio`)
//! leaves the other runtime out. For virtual machines see [`crate::machines`], for more pairs [`crate::pairs`].

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::notice::{line, step};
use godwit_demo::shell::wait_until;
use godwit_demo::{install, pods};

use crate::case::{Case, PREFIX};
use crate::leftovers::{Things, prove_none};
use crate::machines::{Extent, Joined};
use crate::pairs::Widened;
use crate::road::renew;
use crate::scenario::{OnMachines, Scenario};

/// Runtimes on which everything should run.
const RUNTIMES: [(&str, &str); 2] = [("containerd", "containerd"), ("crio", "CRI-O (set GODWIT_CRIO)")];

/// For how long nothing must have changed on the nodes before the first scenario, and how often that is looked for.
const CALM: Duration = Duration::from_secs(2);
const LOOKS: usize = 15;
/// How long namespaces may take to go at the end.
const GONE: Duration = Duration::from_secs(120);

/// Runs what the command line asks for, of parts and their names.
#[must_use]
pub fn main(parts: &[(&str, &[Scenario])]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let part = std::env::var("GODWIT_E2E_PART").unwrap_or_default();
    if !part.is_empty() && parts.iter().all(|(name, _)| *name != part) {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        line(&format!("✘ GODWIT_E2E_PART is {part:?}; it can be {}", names.join(" or ")));
        return ExitCode::FAILURE;
    }
    let scenarios: Vec<Scenario> = parts.iter().filter(|(name, _)| part.is_empty() || *name == part).flat_map(|(_, all)| all.iter().copied()).collect();
    if words.iter().any(|word| word == "--list") {
        for scenario in scenarios {
            line(&format!("{:<24} {}", scenario.name, scenario.sentence));
        }
        return ExitCode::SUCCESS;
    }
    let fits = |name: &str, word: &str| word.strip_prefix('=').map_or_else(|| name.contains(word), |whole| name == whole);
    let wanted = |scenario: &&Scenario| words.is_empty() || words.iter().any(|word| fits(scenario.name, word));
    let chosen: Vec<Scenario> = scenarios.iter().filter(wanted).copied().collect();
    match run(&chosen, words.is_empty()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            line(&format!("✘ {error:#}"));
            ExitCode::FAILURE
        }
    }
}

struct Suite {
    lab: Lab,
    before: BTreeMap<String, Things>,
    failed: Mutex<Vec<Failure>>,
}

/// What failed, and why.
struct Failure {
    title: String,
    why: String,
}

/// Returns how many failed.
fn run(scenarios: &[Scenario], whole: bool) -> Result<usize> {
    let begin = Instant::now();
    let extent = Extent::from_env(whole)?;
    let lab = Lab::enter()?;
    line(&format!("on the {} network", lab.network()));
    godwit_demo::clear(&lab).context("the pod that make demo has left stays")?;
    if !is_set("GODWIT_E2E_INSTALLED") {
        step("Godwit installed by its Helm chart", || install::install(&lab, true))?;
    } else if !install::has_faults(&lab)? {
        bail!("Godwit is installed without fault points; unset GODWIT_E2E_INSTALLED");
    }
    let only = std::env::var("GODWIT_E2E_RUNTIME").ok().filter(|name| !name.is_empty());
    let mut failed = Vec::new();
    if whole && extent == Extent::Nothing {
        line("– skipped on virtual machines: GODWIT_E2E_VMS leaves them out; make test-vm runs what is made for them");
    }
    if extent != Extent::Only {
        failed.extend(on_namespaces(&lab, scenarios, only.as_deref(), whole)?);
    }
    let on_machines = extent.chosen(scenarios);
    for (runtime, nodes) in extent.runtimes().iter().filter(|(runtime, _)| only.as_ref().is_none_or(|only| only == runtime)) {
        if on_machines.is_empty() {
            break;
        }
        match on_virtual_machines(&lab, &on_machines, runtime, nodes) {
            Ok(more) => failed.extend(more),
            Err(error) => {
                line(&format!("✘ virtual machines with {runtime}: {error:#}"));
                failed.push(Failure { title: format!("virtual machines with {runtime}"), why: format!("{error:#}") });
            }
        }
    }
    let seconds = begin.elapsed().as_secs();
    // Said once more where the end of a long log is all that is kept.
    failed.iter().for_each(|Failure { title, why }| line(&format!("✘ {title}: {why}")));
    let titles: Vec<&str> = failed.iter().map(|failure| failure.title.as_str()).collect();
    let verdict = if failed.is_empty() { "all passed".to_owned() } else { format!("{} failed: {}", failed.len(), titles.join(", ")) };
    line(&format!("e2e: {} scenarios in {} min {} s, {verdict}", scenarios.len(), seconds / 60, seconds % 60));
    Ok(failed.len())
}

/// Whether a variable of the environment says something.
#[must_use]
pub fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Everything on the pairs that are sets of namespaces. Returns what failed.
fn on_namespaces(lab: &Lab, scenarios: &[Scenario], only: Option<&str>, whole: bool) -> Result<Vec<Failure>> {
    let here = |lab: &Lab| -> Vec<Pair> { lab.pairs().into_iter().filter(|pair| only.is_none_or(|only| *only == pair.runtime)).collect() };
    for (runtime, needs) in RUNTIMES {
        if here(lab).iter().all(|pair| pair.runtime != runtime) {
            let why = if only.is_some() { "GODWIT_E2E_RUNTIME leaves it out".to_owned() } else { format!("the lab has no two nodes with {needs}") };
            line(&format!("– skipped on {runtime}: {why}"));
        }
    }
    let fit = |alone: bool| scenarios.iter().filter(move |scenario| scenario.machines != OnMachines::Only && scenario.alone == alone);
    let widened = Widened::for_run(lab, whole)?;
    let mut failed = side_by_side(&widened.lab, &here(&widened.lab), &fit(false).copied().collect::<Vec<_>>())?;
    widened.leave(lab)?;
    let suite = Suite::open(lab)?;
    let pairs: Vec<Pair> = RUNTIMES.iter().filter_map(|(runtime, _)| here(lab).into_iter().find(|pair| pair.runtime == *runtime)).collect();
    for scenario in fit(true) {
        for pair in pairs.iter().take(if scenario.once { 1 } else { pairs.len() }) {
            scenario.classes().iter().for_each(|class| suite.run(pair, scenario, *class));
        }
    }
    failed.extend(suite.failed());
    Ok(failed)
}

/// All pairs at once; those of one runtime share what is to be run. Returns what failed.
fn side_by_side(lab: &Lab, pairs: &[Pair], scenarios: &[Scenario]) -> Result<Vec<Failure>> {
    let Some(first) = pairs.first() else { return Ok(Vec::new()) };
    let runs = |runtime: &str| -> VecDeque<(Scenario, Option<&'static str>)> {
        let fit = scenarios.iter().filter(|scenario| !scenario.once || runtime == first.runtime);
        fit.flat_map(|scenario| scenario.classes().iter().map(|class| (*scenario, *class))).collect()
    };
    let queues: BTreeMap<&str, Mutex<_>> = pairs.iter().map(|pair| (pair.runtime.as_str(), Mutex::new(runs(&pair.runtime)))).collect();
    let suite = Suite::open(lab)?;
    thread::scope(|scope| {
        for pair in pairs {
            let (suite, queue) = (&suite, &queues[pair.runtime.as_str()]);
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            scope.spawn(move || {
                while let Some((scenario, class)) = next() {
                    suite.run(pair, &scenario, class);
                }
            });
        }
    });
    Ok(suite.failed())
}

/// These scenarios on two virtual machines of a runtime. Returns what failed.
fn on_virtual_machines(lab: &Lab, scenarios: &[Scenario], runtime: &str, nodes: &str) -> Result<Vec<Failure>> {
    let Some(joined) = Joined::with(lab, runtime, nodes)? else { return Ok(Vec::new()) };
    let failed = Suite::open(&joined.lab).map(|suite| {
        for scenario in scenarios {
            scenario.classes().iter().for_each(|class| suite.run(&joined.pair, scenario, *class));
        }
        suite.failed()
    });
    // What failed is worth a look, if a look is wanted.
    if is_set("GODWIT_E2E_KEEP") && failed.as_ref().is_ok_and(|failed| !failed.is_empty()) {
        return failed;
    }
    joined.leave().and(failed)
}

/// What is on the nodes when nothing comes or goes any more: pods of an installation that has just ended may.
fn settled(lab: &Lab) -> Result<BTreeMap<String, Things>> {
    let look = || lab.nodes().iter().map(|node| Ok((node.name.clone(), Things::on(lab, &node.name)?))).collect::<Result<BTreeMap<_, _>>>();
    let mut seen = look()?;
    for _ in 0..LOOKS {
        thread::sleep(CALM);
        let now = look()?;
        if now == seen {
            break;
        }
        seen = now;
    }
    Ok(seen)
}

/// The causes of an error in one line, without what was found in its namespace, which begins with an empty line. The beginning says what was asked for, the end why it was not done.
fn cause(error: &anyhow::Error) -> String {
    const HALF: usize = 200;
    let links: Vec<String> = error.chain().map(ToString::to_string).filter(|text| !text.starts_with('\n')).collect();
    let whole: Vec<char> = links.join(": ").split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
    if whole.len() <= 2 * HALF {
        return whole.into_iter().collect();
    }
    let (beginning, end) = (&whole[..HALF], &whole[whole.len() - HALF..]);
    beginning.iter().chain(&[' ', '…', ' ']).chain(end).collect()
}

impl Suite {
    fn open(lab: &Lab) -> Result<Self> {
        Ok(Self { lab: lab.clone(), before: settled(lab)?, failed: Mutex::default() })
    }

    fn failed(self) -> Vec<Failure> {
        if let Err(error) = self.all_gone() {
            line(&format!("✘ {error:#}"));
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(Failure { title: "the end".to_owned(), why: cause(&error) });
        }
        self.failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, pair: &Pair, scenario: &Scenario, class: Option<&'static str>) {
        let begin = Instant::now();
        let title = format!("{} · {} · {}", scenario.name, pair.label(), class.unwrap_or("runc"));
        let (notes, result) = self.one(pair, scenario, class);
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => line(&format!("✔ {title:<44} {seconds:>6.1} s  {notes}")),
            Err(error) => {
                line(&format!("✘ {title:<44} {seconds:>6.1} s  {}\n  {error:#}", scenario.sentence));
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(Failure { title, why: cause(&error) });
            }
        }
    }

    fn one(&self, pair: &Pair, scenario: &Scenario, class: Option<&'static str>) -> (String, Result<()>) {
        let case = match Case::open(&self.lab, pair, scenario.name, class) {
            Ok(case) => case,
            Err(error) => return (String::new(), Err(error)),
        };
        let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&case))).unwrap_or_else(|_| Err(anyhow!("the scenario panicked")));
        let result = result.map_err(|error| error.context(format!("\n{}", pods::diagnosis(&self.lab, &case.namespace))));
        if result.is_err() && is_set("GODWIT_E2E_KEEP") {
            return (case.notes(), result);
        }
        if result.is_err()
            && let Err(error) = renew(&case)
        {
            // A container that was killed leaves a cgroup as long as its pod is there, and the next scenario would be blamed for it.
            line(&format!("  agents that {} has killed are not replaced: {error:#}", scenario.name));
        }
        let closed = self.close(&case, scenario);
        (case.notes(), result.and(closed))
    }

    fn close(&self, case: &Case, scenario: &Scenario) -> Result<()> {
        // A namespace that still has pods is looked at again only after half of their grace periods: what makes pods and the pods go first.
        let pods = ["delete", "deployments,replicasets,pods", "--all", "--ignore-not-found", "-n", &case.namespace, "--timeout=55s"];
        // Side by side nobody waits for the namespace itself: all of them are looked for at the end.
        let patience = if scenario.alone { "--timeout=55s" } else { "--wait=false" };
        let delete = ["delete", "namespace", &case.namespace, patience];
        if let Err(error) = self.lab.kubectl(&pods).and_then(|_| self.lab.kubectl(&delete)) {
            return Err(error.context(self.stuck(&case.namespace)));
        }
        let nodes = self.before.iter().filter(|(name, _)| scenario.alone || **name == case.pair.a || **name == case.pair.b);
        let proofs: Vec<Result<()>> = thread::scope(|scope| {
            let all: Vec<_> = nodes.map(|(node, before)| scope.spawn(|| prove_none(&self.lab, node, before))).collect();
            all.into_iter().map(|proof| proof.join().unwrap_or_else(|_| Err(anyhow!("the proof panicked")))).collect()
        });
        proofs.into_iter().collect::<Result<()>>().context("nothing may be left when all pods are gone")
    }

    /// Waits until the namespaces of all scenarios are gone, but those that are kept.
    fn all_gone(&self) -> Result<()> {
        let kept = is_set("GODWIT_E2E_KEEP") && !self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let mut left = Vec::new();
        let gone = wait_until("the scenarios' namespaces gone", GONE, || {
            let all =
                self.lab.kubectl(&["get", "namespaces", "-o", "jsonpath={range .items[?(@.status.phase=='Terminating')]}{.metadata.name}{\"\\n\"}{end}"])?;
            left = all.lines().filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect();
            Ok((kept || left.is_empty()).then_some(()))
        });
        gone.map_err(|error| left.first().map_or_else(|| error, |first| anyhow!("{} namespaces do not go", left.len()).context(self.stuck(first))))
    }

    /// What is still in a namespace that should be gone.
    fn stuck(&self, namespace: &str) -> String {
        let kinds = "pods,podmigrations,handovers,podcheckpoints,podrestores";
        let there = self.lab.kubectl(&["get", kinds, "-n", namespace, "-o", "wide"]).unwrap_or_default();
        format!("the namespace {namespace} does not go; a finalizer is stuck:\n{there}")
    }
}
