//! Containers that arrive.

use super::*;

pub fn moves_and_stops(world: &World) {
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
        // A cgroup namespace of its own, with the same root as one of a fresh container.
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
    if v2() {
        assert!(must(WRAPPER, &["exec", "move", "cat", "/proc/1/cgroup"]).trim().ends_with("0::/"));
    }
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

pub fn exit_code_is_forwarded(world: &World) {
    let (_pod, container) = world.arrived("seven");
    must(WRAPPER, &["kill", "seven", "USR1"]);
    assert_eq!(container.exit_code(), 7);
    container.delete();
}

pub fn kill_after_the_switch(world: &World) {
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

pub fn agent_comes_and_goes(world: &World) {
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

pub fn updates_come_along(world: &World) {
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

pub fn timing(world: &World) {
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
