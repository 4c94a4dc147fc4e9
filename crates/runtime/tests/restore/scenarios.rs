//! The scenarios, in the order of a container's life.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use godwit_runtime::protocol::{CONSUMED, Reply, Request};

use crate::{
    agent::Agent,
    lab::{Container, Pod, RUNC, WORK, WRAPPER, dump, must, run, until, v2},
};

type Scenario = (&'static str, fn(&World));

pub const ALL: &[Scenario] = &[
    ("plain_calls_are_the_runtimes", plain_calls_are_the_runtimes),
    ("overhead", overhead),
    ("plain_container", plain_container),
    ("create_fails_closed", create_fails_closed),
    ("keeper_before_the_switch", keeper_before_the_switch),
    ("exit_waits_for_start", exit_waits_for_start),
    ("moves_and_stops", moves_and_stops),
    ("exit_code_is_forwarded", exit_code_is_forwarded),
    ("kill_after_the_switch", kill_after_the_switch),
    ("abort_at_the_gate", abort_at_the_gate),
    ("abort_before_the_images", abort_before_the_images),
    ("broken_images", broken_images),
    ("agent_comes_and_goes", agent_comes_and_goes),
    ("stopped_while_the_stand_in_waits", stopped_while_the_stand_in_waits),
    ("stopped_at_the_gate", stopped_at_the_gate),
    ("killed_at_the_gate", killed_at_the_gate),
    ("keeper_lost_at_the_gate", keeper_lost_at_the_gate),
    ("keeper_lost_after_the_switch", keeper_lost_after_the_switch),
    ("updates_come_along", updates_come_along),
    ("consumed_is_plain", consumed_is_plain),
    ("timing", timing),
];

/// What all scenarios share: the agent and the images of one frozen source.
pub struct World {
    agent: Agent,
    images: PathBuf,
    /// The last count of the source.
    counted: u64,
}

impl World {
    pub fn new() -> Self {
        let agent = Agent::default();
        agent.open();
        let pod = Pod::new("source");
        let mut source = Container::new(&pod, "source", None);
        source.created(RUNC);
        must(RUNC, &["start", "source"]);
        until("the source counts", || source.count() > 20);
        let images = Path::new(WORK).join("images");
        let time = dump(&pod, &source, &images);
        let counted = source.count();
        println!("source frozen at count {counted}, dumped in {} ms", time.as_millis());
        Self { agent, images, counted }
    }

    fn restore(&self) -> Reply {
        Reply::Restore { images: self.images.clone(), criu: vec!["timeout=20".into()] }
    }

    /// A target container whose keeper waits.
    fn keeper(&self, id: &str) -> (Pod, Container) {
        let pod = Pod::new(&format!("uid-{id}"));
        let mut container = Container::new(&pod, id, Some("migration"));
        container.created(WRAPPER);
        must(WRAPPER, &["start", id]);
        self.agent.wait(id, "keeper", 1);
        (pod, container)
    }

    /// A target container that stands at the gate.
    fn at_the_gate(&self, id: &str) -> (Pod, Container) {
        let (pod, container) = self.keeper(id);
        self.agent.answer_once(id, "keeper", self.restore());
        self.agent.wait(id, "images", 1);
        self.agent.answer(id, "images", Reply::Go);
        self.agent.wait(id, "gate", 1);
        (pod, container)
    }

    /// A target container that has arrived.
    fn arrived(&self, id: &str) -> (Pod, Container) {
        let (pod, container) = self.at_the_gate(id);
        self.agent.answer(id, "gate", Reply::Go);
        self.agent.wait(id, "restored", 1);
        until("it counts on", || container.count() > self.counted + 5);
        (pod, container)
    }

    fn restored(&self, id: &str, count: usize) -> (i32, String) {
        match self.agent.wait(id, "restored", count).request {
            Request::Restored { code, output, .. } => (code, output),
            other => panic!("{other:?}"),
        }
    }
}

fn nothing_ran(container: &Container) {
    sleep(Duration::from_millis(150));
    assert_eq!(container.count(), 0, "it ran: {:?}", container.lines());
}

/// Gives the wrapper another runtime for a while.
struct Configured;

impl Configured {
    fn runtime(path: &str) -> Self {
        fs::create_dir_all("/opt/godwit/etc").unwrap();
        fs::write("/opt/godwit/etc/runtime.json", format!("{{\"runtime\":\"{path}\"}}")).unwrap();
        Self
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let _ = fs::remove_file("/opt/godwit/etc/runtime.json");
    }
}

fn plain_calls_are_the_runtimes(_: &World) {
    for arguments in [
        &["--version"][..],
        &["state", "no-such"],
        &["--nonsense"],
        &["kill", "no-such", "KILL"],
        &["list", "-f", "json"],
        &["create"],
        &["delete", "-f", "no-such"],
    ] {
        let (ours, theirs) = (run(WRAPPER, arguments), run(RUNC, arguments));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).split_whitespace().filter(|word| !word.starts_with("time=")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            (ours.status.code(), text(&ours.stdout), text(&ours.stderr)),
            (theirs.status.code(), text(&theirs.stdout), text(&theirs.stderr)),
            "{arguments:?}"
        );
    }
    // Descriptors, environment, signal dispositions and arguments, seen by a runtime that prints them.
    let probe = "/tmp/probe";
    fs::write(probe, "#!/usr/bin/python3\nimport os,sys\nprint(sys.argv[1:],sorted(os.environ.items()),sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1],os.getcwd(),[l for l in open('/proc/self/status') if l[:3]=='Sig' and l[3]!='Q'])\nprint(os.read(9,5) if os.path.exists('/proc/self/fd/9') else '')\nsys.exit(42)\n").unwrap();
    must("chmod", &["755", probe]);
    let _configured = Configured::runtime(probe);
    for trap in ["", "PIPE", "HUP"] {
        let script = |program: &str| {
            format!("trap '' {trap}; exec 9<<<hello 7>/dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec {program} --root /x state '' 'a b'").replace("trap '' ;", "")
        };
        let call = |program: &str| Command::new("bash").args(["-c", &script(program)]).stdin(Stdio::null()).output().unwrap();
        let (ours, theirs) = (call(WRAPPER), call(probe));
        let strip = |bytes: &[u8]| {
            // The pid differs, of course.
            let text = String::from_utf8_lossy(bytes).into_owned();
            let at = text.find("LISTEN_PID").unwrap_or(0);
            let end = text[at..].find(')').map_or(at, |end| at + end);
            format!("{}{}", &text[..at], &text[end..]).replace(WRAPPER, probe)
        };
        assert_eq!(ours.status.code(), Some(42));
        assert!(!ours.stdout.is_empty());
        assert_eq!(strip(&ours.stdout), strip(&theirs.stdout), "SIG{trap} ignored");
    }
}

fn overhead(_: &World) {
    let pod = Pod::new("uid-overhead");
    let mut container = Container::new(&pod, "overhead", None);
    container.created(WRAPPER);
    let time = |program: &str| {
        let begin = Instant::now();
        let output = run(program, &["state", "overhead"]);
        assert!(output.status.success());
        begin.elapsed()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        theirs.push(time(RUNC));
        ours.push(time(WRAPPER));
    }
    ours.sort();
    theirs.sort();
    let (ours, theirs) = (ours[100], theirs[100]);
    println!("       state: runc {:.2} ms, through the wrapper {:.2} ms (medians of 200): +{:.2} ms", ms(theirs), ms(ours), ms(ours) - ms(theirs));
    assert!(ours < theirs + Duration::from_millis(2));
    container.delete();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn plain_container(world: &World) {
    let pod = Pod::new("uid-plain");
    let mut container = Container::new(&pod, "plain", None);
    container.created(WRAPPER);
    must(WRAPPER, &["start", "plain"]);
    until("it counts", || container.count() > 5);
    must(WRAPPER, &["kill", "plain", "TERM"]);
    assert_eq!(container.exit_code(), 3);
    assert!(world.agent.asked("plain", "create").is_empty());
    container.delete();
    // Of a pod that names a migration, but the agent says it is none of its business.
    world.agent.answer("agreed", "create", Reply::Plain);
    let mut container = Container::new(&pod, "agreed", Some("m"));
    container.created(WRAPPER);
    must(WRAPPER, &["start", "agreed"]);
    until("it counts", || container.first() == 1);
    container.delete();
}

fn create_fails_closed(world: &World) {
    let pod = Pod::new("uid-closed");
    let mut container = Container::new(&pod, "closed", Some("m-1"));
    let fails = |container: &mut Container, reason: &str| {
        let output = container.create(WRAPPER);
        assert_eq!(output.status.code(), Some(1));
        let entry: serde_json::Value = serde_json::from_slice(output.stderr.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap()).unwrap();
        assert_eq!(entry["level"], "error");
        let text = entry["msg"].as_str().unwrap().to_owned();
        assert!(text.contains(reason), "{text}");
        until("stderr says the same", || container.lines().contains(&text));
        assert!(!run(RUNC, &["state", "closed"]).status.success());
    };
    world.agent.answer("closed", "create", Reply::Fail { why: "the ticket is stale".into() });
    fails(&mut container, "the ticket is stale");
    world.agent.close();
    fails(&mut container, "AgentAway");
    world.agent.open();
    world.agent.answer("closed", "create", Reply::Keep);
    container.created(WRAPPER);
    container.delete();
}

fn keeper_before_the_switch(world: &World) {
    let pod = Pod::new("uid-waiting");
    let mut container = Container::new(&pod, "waiting", Some("m-2"));
    let begin = Instant::now();
    container.created(WRAPPER);
    println!("       create with a keeper: {:.1} ms", ms(begin.elapsed()));
    match world.agent.wait("waiting", "create", 1).request {
        Request::Create { name, pod_uid, migration, source_uid, bundle, .. } => {
            assert_eq!((name.as_str(), pod_uid.as_str(), migration.as_str(), source_uid.as_str()), ("waiting", "uid-waiting", "m-2", "source"));
            assert_eq!(bundle, container.bundle);
        }
        other => panic!("{other:?}"),
    }
    let state = container.state();
    assert_eq!((state["status"].as_str(), state["pid"].as_i64()), (Some("created"), Some(i64::from(container.pid))));
    assert_eq!(state["annotations"]["godwit.dev/migration"], "m-2");
    container.in_cgroup(container.pid);
    let descriptors: Vec<_> = fs::read_dir(format!("/proc/{}/fd", container.pid)).unwrap().flatten().map(|fd| fs::read_link(fd.path()).unwrap()).collect();
    assert!(descriptors.len() <= 5, "{descriptors:?}");
    let pss = fs::read_to_string(format!("/proc/{}/smaps_rollup", container.pid)).unwrap();
    let pss = pss.lines().find(|line| line.starts_with("Pss:")).unwrap().to_owned();
    assert!(pss.split_ascii_whitespace().nth(1).unwrap().parse::<u32>().unwrap() < 1024, "{pss}");
    println!("       keeper {pss}, oom_score_adj {}", fs::read_to_string(format!("/proc/{}/oom_score_adj", container.pid)).unwrap().trim());
    must(WRAPPER, &["start", "waiting"]);
    assert_eq!(container.status(), "running");

    let process = "/tmp/process.json";
    fs::write(process, "{\"args\":[\"false\"]}").unwrap();
    must(WRAPPER, &["exec", "--detach", "--pid-file", "/tmp/exec.pid", "--process", process, "waiting"]);
    let pid: i32 = fs::read_to_string("/tmp/exec.pid").unwrap().parse().unwrap();
    assert_eq!(nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap(), nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 0));
    assert_eq!(run(WRAPPER, &["exec", "waiting", "false"]).status.code(), Some(0));
    assert!(!run(WRAPPER, &["exec", "-t", "waiting", "sh"]).status.success());
    assert_eq!(must(WRAPPER, &["ps", "--format", "json", "waiting"]).trim(), format!("[{}]", container.pid));
    assert!(!run(WRAPPER, &["delete", "waiting"]).status.success(), "deleted while it runs");

    must(WRAPPER, &["kill", "waiting", "15"]);
    assert_eq!(container.exit_code(), 143);
    assert_eq!(container.status(), "stopped");
    until("log closed", || container.log_closed());
    let output = run(WRAPPER, &["kill", "waiting", "9"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("container not running"));
    must(WRAPPER, &["delete", "waiting"]);
    assert!(container.cgroups().iter().all(|cgroup| !cgroup.exists()));
}

fn exit_waits_for_start(world: &World) {
    let pod = Pod::new("uid-init");
    let mut container = Container::new(&pod, "init", Some("m"));
    world.agent.answer("init", "keeper", Reply::Exit { code: 0 });
    container.created(WRAPPER);
    sleep(Duration::from_millis(200));
    assert_eq!(container.status(), "created");
    must(WRAPPER, &["start", "init"]);
    assert_eq!(container.exit_code(), 0);
    assert_eq!(container.status(), "stopped");
    container.delete();
}

fn moves_and_stops(world: &World) {
    let pod = Pod::new("uid-move");
    let mut container = Container::new(&pod, "move", Some("m"));
    container.created(WRAPPER);
    world.agent.wait("move", "keeper", 1);
    world.agent.answer_once("move", "keeper", world.restore());
    world.agent.wait("move", "images", 1);
    assert_eq!(container.status(), "created");
    world.agent.answer("move", "images", Reply::Go);
    let Request::Gate { init_pid, .. } = world.agent.wait("move", "gate", 1).request else { panic!() };
    // Complete, in its place, and not running.
    for name in ["net", "ipc", "uts"] {
        assert_eq!(fs::read_link(format!("/proc/{init_pid}/ns/{name}")).unwrap(), pod.namespace(name), "{name}");
    }
    container.in_cgroup(init_pid);
    assert_eq!(run(WRAPPER, &["exec", "move", "false"]).status.code(), Some(0));
    nothing_ran(&container);
    world.agent.answer("move", "gate", Reply::Go);
    if v2() {
        assert_ne!(fs::read_link(format!("/proc/{init_pid}/ns/cgroup")).unwrap(), fs::read_link("/proc/self/ns/cgroup").unwrap());
    }
    let Request::Resumed { init_pid: resumed, .. } = world.agent.wait("move", "resumed", 1).request else { panic!() };
    assert_eq!(resumed, init_pid);
    assert_eq!(world.restored("move", 1), (0, String::new()));
    assert_eq!((container.status().as_str(), container.state()["pid"].as_i64()), ("created", Some(i64::from(init_pid))));
    must(WRAPPER, &["start", "move"]);
    assert_eq!(container.status(), "running");
    until("it counts on", || container.count() > world.counted + 10);
    assert_eq!(container.first(), world.counted + 1, "the count goes on where it stood");
    assert_eq!(fs::read_to_string(format!("/proc/{init_pid}/oom_score_adj")).unwrap().trim(), "900");

    let seen = must(WRAPPER, &["exec", "move", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; hostname"]);
    assert!(seen.contains("/app.py"), "{seen}");
    assert_eq!(run(WRAPPER, &["exec", "move", "sh", "-c", "exit 5"]).status.code(), Some(5));
    assert_eq!(fs::read_link(format!("/proc/{}/fd/1", container.pid)).unwrap(), Path::new("/dev/null"), "the keeper holds the log open");
    must(WRAPPER, &["kill", "move", "TERM"]);
    assert_eq!(container.exit_code(), 3);
    until("log closed", || container.log_closed());
    assert_eq!(container.lines().last().unwrap(), "leave 3");
    assert_eq!(container.status(), "stopped");
    assert_eq!(world.agent.asked("move", "resumed").len(), 1);
    container.delete();
}

fn exit_code_is_forwarded(world: &World) {
    let (_pod, container) = world.arrived("seven");
    must(WRAPPER, &["kill", "seven", "USR1"]);
    assert_eq!(container.exit_code(), 7);
    container.delete();
}

fn kill_after_the_switch(world: &World) {
    let (_pod, container) = world.arrived("killed");
    must(WRAPPER, &["kill", "killed", "KILL"]);
    assert_eq!(container.exit_code(), 137);
    assert_eq!(container.status(), "stopped");
    container.delete();
    // Deleted by force while it runs.
    let (_pod, container) = world.arrived("forced");
    container.delete();
    assert_eq!(container.exit_code(), 137);
    // A signal sent to the keeper itself reaches the container.
    let (_pod, container) = world.arrived("direct");
    must("kill", &["-TERM", &container.pid.to_string()]);
    assert_eq!(container.exit_code(), 3);
    container.delete();
}

fn abort_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("abort");
    world.agent.answer_once("abort", "gate", Reply::Abort { why: "the source was thawed".into() });
    let (code, output) = world.restored("abort", 1);
    assert_ne!(code, 0);
    println!("       runc says: {}", output.replace('\n', " | "));
    nothing_ran(&container);
    assert_eq!(container.status(), "running");
    container.in_cgroup(container.pid);
    // The same container, a second attempt.
    world.agent.wait("abort", "keeper", 2);
    world.agent.answer_once("abort", "keeper", world.restore());
    world.agent.wait("abort", "gate", 2);
    nothing_ran(&container);
    world.agent.answer("abort", "gate", Reply::Go);
    until("it counts on", || container.count() > world.counted);
    assert_eq!(container.first(), world.counted + 1);
    assert_eq!(world.restored("abort", 2).0, 0);
    container.delete();
}

fn abort_before_the_images(world: &World) {
    let (_pod, container) = world.keeper("early");
    world.agent.answer_once("early", "keeper", world.restore());
    world.agent.wait("early", "images", 1);
    world.agent.answer("early", "images", Reply::Abort { why: "taken back".into() });
    assert_ne!(world.restored("early", 1).0, 0);
    nothing_ran(&container);
    world.agent.wait("early", "keeper", 2);
    world.agent.answer("early", "keeper", Reply::Exit { code: 4 });
    assert_eq!(container.exit_code(), 4);
    container.delete();
}

fn broken_images(world: &World) {
    let broken = Path::new(WORK).join("broken");
    must("cp", &["-r", world.images.to_str().unwrap(), broken.to_str().unwrap()]);
    let core = fs::read_dir(&broken)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("core-"))
        .unwrap();
    let bytes = fs::read(&core).unwrap();
    fs::write(&core, &bytes[..bytes.len() / 2]).unwrap();
    let (_pod, container) = world.keeper("broken");
    world.agent.answer("broken", "images", Reply::Go);
    world.agent.answer_once("broken", "keeper", Reply::Restore { images: broken, criu: Vec::new() });
    let (code, output) = world.restored("broken", 1);
    assert_ne!(code, 0);
    assert!(output.contains("Error"), "{output}");
    nothing_ran(&container);
    assert!(world.agent.asked("broken", "gate").is_empty());
    container.delete();
}

fn agent_comes_and_goes(world: &World) {
    let again = |kind: &str, count: usize| {
        world.agent.close();
        sleep(Duration::from_millis(250));
        world.agent.open();
        world.agent.wait("patient", kind, count);
    };
    let (_pod, container) = world.keeper("patient");
    again("keeper", 2);
    world.agent.answer_once("patient", "keeper", world.restore());
    world.agent.wait("patient", "images", 1);
    again("images", 2);
    world.agent.answer_once("patient", "images", Reply::Go);
    world.agent.wait("patient", "gate", 1);
    again("gate", 2);
    nothing_ran(&container);
    // Away at the very moment of the resume: the keeper tells it later.
    world.agent.answer("patient", "gate", Reply::Go);
    world.agent.close();
    until("it counts on", || container.count() > world.counted);
    world.agent.open();
    assert_eq!(world.restored("patient", 1).0, 0);
    assert!(!world.agent.asked("patient", "resumed").is_empty());
    container.delete();
}

fn stopped_while_the_stand_in_waits(world: &World) {
    let (_pod, container) = world.keeper("stop-early");
    world.agent.answer_once("stop-early", "keeper", world.restore());
    world.agent.wait("stop-early", "images", 1);
    must(WRAPPER, &["kill", "stop-early", "TERM"]);
    assert_eq!(container.exit_code(), 143);
    assert_ne!(world.restored("stop-early", 1).0, 0);
    world.agent.answer("stop-early", "images", Reply::Go);
    nothing_ran(&container);
    container.delete();
}

fn stopped_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("stop-gate");
    must(WRAPPER, &["kill", "stop-gate", "TERM"]);
    assert_eq!(container.exit_code(), 143);
    world.agent.answer("stop-gate", "gate", Reply::Go);
    assert_ne!(world.restored("stop-gate", 1).0, 0);
    nothing_ran(&container);
    container.delete();
}

fn killed_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("kill-gate");
    must(WRAPPER, &["kill", "kill-gate", "KILL"]);
    assert_eq!(container.exit_code(), 1009);
    world.agent.answer("kill-gate", "gate", Reply::Go);
    nothing_ran(&container);
    assert_eq!(container.status(), "stopped");
    container.delete();
}

fn keeper_lost_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("lost-gate");
    must("kill", &["-KILL", &container.pid.to_string()]);
    assert_eq!(container.exit_code(), 1009);
    world.agent.answer("lost-gate", "gate", Reply::Go);
    assert_ne!(world.restored("lost-gate", 1).0, 0);
    nothing_ran(&container);
    container.delete();
}

fn keeper_lost_after_the_switch(world: &World) {
    let (_pod, container) = world.arrived("lost");
    let real = must(RUNC, &["state", "lost"]);
    let real = serde_json::from_str::<serde_json::Value>(&real).unwrap()["pid"].as_i64().unwrap();
    must("kill", &["-KILL", &container.pid.to_string()]);
    assert_eq!(container.exit_code(), 1009);
    assert_eq!(container.status(), "stopped");
    assert!(Path::new(&format!("/proc/{real}")).exists());
    must(WRAPPER, &["delete", "lost"]);
    until("the real container is gone", || !fs::read_to_string(format!("/proc/{real}/stat")).is_ok_and(|stat| !stat.contains(") Z")));
}

fn updates_come_along(world: &World) {
    if v2() {
        return println!("       skipped: the v2 hierarchy of this node has no controllers");
    }
    let (_pod, container) = world.keeper("update");
    let file = "/tmp/resources.json";
    fs::write(file, "{\"memory\":{\"limit\":134217728}}").unwrap();
    must(WRAPPER, &["update", "--resources", file, "update"]);
    world.agent.answer("update", "images", Reply::Go);
    world.agent.answer("update", "gate", Reply::Go);
    world.agent.answer("update", "keeper", world.restore());
    assert_eq!(world.restored("update", 1).0, 0);
    let limit = |directory: PathBuf| ["memory.limit_in_bytes", "memory.max"].iter().find_map(|name| fs::read_to_string(directory.join(name)).ok());
    until("the limit is there", || container.cgroups().into_iter().find_map(limit).is_some_and(|text| text.trim() == "134217728"));
    container.delete();
}

fn consumed_is_plain(world: &World) {
    let pod = Pod::new("uid-consumed");
    fs::create_dir_all(CONSUMED).unwrap();
    fs::write(Path::new(CONSUMED).join("uid-consumed"), "").unwrap();
    let mut container = Container::new(&pod, "consumed", Some("m"));
    world.agent.close();
    container.created(WRAPPER);
    world.agent.open();
    must(WRAPPER, &["start", "consumed"]);
    until("it starts afresh", || container.first() == 1);
    container.delete();
}

fn timing(world: &World) {
    let mut rows: Vec<(f64, f64, f64)> = Vec::new();
    for round in 0..10 {
        let id = format!("timing-{round}");
        let (_pod, container) = world.at_the_gate(&id);
        let gate = world.agent.wait(&id, "gate", 1).at;
        world.agent.answer(&id, "gate", Reply::Go);
        let resumed = world.agent.wait(&id, "resumed", 1).at;
        let restored = world.agent.wait(&id, "restored", 1).at;
        let (go, open) = (world.agent.answered_at(&id, "images"), world.agent.answered_at(&id, "gate"));
        rows.push((ms(gate - go), ms(resumed - open), ms(restored - resumed)));
        container.delete();
    }
    let median = |of: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0])
    };
    let (gate, resumed, restored) = (median(|row| row.0), median(|row| row.1), median(|row| row.2));
    println!(
        "       Images=Go to gate {:.1} (min {:.1}) ms, Gate=Go to resumed {:.1} (min {:.1}) ms, resumed to runc restore's end {:.1} (min {:.1}) ms",
        gate.0, gate.1, resumed.0, resumed.1, restored.0, restored.1
    );
}
