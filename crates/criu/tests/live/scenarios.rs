//! What must work, and what must be refused.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::container::Container;
use crate::pod::Pod;
use crate::transfer::{self, Moved, transfer};

type Scenario = fn(&Bench) -> Result<String>;

const ALL: &[(&str, Scenario)] = &[
    ("shell_from_runc", |bench| shell(bench, "runc")),
    ("shell_from_crun", |bench| shell(bench, "crun")),
    ("everything_from_runc", |bench| everything(bench, "runc")),
    ("everything_from_crun", |bench| everything(bench, "crun")),
    ("sealed_from_freeze_to_thaw", sealed),
    ("two_containers_with_a_loopback_connection", loopback),
    ("mounts_at_the_target", mounts),
    ("odd_things", odd),
    ("killed_criu", killed),
    ("criu_is_shielded", shielded),
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
    let end = Instant::now() + Duration::from_secs(10);
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

fn shell(bench: &Bench, runtime: &str) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", runtime, "shell.sh")?;
    let mut target = bench.container(&to, "a", "runc", "shell.sh")?;
    source.start()?;
    until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3))?;
    let moved = transfer((&from, &source), (&to, &mut target))?;
    let last = number(&from.path("volume/count")).context("no count")?;
    until("counting on", || number(&to.path("volume/count")).filter(|count| *count > last + 3))?;
    ensure!(number(&from.path("volume/count")) == Some(last), "the source ran on");
    let output = target.output()?;
    ensure!(output.lines().count() > 2 && !output.contains("line 1\n"), "output goes elsewhere: {output:?}");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", target.pid))?;
    ensure!(cgroups.contains(&target.cgroup), "not in its cgroup: {cgroups}");
    for kind in ["net", "ipc", "uts"] {
        let own = fs::metadata(format!("/proc/{}/ns/{kind}", target.pid))?;
        ensure!(std::os::unix::fs::MetadataExt::ino(&own) == std::os::unix::fs::MetadataExt::ino(&fs::metadata(to.path(kind))?), "{kind} is not the pod's");
    }
    ensure!(target.exec(&["cat", "/etc/hostname"])? == "dst\n", "exec");
    Ok(times(&moved))
}

fn everything(bench: &Bench, runtime: &str) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", runtime, "many.py")?;
    let mut target = bench.container(&to, "a", "runc", "many.py")?;
    source.start()?;
    until("ready", || from.path("volume/ready").exists().then_some(())).with_context(|| source.output().unwrap_or_default())?;
    let before = ask(&from, &source)?;
    let moved = transfer((&from, &source), (&to, &mut target))?;
    let after = ask(&to, &target)?;
    ensure!(before == after, "before {before}\nafter  {after}");
    Ok(times(&moved))
}

fn ask(pod: &Pod, container: &Container) -> Result<String> {
    let _ = fs::remove_file(pod.path("volume/facts"));
    crate::node::run(&["kill", "-USR1", &container.pid.to_string()])?;
    until("facts", || fs::read_to_string(pod.path("volume/facts")).ok())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0))
}

/// No instruction of the application runs between the freeze and the thaw, whatever CRIU does meanwhile.
fn sealed(bench: &Bench) -> Result<String> {
    let from = Pod::new("src")?;
    let mut source = bench.container(&from, "a", "runc", "clock.py")?;
    source.start()?;
    until("ready", || from.path("volume/ready").exists().then_some(()))?;
    let stamps = || -> Result<Vec<u64>> {
        let bytes = fs::read(from.path("volume/clock"))?;
        Ok(bytes.chunks_exact(8).take(4).map(|chunk| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))).collect())
    };
    let mut slowest = Duration::ZERO;
    for round in 0..25 {
        std::thread::sleep(Duration::from_millis(30));
        source.freeze()?;
        let sealed = now();
        let dumped = transfer::dump(&from, &source)?;
        slowest = slowest.max(dumped.took);
        std::thread::sleep(Duration::from_millis(10));
        let last = stamps()?.into_iter().max().unwrap_or(0);
        ensure!(last <= sealed, "round {round}: an instruction ran {} us after the freeze", (last - sealed) / 1000);
        ensure!(source.frozen()?, "not frozen after the dump");
        source.thaw()?;
        until("running again", || stamps().ok().filter(|stamps| stamps.iter().all(|stamp| *stamp > sealed)))?;
    }
    // A dump that fails keeps the seal too.
    source.freeze()?;
    let sealed = now();
    let failed = transfer::dump_with(&from, &source, &["--external", "net[1"]);
    let refused = transfer::dump_with(&from, &source, &["--lsm-profile", "apparmor:none"]);
    std::thread::sleep(Duration::from_millis(10));
    let last = stamps()?.into_iter().max().unwrap_or(0);
    ensure!(last <= sealed && source.frozen()?, "a failed dump broke the seal");
    source.thaw()?;
    until("running again", || stamps().ok().filter(|stamps| stamps.iter().all(|stamp| *stamp > sealed)))?;
    Ok(format!("25 dumps, slowest {} ms; odd options refused: {} {}", slowest.as_millis(), failed.is_err(), refused.is_err()))
}

/// How often a SIGKILL of CRIU harms the container: it can, so nothing but this measurement ever does it.
fn killed(bench: &Bench) -> Result<String> {
    let Some(rounds) = std::env::var("GODWIT_CRIU_ROUNDS").ok().and_then(|rounds| rounds.parse::<u64>().ok()) else {
        return Ok("skipped: set GODWIT_CRIU_ROUNDS to measure it".into());
    };
    let (mut ended, mut thawed, mut dead, mut hurt) = (0, 0, 0, 0);
    let mut when = Vec::new();
    for round in 0..rounds {
        let from = Pod::new("src")?;
        let mut source = bench.container(&from, "a", "runc", "many.py")?;
        source.start()?;
        until("ready", || from.path("volume/ready").exists().then_some(()))?;
        let before = ask(&from, &source)?;
        source.freeze()?;
        let after = 2000 + round * 80_000 / rounds;
        let mut is_thawed = false;
        if transfer::killed_dump(&from, &source, Duration::from_micros(after))? {
            ended += 1;
        } else {
            is_thawed = !source.frozen()?;
            thawed += u32::from(is_thawed);
        }
        source.thaw()?;
        std::thread::sleep(Duration::from_millis(20));
        let alive = Path::new(&format!("/proc/{}/exe", source.pid)).exists();
        if !alive {
            dead += 1;
            when.push(format!("{}ms dead", after / 1000));
        } else if ask(&from, &source).ok() != Some(before) {
            hurt += 1;
            when.push(format!("{}ms hurt", after / 1000));
        } else if is_thawed {
            when.push(format!("{}ms thawed", after / 1000));
        }
    }
    Ok(format!("{rounds} dumps killed: {ended} had ended, {thawed} left the container thawed, {dead} dead, {hurt} hurt {when:?}"))
}

/// CRIU runs outside the cgroup of whoever started it, and is found again.
fn shielded(bench: &Bench) -> Result<String> {
    let words = godwit_criu::shield::command(&["sleep".to_owned(), "1000".into()]);
    let mut child = std::process::Command::new(&words[0]).args(&words[1..]).spawn()?;
    let pid = i32::try_from(child.id())?;
    let cgroups = Path::new("/sys/fs/cgroup");
    let found = until("the move", || {
        let running = godwit_criu::shield::running(cgroups).ok()?;
        let named = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (running == [pid] && named == "sleep\n").then_some(())
    });
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    child.kill()?;
    child.wait()?;
    found.with_context(|| lines.clone())?;
    ensure!(godwit_criu::shield::running(cgroups)?.is_empty(), "still listed");
    let group = if bench.v2 { "0::/godwit" } else { ":freezer:/godwit" };
    ensure!(lines.contains(group), "{lines}");
    Ok(String::new())
}

/// Two containers of a pod, dumped and restored in parallel, with a TCP connection between them.
fn loopback(bench: &Bench) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut sources = [bench.container(&from, "s", "runc", "server.py")?, bench.container(&from, "c", "crun", "client.py")?];
    let mut targets = [bench.container(&to, "s", "runc", "server.py")?, bench.container(&to, "c", "runc", "client.py")?];
    for source in &mut sources {
        source.start()?;
    }
    until("echoes", || number(&from.path("volume/echoes")).filter(|echoes| *echoes > 20))?;
    let prepared = [transfer::prepare(&transfer::plan(&sources[0])?, &targets[0])?, transfer::prepare(&transfer::plan(&sources[1])?, &targets[1])?];
    for source in &sources {
        source.freeze()?;
    }
    let start = Instant::now();
    let dumps: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = sources.iter().map(|source| scope.spawn(|| transfer::dump(&from, source))).collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    });
    let dumped = start.elapsed();
    let mut images = Vec::new();
    for dump in dumps {
        images.push(dump.map_err(|_| anyhow::anyhow!("panic"))??.images);
    }
    for (source, target) in sources.iter().zip(&targets) {
        transfer::copy((&from, source), (&to, target))?;
    }
    let last = number(&from.path("volume/echoes")).context("no echoes")?;
    let start = Instant::now();
    let restores: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = targets.iter_mut().zip(&images).map(|(target, images)| scope.spawn(|| transfer::restore(&to, target, images))).collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    });
    for restore in restores {
        restore.map_err(|_| anyhow::anyhow!("panic"))??;
    }
    let restored = start.elapsed();
    for prepared in prepared {
        prepared.unmake()?;
    }
    until("echoes at the target", || number(&to.path("volume/echoes")).filter(|echoes| *echoes > last + 20))?;
    ensure!(!to.path("volume/error").exists(), "the connection broke: {}", fs::read_to_string(to.path("volume/error"))?);
    Ok(format!("both dumped in {} ms, restored in {} ms", dumped.as_millis(), restored.as_millis()))
}

/// The mount table after the move is that of a container made by the runtime: same flags, own cgroup, nothing of the node.
fn mounts(bench: &Bench) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", "runc", "shell.sh")?;
    let mut target = bench.container(&to, "a", "runc", "shell.sh")?;
    let mut fresh = bench.container(&to, "b", "runc", "shell.sh")?;
    source.start()?;
    fresh.start()?;
    until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3))?;
    let moved = transfer((&from, &source), (&to, &mut target))?;
    ensure!(moved.prepared.warnings.is_empty(), "{:?}", moved.prepared.warnings);
    let (expected, found) = (table(&fresh)?, table(&target)?);
    ensure!(expected == found, "expected {expected:#?}\nfound {found:#?}");
    for path in ["/data-again/x", "/data-read-only/x", "/var/run/secrets/kubernetes.io/serviceaccount/x", "/proc/acpi/x", "/sys/firmware/x"] {
        ensure!(target.exec(&["touch", path]).is_err(), "{path} can be written");
    }
    let procs = if bench.v2 { "/sys/fs/cgroup/cgroup.procs" } else { "/sys/fs/cgroup/freezer/cgroup.procs" };
    let inside = target.exec(&["cat", procs])?;
    ensure!(inside.lines().any(|pid| pid == "1"), "the container sees another cgroup: {inside:?}");
    if bench.v2 {
        let seen = target.exec(&["cat", "/proc/1/cgroup"])?;
        ensure!(seen.lines().any(|line| line == "0::/"), "no cgroup namespace: {seen:?}");
    }
    ensure!(target.exec(&["cat", "/proc/keys"])?.is_empty(), "mask");
    ensure!(target.exec(&["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])? == "token of dst", "token");
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounted.contains("/run/scratch"), "scratch mounts stay");
    Ok(times(&moved))
}

/// What moves, and what is refused with which reason; a refused container runs on.
fn odd(bench: &Bench) -> Result<String> {
    let things: &[(&str, &str)] = &[
        ("nothing", ""),
        ("accept-queue", ""),
        ("append", ""),
        ("cgroup-file", ""),
        ("closing", ""),
        ("deleted-directory", ""),
        ("dev-file", ""),
        // What CRIU makes of it depends on the instant.
        ("half-open", "HandshakeInFlight|"),
        ("hard-link", "UnlinkedFile"),
        ("hosts-file", ""),
        ("huge-mapping", ""),
        ("inotify", "Inotify"),
        ("message-queue", "FileOutside"),
        ("namespace", "NestedNamespace"),
        ("netlink", ""),
        ("packet", ""),
        ("packet-pipe", "PacketPipe"),
        ("pidfd", ""),
        ("proc-file", ""),
        ("raw", ""),
        ("semaphore", "UnlinkedFile"),
        ("signalfd", ""),
        ("stopped", if bench.v2 { "" } else { "Deadline" }),
        ("timer", ""),
        ("token-file", ""),
        ("tty", ""),
        ("unix-outside", "UnixSocketOutside"),
        ("zombie", ""),
    ];
    let wrong: Vec<String> =
        things.iter().filter_map(|(thing, expected)| one(bench, thing, expected).err().map(|error| format!("{thing}: {error:#}"))).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(format!("{} things", things.len()))
}

fn one(bench: &Bench, thing: &str, expected: &str) -> Result<()> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", "runc", "odd.py")?;
    let mut target = bench.container(&to, "a", "runc", "odd.py")?;
    for container in [&mut source, &mut target] {
        container.spec["process"]["args"] = serde_json::json!(["python3", "/opt/odd.py", thing]);
    }
    let _outside = std::os::unix::net::UnixListener::bind(from.path("volume/outside"))?;
    source.start()?;
    until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3)).with_context(|| source.output().unwrap_or_default())?;
    let moved = transfer((&from, &source), (&to, &mut target));
    let last = number(&from.path("volume/count")).context("no count")?;
    let reason = match moved {
        Ok(_) => {
            until("counting on", || number(&to.path("volume/count")).filter(|count| *count > last + 3)).with_context(|| target.output().unwrap_or_default())?;
            String::new()
        }
        Err(error) => match error.downcast_ref::<transfer::Refused>() {
            Some(refused) => {
                if !expected.split('|').any(|expected| refused.0.reason == expected) {
                    println!("{thing}: {refused}");
                }
                refused.0.reason.clone()
            }
            None => return Err(error),
        },
    };
    source.thaw()?;
    until("the source counting on", || number(&from.path("volume/count")).filter(|count| *count > last + 3))?;
    ensure!(expected.split('|').any(|expected| reason == expected), "{reason:?} instead of {expected:?}");
    Ok(())
}

/// Path, flags and type of every mount but atime options.
fn table(container: &Container) -> Result<std::collections::BTreeSet<String>> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let kind = words.iter().position(|word| *word == "-").and_then(|dash| words.get(dash + 1))?;
            let flags: Vec<&str> = words[5].split(',').filter(|flag| !flag.ends_with("atime")).collect();
            Some(format!("{} {} {kind}", words[4], flags.join(",")))
        })
        .collect())
}
