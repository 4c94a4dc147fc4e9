//! A program with threads, children, pipes, unix sockets, locks of both kinds, unlinked files, shared memory, eventfd, epoll, timerfd and pending signals.

use anyhow::Result;
use godwit_demo::objects::{Pod, python};
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario =
    Scenario::new("menagerie", "Threads, children, pipes, sockets, locks, unlinked files, timers and signals go on as they were.", run)
        .each_class()
        .machines(OnMachines::All);

fn run(case: &Case) -> Result<()> {
    let mut pod = case.start(Pod::new("menagerie", [python("main", include_str!("programs/menagerie.py"), &[])]))?;
    let mut good = case.good(&pod, "main", 5)?;
    for _ in 0..2 {
        pod = case.move_over(&pod)?;
        // The program compares everything at every turn, its own process ids too.
        good.turn += 20;
        good = case.goes_on(&pod, "main", &good)?;
    }
    Ok(())
}
