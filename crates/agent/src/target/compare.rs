//! What was restored against what the images say: who is whose child, in which group and session, with which threads; where everybody is charged; the sockets; and some of
//! the memory.
//!
//! ```text
//!   images::verify ─▶ Expected ─┐
//!   /proc of the restored ──────┼─▶ differences in words; none: the pod may be committed
//!   sock_diag of its network ───┤
//!   /proc/PID/mem, some pages ──┘
//! ```
//! Read while the pod stands still, so only what is cheap: a file or two for each process, one for each thread of those that have few, two lists and a question for each connection, some dozens of pages.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use godwit_criu::images::{self, Sample, Summary};
use godwit_network::sockets::{self, Endpoint, Protocol};
use godwit_node::process::{Process, Relative, family};

/// Bytes of a page that may differ: the kernel writes into some itself, above all a thread's area for restartable sequences (32 bytes, rseq(2)).
const KERNELS_OWN: usize = 64;

/// What the images of a container say.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    processes: Vec<images::Process>,
    sockets: Vec<Endpoint>,
    samples: Vec<Sample>,
}

impl Expected {
    /// What is to be expected of a restore of these images.
    #[must_use]
    pub fn of(summary: Summary) -> Self {
        let endpoint = |socket: images::Endpoint| Endpoint {
            protocol: if socket.tcp { Protocol::Tcp } else { Protocol::Udp },
            local: socket.local,
            remote: socket.remote,
        };
        Self { processes: summary.processes, sockets: summary.sockets.into_iter().map(endpoint).collect(), samples: summary.samples }
    }

    /// One thread more than there is, and a page that is not so: for a test that shows a restore being refused.
    pub fn expect_too_much(&mut self) {
        if let Some(sample) = self.samples.first_mut() {
            sample.content.iter_mut().for_each(|byte| *byte = !*byte);
        }
        if let Some(process) = self.processes.first_mut() {
            process.threads.push(i32::MAX);
        }
    }

    /// How the restored processes, and the sockets of their network namespace, differ.
    pub fn differences(&self, restored: &[&Process], netns: &Path) -> Vec<String> {
        let mut found = relations(&self.processes, &family(restored));
        match sockets::missing(netns, &self.sockets) {
            Ok(missing) => found.extend(missing.iter().map(|socket| format!("socket {socket} is missing"))),
            // Not to be able to look is no difference: CRIU has reported success.
            Err(error) => tracing::warn!(%error, "the restored sockets cannot be looked at"),
        }
        for process in restored {
            let own: Vec<&Sample> = self.samples.iter().filter(|sample| sample.pid == process.nspid).collect();
            if own.is_empty() {
                continue;
            }
            match File::open(format!("/proc/{}/mem", process.pid)) {
                Ok(memory) => found.extend(
                    own.into_iter().filter_map(|sample| differs(sample, &memory)).map(|what| format!("process {} ({}): {what}", process.nspid, process.comm)),
                ),
                Err(error) => tracing::warn!(%error, pid = process.pid, "the restored memory cannot be looked at"),
            }
        }
        found
    }
}

/// How a page of the restored memory differs from that in the images. One that cannot be read (newer kernels may refuse pages without the right to read) is no difference.
fn differs(sample: &Sample, memory: &File) -> Option<String> {
    let mut now = vec![0; sample.content.len()];
    if let Err(error) = memory.read_exact_at(&mut now, sample.address) {
        tracing::warn!(%error, address = sample.address, "a page of the restored memory cannot be looked at");
        return None;
    }
    let other = now.iter().zip(&sample.content).filter(|(now, then)| now != then).count();
    (other > KERNELS_OWN).then(|| format!("its memory at {:#x} is not what was dumped: {other} bytes differ", sample.address))
}

/// Differences between the tree in the images and the restored one. Who is missing or too many is told by the source's own list of processes.
fn relations(expected: &[images::Process], restored: &[Relative]) -> Vec<String> {
    let mut found = Vec::new();
    for process in expected.iter().filter(|process| process.alive) {
        let Some(now) = restored.iter().find(|one| one.pid == process.pid) else { continue };
        let who = format!("process {} ({})", process.pid, process.comm);
        // 0 is what is outside of the container.
        for (what, then, now) in [("parent", process.ppid, now.ppid), ("process group", process.pgid, now.pgid), ("session", process.sid, now.sid)] {
            if then != 0 && then != now {
                found.push(format!("{who}: its {what} was {then}, now {now}"));
            }
        }
        let mut threads = process.threads.clone();
        threads.sort_unstable();
        if !now.threads.is_empty() && threads != now.threads {
            found.push(format!("{who}: its threads were {threads:?}, now {:?}", now.threads));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, ppid: i32, threads: &[i32]) -> images::Process {
        images::Process { pid, ppid, pgid: pid, sid: 1, threads: threads.to_vec(), comm: format!("c{pid}"), alive: true }
    }

    fn now(process: &images::Process) -> Relative {
        Relative { pid: process.pid, comm: process.comm.clone(), ppid: process.ppid, pgid: process.pgid, sid: process.sid, threads: process.threads.clone() }
    }

    #[test]
    fn memory_is_compared_but_for_what_the_kernel_writes() {
        let page: Box<[u8]> = (0..4096_u32).map(|number| u8::try_from(number % 251).unwrap_or_default()).collect();
        let sample = |content: &[u8]| Sample { pid: 1, address: page.as_ptr() as u64, content: content.into() };
        let Ok(memory) = File::open("/proc/self/mem") else { return };
        assert_eq!(differs(&sample(&page), &memory), None);
        let mut other = page.clone();
        other[..32].fill(255);
        assert_eq!(differs(&sample(&other), &memory), None);
        other.fill(255);
        assert!(differs(&sample(&other), &memory).is_some_and(|what| what.contains("4096 bytes differ")));
        let nowhere = Sample { pid: 1, address: 0, content: page.clone() };
        assert_eq!(differs(&nowhere, &memory), None);
    }

    #[test]
    fn what_differs_is_named() {
        let zombie = images::Process { alive: false, ..process(9, 7, &[9]) };
        let before = [process(1, 0, &[1, 4, 3]), process(7, 1, &[7]), zombie];
        let mut after: Vec<Relative> = before.iter().map(now).collect();
        after[0].threads.sort_unstable();
        // A zombie is made late, and many threads are not looked at.
        after[2].ppid = 1;
        assert!(relations(&before, &after).is_empty());
        after[0].threads = vec![1, 3, 5];
        after[1] = Relative { ppid: 3, pgid: 1, sid: 0, threads: Vec::new(), ..after[1].clone() };
        assert_eq!(
            relations(&before, &after),
            [
                "process 1 (c1): its threads were [1, 3, 4], now [1, 3, 5]",
                "process 7 (c7): its parent was 1, now 3",
                "process 7 (c7): its process group was 7, now 1",
                "process 7 (c7): its session was 1, now 0",
            ]
        );
        // Who is missing is told elsewhere.
        assert!(relations(&before, &[]).is_empty());
    }
}
