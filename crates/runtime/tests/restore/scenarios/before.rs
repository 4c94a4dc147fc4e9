//! Containers whose keeper waits.

use super::*;

pub fn create_fails_closed(world: &World) {
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

pub fn keeper_before_the_switch(world: &World) {
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
    // What the keeper costs is what only it has and the kernel cannot drop. Its share of the program's clean pages (Pss) depends on who else runs that file just now.
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", container.pid)).unwrap();
    let kilobytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {rollup}"));
        line.split_ascii_whitespace().next().unwrap().parse::<u32>().unwrap()
    };
    let (dirty, pss, rss) = (kilobytes("Private_Dirty:"), kilobytes("Pss:"), kilobytes("Rss:"));
    assert!(dirty < 512 && rss < 4096, "{rollup}");
    let oom = fs::read_to_string(format!("/proc/{}/oom_score_adj", container.pid)).unwrap();
    println!("       keeper has {dirty} kB of its own, Pss {pss} kB, oom_score_adj {}", oom.trim());
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

pub fn exit_waits_for_start(world: &World) {
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
