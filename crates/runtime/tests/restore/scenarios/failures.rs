//! What goes wrong before, at and after the gate.

use super::*;

pub fn abort_at_the_gate(world: &World) {
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

pub fn abort_before_the_images(world: &World) {
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

pub fn broken_images(world: &World) {
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
    world.agent.answer_once("broken", "keeper", Reply::Restore { images: broken, criu: Vec::new(), store: None });
    let (code, output) = world.restored("broken", 1);
    assert_ne!(code, 0);
    assert!(output.contains("Error"), "{output}");
    nothing_ran(&container);
    assert!(world.agent.asked("broken", "gate").is_empty());
    container.delete();
}

/// It counts as having run here, and is not restored again.
fn is_lost(world: &World, id: &str, container: Container) {
    assert!(!world.agent.asked(id, "resumed").is_empty(), "the agent must know that it may have run");
    assert_eq!(container.exit_code(), 137);
    assert_eq!(world.agent.asked(id, "keeper").len(), 1);
    assert_eq!(container.status(), "stopped");
    container.delete();
}

/// CRIU's client dies when the processes have been let go: they may have run, so there is no second restore and no way back.
pub fn lost_after_the_commit(world: &World) {
    let runtime = "/tmp/runc-that-fails";
    fs::write(runtime, format!("#!/bin/sh\n{RUNC} \"$@\" || exit\ncase \" $* \" in *\" restore \"*) exit 1;; esac\n")).unwrap();
    must("chmod", &["755", runtime]);
    let configured = Configured::runtime(runtime);
    let (_pod, container) = world.at_the_gate("half");
    drop(configured);
    world.agent.answer("half", "gate", Reply::Go);
    assert_eq!(world.restored("half", 1).0, 1);
    is_lost(world, "half", container);
}

pub fn stopped_while_the_stand_in_waits(world: &World) {
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

pub fn stopped_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("stop-gate");
    must(WRAPPER, &["kill", "stop-gate", "TERM"]);
    assert_eq!(container.exit_code(), 143);
    world.agent.answer("stop-gate", "gate", Reply::Go);
    assert_ne!(world.restored("stop-gate", 1).0, 0);
    nothing_ran(&container);
    container.delete();
}

pub fn killed_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("kill-gate");
    must(WRAPPER, &["kill", "kill-gate", "KILL"]);
    assert_eq!(container.exit_code(), 1009);
    world.agent.answer("kill-gate", "gate", Reply::Go);
    nothing_ran(&container);
    assert_eq!(container.status(), "stopped");
    container.delete();
}

pub fn keeper_lost_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("lost-gate");
    must("kill", &["-KILL", &container.pid.to_string()]);
    assert_eq!(container.exit_code(), 1009);
    world.agent.answer("lost-gate", "gate", Reply::Go);
    assert_ne!(world.restored("lost-gate", 1).0, 0);
    nothing_ran(&container);
    container.delete();
}

/// The stand-in that holds CRIU, and CRIU, which calls itself something else when it has got its request.
fn holding() -> (String, String) {
    let called = |pid: &String| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"criu\0swrk\0"));
    let all: Vec<String> = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).filter(called).collect();
    let [stand_in] = all.as_slice() else { panic!("one stand-in, not {all:?}") };
    let criu = fs::read_to_string(format!("/proc/{stand_in}/task/{stand_in}/children")).unwrap();
    (stand_in.clone(), criu.split_ascii_whitespace().next().unwrap().to_owned())
}

pub fn stand_in_lost_at_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("alone");
    must("kill", &["-KILL", &holding().0]);
    assert_ne!(world.restored("alone", 1).0, 0);
    nothing_ran(&container);
    assert!(world.agent.asked("alone", "resumed").is_empty());
    // The same container, a second attempt.
    world.agent.wait("alone", "keeper", 2);
    world.agent.answer("alone", "gate", Reply::Go);
    world.agent.answer_once("alone", "keeper", world.restore());
    until("it counts on", || container.count() > world.counted);
    assert_eq!(world.restored("alone", 2).0, 0);
    container.delete();
}

/// CRIU does not take a restore back any more when it has passed the gate: it may have run, whatever runc says, and it is this node's.
pub fn stand_in_lost_after_the_gate(world: &World) {
    let (_pod, container) = world.at_the_gate("torn");
    let (stand_in, criu) = holding();
    must("kill", &["-STOP", &criu]);
    world.agent.answer("torn", "gate", Reply::Go);
    until("the gate is open", || Path::new(godwit_runtime::protocol::CONTAINERS).join("torn/resuming").exists());
    sleep(Duration::from_millis(50));
    must("kill", &["-KILL", &stand_in]);
    must("kill", &["-CONT", &criu]);
    assert_ne!(world.restored("torn", 1).0, 0);
    is_lost(world, "torn", container);
}

pub fn keeper_lost_after_the_switch(world: &World) {
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
