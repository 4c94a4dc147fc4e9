//! What must work, and what must be refused.

mod measure;
mod mounts;
mod moves;
mod odd;
mod seal;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::container::Container;
use crate::pod::Pod;
use crate::transfer::Moved;

type Scenario = fn(&Bench) -> Result<String>;

const ALL: &[(&str, Scenario)] = &[
    ("shell_from_runc", |bench| moves::shell(bench, "runc")),
    ("shell_from_crun", |bench| moves::shell(bench, "crun")),
    ("everything_from_runc", |bench| moves::everything(bench, "runc")),
    ("everything_from_crun", |bench| moves::everything(bench, "crun")),
    ("sealed_from_freeze_to_thaw", seal::sealed),
    ("two_containers_with_a_loopback_connection", moves::loopback),
    ("mounts_at_the_target", mounts::mounts),
    ("odd_things", odd::odd),
    ("times_of_a_small_process", measure::measured),
    ("killed_criu", measure::killed),
    ("criu_is_shielded", seal::shielded),
];

/// Where a scenario runs.
pub struct Bench {
    v2: bool,
}

/// Runs the scenarios whose names contain one of the words; all without words.
pub fn run(cgroup: &str, wanted: &[String]) -> Result<()> {
    let bench = Bench { v2: cgroup == "v2" };
    let mut failed = 0;
    for (name, scenario) in ALL {
        let full = format!("{cgroup}::{name}");
        if !wanted.is_empty() && !wanted.iter().any(|word| full.contains(word.as_str())) {
            continue;
        }
        let start = Instant::now();
        match scenario(&bench) {
            Ok(note) => println!("test {full} ... ok ({:.1} s) {note}", start.elapsed().as_secs_f32()),
            Err(error) => {
                failed += 1;
                println!("test {full} ... FAILED\n{error:#}");
            }
        }
    }
    if failed > 0 { bail!("{failed} scenarios failed on cgroup {cgroup}") } else { Ok(()) }
}

impl Bench {
    fn container(&self, pod: &Pod, name: &str, runtime: &str, workload: &str) -> Result<Container> {
        let program = match workload.rsplit_once('.') {
            Some((_, "py")) => "python3",
            _ => "sh",
        };
        let path = format!("/opt/{workload}");
        let container = Container::new(pod, name, runtime, self.v2, &[program, &path])?;
        // Part of the image: there on both sides.
        let text = match workload {
            "shell.sh" => include_str!("../workloads/shell.sh"),
            "many.py" => include_str!("../workloads/many.py"),
            "odd.py" => include_str!("../workloads/odd.py"),
            "clock.py" => include_str!("../workloads/clock.py"),
            "server.py" => include_str!("../workloads/server.py"),
            "client.py" => include_str!("../workloads/client.py"),
            other => bail!("no workload {other}"),
        };
        fs::write(container.rootfs().join("opt").join(workload), text)?;
        Ok(container)
    }
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = check() {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("{what} did not happen");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn times(moved: &Moved) -> String {
    format!("dump {} ms, restore {} ms", moved.dump.as_millis(), moved.restore.as_millis())
}

fn ask(pod: &Pod, container: &Container) -> Result<String> {
    let _ = fs::remove_file(pod.path("volume/facts"));
    crate::node::run(&["kill", "-USR1", &container.pid.to_string()])?;
    until("facts", || fs::read_to_string(pod.path("volume/facts")).ok())
}

/// How often a measurement is repeated; none without `GODWIT_CRIU_ROUNDS`.
fn rounds() -> Option<u64> {
    std::env::var("GODWIT_CRIU_ROUNDS").ok()?.parse().ok()
}
