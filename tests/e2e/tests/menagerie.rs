//! A program with threads, children, pipes, unix sockets, locks of both kinds, unlinked files, shared memory, eventfd, epoll, timerfd and pending signals.

use anyhow::Result;
use godwit_demo::objects::{Pod, python};
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario =
    Scenario::new("menagerie", "Threads, children, pipes, sockets, locks, unlinked files, timers and signals go on as they were.", run)
        .each_class()
        .machines(OnMachines::All);

fn run(case: &Case) -> Result<()> {
    there_and_back(case, &[])
}

/// Moves it to the other node and back, with options of `kubectl migrate`.
///
/// # Errors
/// When it does not go on as it was.
pub fn there_and_back(case: &Case, options: &[&str]) -> Result<()> {
    let mut pod = case.start(Pod::new("menagerie", [python("main", include_str!("programs/menagerie.py"), &[])]))?;
    let mut good = case.good(&pod, "main", 5)?;
    for _ in 0..2 {
        pod = case.move_over_by(&pod, options)?;
        // The program compares everything at every turn, its own process ids too.
        good.turn += 20;
        good = case.goes_on(&pod, "main", &good)?;
    }
    Ok(())
}
