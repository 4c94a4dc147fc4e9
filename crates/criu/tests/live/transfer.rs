//! One move: freeze, dump, copy of the files, restore; with times.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use godwit_criu::dump::{Plan, Source};
use godwit_criu::restore::{self, Prepared, Target};
use godwit_criu::{Failure, Which, descriptors, explain, images, shield};

use crate::container::Container;
use crate::node::{KEEP, run};
use crate::pod::Pod;

/// A dumped container.
pub struct Dumped {
    pub images: PathBuf,
    pub plan: Plan,
    pub took: Duration,
}

/// Something that CRIU refused.
#[derive(Debug)]
pub struct Refused(pub Failure, pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}\n{}", self.0.reason, self.0.message, self.1)
    }
}

impl std::error::Error for Refused {}

fn directories(container: &Container, what: &str) -> Result<(PathBuf, PathBuf)> {
    let pair = ["images", "work"].map(|part| Path::new("/run/moves").join(&container.id).join(format!("{what}-{part}")));
    for directory in &pair {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
    }
    let [images, work] = pair;
    Ok((images, work))
}

pub fn plan(container: &Container) -> Result<Plan> {
    Ok(Plan::of(&source(container, &container.freezer(), &container.rootfs()))?)
}

fn source<'a>(container: &'a Container, freezer: &'a Path, rootfs: &'a Path) -> Source<'a> {
    Source { spec: &container.spec, pid: container.pid, proc: Path::new("/proc"), freezer, rootfs }
}

/// The command line of a dump.
fn arguments(plan: &Plan, images: &Path, work: &Path) -> Vec<String> {
    let mut words = ["dump", "--tree", &plan.pid().to_string(), "--images-dir", &images.to_string_lossy()].map(str::to_owned).to_vec();
    words.extend(plan.options(work));
    words
}

/// Dumps a frozen container.
pub fn dump(pod: &Pod, container: &Container) -> Result<Dumped> {
    dump_with(pod, container, &[])
}

/// Dumps with more options.
pub fn dump_with(pod: &Pod, container: &Container, more: &[&str]) -> Result<Dumped> {
    let (images, work) = directories(container, "dump")?;
    let plan = plan(container)?;
    descriptors::write(&images, &descriptors::of(Path::new("/proc"), container.pid)?)?;
    let mut criu = vec!["criu".to_owned()];
    criu.extend(arguments(&plan, &images, &work));
    criu.extend(more.iter().map(|word| (*word).to_owned()));
    let mut words = pod.join();
    words.extend(shield::command(&criu));
    let start = Instant::now();
    let mut criu = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut late = false;
    let status = loop {
        if let Some(status) = criu.try_wait()? {
            break status;
        }
        if !late && start.elapsed() > Duration::from_secs(7) {
            // A stopped job: CRIU waits uninterruptibly until the cgroup is thawed.
            late = true;
            container.thaw()?;
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    if late {
        container.thaw()?;
        return Err(Refused(
            Failure { reason: "Deadline".into(), message: "the dump did not end".into(), remedy: String::new(), log: String::new() },
            String::new(),
        )
        .into());
    }
    let took = start.elapsed();
    let keep = Path::new("/").join(KEEP);
    if keep.exists() {
        let _ = run(&["cp", "-r", &images.parent().unwrap_or(&images).to_string_lossy(), &keep.to_string_lossy()]);
    }
    if !status.success() {
        return Err(refused(&work.join("dump.log"), Which::Dump, "").into());
    }
    images::seal(&images)?;
    images::verify(&images)?;
    Ok(Dumped { images, plan, took })
}

/// Starts a dump and kills it after a while; gives whether it had ended before.
pub fn killed_dump(pod: &Pod, container: &Container, after: Duration) -> Result<bool> {
    let (images, work) = directories(container, "killed")?;
    let mut words = pod.join();
    words.push("criu".into());
    words.extend(arguments(&plan(container)?, &images, &work));
    let mut criu = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(after);
    let ended = criu.try_wait()?.is_some();
    criu.kill()?;
    criu.wait()?;
    Ok(ended)
}

fn refused(log: &Path, which: Which, more: &str) -> Refused {
    let text = fs::read_to_string(log).unwrap_or_default() + more;
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("Error") && !line.contains("RLIMIT")).collect();
    Refused(explain(&text, which), errors.join("\n"))
}

/// Copies what the pod brings along: the container's own writes, the volume, shared memory.
pub fn copy(from: (&Pod, &Container), to: (&Pod, &Container)) -> Result<()> {
    let pairs = [
        (from.1.rootfs().join("root"), to.1.rootfs().join("root")),
        (from.1.rootfs().join("tmp"), to.1.rootfs().join("tmp")),
        (from.0.path("volume"), to.0.path("volume")),
        (from.0.path("shm"), to.0.path("shm")),
    ];
    for (from, to) in pairs {
        run(&["cp", "-a", "-T", &from.to_string_lossy(), &to.to_string_lossy()])?;
    }
    Ok(())
}

/// What the target has ready before the freeze.
pub fn prepare(plan: &Plan, target: &Container) -> Result<Prepared> {
    let scratch = Path::new("/run/scratch").join(&target.id);
    let prepared = restore::prepare(
        &plan.externals,
        &Target { spec: &target.spec, scratch: &scratch, cgroups: Path::new("/sys/fs/cgroup"), cgroup: Path::new(&target.cgroup), v2: target.v2 },
    )?;
    prepared.make().context("scratch mounts")?;
    let home = target.bundle.join("home/.criu");
    fs::create_dir_all(&home)?;
    fs::write(home.join("default.conf"), prepared.lines.join("\n") + "\n")?;
    target.write_config()?;
    Ok(prepared)
}

/// Makes the restore of a prepared container wait when everything is restored and nothing has run, until [`open`].
pub fn shut(target: &Container) -> Result<()> {
    let home = target.bundle.join("home");
    let text = home.display();
    let script =
        format!("#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = post-restore ] || exit 0\n: > {text}/restored\nwhile [ ! -e {text}/open ]; do sleep 0.002; done\n");
    fs::write(home.join("gate"), script)?;
    run(&["chmod", "755", &format!("{text}/gate")])?;
    let conf = home.join(".criu/default.conf");
    let lines = fs::read_to_string(&conf)?;
    Ok(fs::write(conf, format!("{lines}action-script {text}/gate\n"))?)
}

/// Whether it waits.
pub fn is_restored(target: &Path) -> bool {
    target.join("home/restored").exists()
}

/// Lets it run.
pub fn open(target: &Path) -> Result<()> {
    Ok(fs::write(target.join("home/open"), "")?)
}

/// `runc restore` of a container that was [`prepare`]d.
pub fn restore(pod: &Pod, target: &mut Container, images: &Path) -> Result<Duration> {
    let work = directories(target, "restore")?.1;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut words = pod.join();
    // A cgroup namespace is not CRIU's business with manage-cgroups=ignore: the stand-in makes it, when runc has put it into the cgroup.
    words.extend(["env".into(), format!("HOME={}", text(&target.bundle.join("home")))]);
    if target.v2 {
        words.push(format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", text(&stand_in(target)?)));
    }
    words.extend([target.runtime.clone(), "--root".into(), target.state(), "restore".into(), "--detach".into()]);
    words.extend(["--bundle".into(), text(&target.bundle), "--pid-file".into(), text(&target.bundle.join("pid"))]);
    words.extend(["--image-path".into(), text(images), "--work-path".into(), text(&work)]);
    words.extend(restore::FLAGS.iter().map(|flag| (*flag).to_owned()));
    words.push(target.id.clone());
    let start = Instant::now();
    let restored = target.detached(Command::new(&words[0]).args(&words[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    let took = start.elapsed();
    match restored {
        Ok(()) => Ok(took),
        Err(error) => Err(refused(&work.join("restore.log"), Which::Restore, &format!("\n{error}")).into()),
    }
}

/// A `criu` in front of the real one that makes the cgroup namespace, once runc has moved it into the container's cgroup. The first call only asks for the
/// version. It must not touch its own descriptors: runc reads the first three of this process as soon as it is started, and fails if one is away.
fn stand_in(target: &Container) -> Result<PathBuf> {
    let directory = target.bundle.join("bin");
    fs::create_dir_all(&directory)?;
    let path = directory.join("criu");
    let script = format!(
        "#!/bin/sh\n[ -e {0}/second ] || {{ : > {0}/second; exec /usr/sbin/criu \"$@\"; }}\n\
         i=0; while [ $i -lt 1000 ]; do grep -q {1}'$' /proc/$$/cgroup && exec unshare --cgroup /usr/sbin/criu \"$@\"; i=$((i+1)); done\n\
         exit 1\n",
        directory.display(),
        target.cgroup
    );
    fs::write(&path, script)?;
    run(&["chmod", "755", &path.to_string_lossy()])?;
    Ok(directory)
}

/// The whole way. The source is still there, frozen, and must be so.
pub struct Moved {
    pub dump: Duration,
    pub restore: Duration,
    pub prepared: Prepared,
}

pub fn transfer(from: (&Pod, &Container), to: (&Pod, &mut Container)) -> Result<Moved> {
    let prepared = prepare(&plan(from.1)?, to.1)?;
    from.1.freeze()?;
    let dumped = dump(from.0, from.1)?;
    if plan(from.1)? != dumped.plan {
        bail!("the plan changed by the dump");
    }
    copy(from, (to.0, to.1))?;
    let took = restore(to.0, to.1, &dumped.images)?;
    prepared.unmake()?;
    if !from.1.frozen()? {
        bail!("the source is not frozen any more");
    }
    Ok(Moved { dump: dumped.took, restore: took, prepared })
}
