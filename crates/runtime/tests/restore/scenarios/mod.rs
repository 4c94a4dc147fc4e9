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

mod before;
mod failures;
mod memory;
mod plain;
mod switch;

type Scenario = (&'static str, fn(&World));

pub const ALL: &[Scenario] = &[
    ("plain_calls_are_the_runtimes", plain::plain_calls_are_the_runtimes),
    ("overhead", plain::overhead),
    ("plain_container", plain::plain_container),
    ("create_fails_closed", before::create_fails_closed),
    ("keeper_before_the_switch", before::keeper_before_the_switch),
    ("exit_waits_for_start", before::exit_waits_for_start),
    ("moves_and_stops", switch::moves_and_stops),
    ("exit_code_is_forwarded", switch::exit_code_is_forwarded),
    ("kill_after_the_switch", switch::kill_after_the_switch),
    ("abort_at_the_gate", failures::abort_at_the_gate),
    ("abort_before_the_images", failures::abort_before_the_images),
    ("broken_images", failures::broken_images),
    ("lost_after_the_commit", failures::lost_after_the_commit),
    ("agent_comes_and_goes", switch::agent_comes_and_goes),
    ("stopped_while_the_stand_in_waits", failures::stopped_while_the_stand_in_waits),
    ("stopped_at_the_gate", failures::stopped_at_the_gate),
    ("killed_at_the_gate", failures::killed_at_the_gate),
    ("keeper_lost_at_the_gate", failures::keeper_lost_at_the_gate),
    ("stand_in_lost_at_the_gate", failures::stand_in_lost_at_the_gate),
    ("stand_in_lost_after_the_gate", failures::stand_in_lost_after_the_gate),
    ("keeper_lost_after_the_switch", failures::keeper_lost_after_the_switch),
    ("updates_come_along", switch::updates_come_along),
    ("consumed_is_plain", plain::consumed_is_plain),
    ("memory_is_filled_while_it_runs", memory::memory_is_filled_while_it_runs),
    ("memory_comes_as_a_chain", memory::memory_comes_as_a_chain),
    ("a_pagemap_that_is_read_is_veiled", memory::a_pagemap_that_is_read_is_veiled),
    ("smaps_are_shown", memory::smaps_are_shown),
    ("a_pager_that_dies_takes_the_container_along", memory::a_pager_that_dies_takes_the_container_along),
    ("timing", switch::timing),
];

/// What all scenarios share: the agent and the images of one frozen source.
pub struct World {
    agent: Agent,
    images: PathBuf,
    /// The last count of the source.
    counted: u64,
    _source: Pod,
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
        Self { agent, images, counted, _source: pod }
    }

    fn restore(&self) -> Reply {
        Reply::Restore { images: self.images.clone(), criu: vec!["timeout=20".into()], store: None }
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

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
