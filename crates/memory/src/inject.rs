//! A userfaultfd of another process, made without its help (x86-64).
//!
//! ```text
//!   thread of the process          this thread
//!   …                       ◀──    SEIZE, INTERRUPT
//!   stands still                   signals blocked, registers saved
//!   syscall userfaultfd     ◀──    one step over a `syscall` instruction of its vdso
//!                                  pidfd_getfd: the descriptor is ours
//!   syscall close           ◀──    one step
//!   goes on                 ◀──    registers and signals as they were, DETACH
//! ```
//! The thread stands still for a fraction of a millisecond and keeps nothing. The kernel lets go of it, too, when the tracing thread ends: each injection has a
//! thread of its own. But then it would go on with whatever registers it has: once they are others, it is waited for until it stands still, however long that takes (where a container may
//! have a hundredth of a processor, seconds), or has ended.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::libc;

use crate::sys::trace::{self, Stop};
use crate::sys::{UFFD_FLAGS, read_memory, steal_descriptor};
use crate::{Error, maps};

/// How long a thread may take to stop; after that it is left alone, or, with other registers, interrupted in its step.
const STOPPING: Duration = Duration::from_millis(500);
/// Between two looks at one that takes longer.
const REST: Duration = Duration::from_millis(1);
/// How often a step is tried before which something else has stopped the thread.
const STEPS: usize = 8;
/// What waits while the registers are others: every signal but the one that ends a step. Where that is blocked, the kernel takes away the handler that the process has for it
/// (kernel/signal.c, `force_sig_info_to_task`).
const BLOCKED: u64 = !(1_u64 << (libc::SIGTRAP - 1));
/// Longest piece of executable memory that is searched for a `syscall` instruction.
const SEARCHED: u64 = 4 << 20;

/// Makes a userfaultfd in process `pid` and takes it over. Blocks, up to some seconds; longer if a thread that is at it gets no processor.
///
/// # Errors
/// When the process cannot be traced, has ended, or may not make one.
pub fn userfaultfd_of(pid: i32) -> Result<OwnedFd, Error> {
    let instruction = find_syscall(pid).map_err(Error::call(format!("no system call instruction in process {pid}")))?;
    std::thread::scope(|scope| {
        let tracer = std::thread::Builder::new().spawn_scoped(scope, move || on_any_thread(pid, instruction))?;
        tracer.join().unwrap_or_else(|_| Err(io::Error::other("the tracing thread ended abnormally")))
    })
    .map_err(Error::call(format!("cannot make a userfaultfd in process {pid}")))
}

/// On the first thread on which it can be done; else why it could not on the last one that was tried.
fn on_any_thread(pid: i32, instruction: u64) -> io::Result<OwnedFd> {
    let mut made = Err(io::Error::other("none of its threads sleeps or runs"));
    for tid in candidates(pid)? {
        made = on_thread(pid, tid, instruction);
        if made.is_ok() {
            break;
        }
    }
    made
}

/// Threads that can be stopped, sleeping ones first: they lose nothing. At most three are tried.
fn candidates(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        match state(pid, tid) {
            Some('S') => found.push((0, tid)),
            Some('R') => found.push((1, tid)),
            _ => {}
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().take(3).map(|(_, tid)| tid).collect())
}

/// As in proc_pid_stat(5); `None` when there is no such thread.
fn state(pid: i32, tid: i32) -> Option<char> {
    let stat = maps::text(&format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

fn on_thread(pid: i32, tid: i32, instruction: u64) -> io::Result<OwnedFd> {
    trace::seize(tid)?;
    let saved = stop(pid, tid)?;
    let mask = trace::signal_mask(tid)?;
    trace::set_signal_mask(tid, BLOCKED)?;
    let outcome = borrow(pid, tid, &saved, instruction);
    // Whatever happened, it stands still or has ended, and goes on as it was. Each of the three counts, also when another one fails.
    let registers = trace::set_registers(tid, &saved);
    let signals = trace::set_signal_mask(tid, mask);
    let released = trace::detach(tid, 0);
    registers.and(signals).and(released).and(outcome)
}

fn borrow(pid: i32, tid: i32, saved: &libc::user_regs_struct, instruction: u64) -> io::Result<OwnedFd> {
    let flags = u64::try_from(UFFD_FLAGS).unwrap_or(0);
    let made = call(pid, tid, saved, instruction, libc::SYS_userfaultfd, flags)?;
    let number = i32::try_from(made).map_err(|_| io::ErrorKind::InvalidData)?;
    if number < 0 {
        return Err(io::Error::from_raw_os_error(-number));
    }
    let stolen = steal_descriptor(pid, number);
    let closed = call(pid, tid, saved, instruction, libc::SYS_close, u64::try_from(number).unwrap_or(0))?;
    if closed != 0 {
        return Err(io::Error::other("the descriptor could not be closed in the process"));
    }
    stolen
}

/// Stops the thread outside of restartable sequences and gives its registers.
fn stop(pid: i32, tid: i32) -> io::Result<libc::user_regs_struct> {
    let end = Instant::now() + STOPPING;
    loop {
        trace::interrupt(tid)?;
        // A signal may come first: it is passed on.
        loop {
            match wait(tid, end)? {
                (_, trace::EVENT_STOP) => break,
                (signal, _) => trace::resume(tid, signal)?,
            }
        }
        let registers = trace::registers(tid)?;
        if !in_sequence(pid, tid, registers.rip) || Instant::now() > end {
            return Ok(registers);
        }
        trace::resume(tid, 0)?;
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// The signal and the event by which the thread has stopped, if it does in time.
fn wait(tid: i32, end: Instant) -> io::Result<(i32, i32)> {
    loop {
        match trace::look(tid)? {
            Stop::Stopped { signal, event } => return Ok((signal, event)),
            Stop::Ended => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            Stop::No if Instant::now() > end => return Err(io::ErrorKind::TimedOut.into()),
            Stop::No => std::thread::sleep(Duration::from_micros(20)),
        }
    }
}

/// The same, however long it takes: only a thread that has ended is not waited for.
fn wait_on(pid: i32, tid: i32) -> io::Result<(i32, i32)> {
    match wait(tid, Instant::now() + STOPPING) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
        other => return other,
    }
    // One that was frozen meanwhile stops for this. One that has ended does not hear it.
    let _ = trace::interrupt(tid);
    loop {
        match trace::look(tid)? {
            Stop::Stopped { signal, event } => return Ok((signal, event)),
            // Of the first thread of a process the kernel says so only when all others have ended, too.
            Stop::No if !matches!(state(pid, tid), None | Some('Z' | 'X')) => std::thread::sleep(REST),
            Stop::No | Stop::Ended => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

/// Whether `rip` lies in a restartable sequence (rseq(2)): stepping elsewhere would abort it.
fn in_sequence(pid: i32, tid: i32, rip: u64) -> bool {
    let word = |address: u64| {
        let mut bytes = [0; 8];
        (address != 0 && read_memory(pid, address, &mut bytes).is_ok_and(|read| read == 8)).then(|| u64::from_le_bytes(bytes))
    };
    let rseq = trace::rseq(tid);
    if rseq == 0 {
        return false;
    }
    // struct rseq: rseq_cs at 8; struct rseq_cs: start_ip at 8, post_commit_offset at 16.
    let Some(section) = word(rseq + 8).filter(|section| *section != 0) else { return false };
    matches!((word(section + 8), word(section + 16)), (Some(start), Some(length)) if (start..start.saturating_add(length)).contains(&rip))
}

/// One system call with one argument, by a single step. In the end the thread stands still, or has ended.
fn call(pid: i32, tid: i32, saved: &libc::user_regs_struct, instruction: u64, number: libc::c_long, argument: u64) -> io::Result<i64> {
    let mut registers = *saved;
    registers.rip = instruction;
    registers.rax = u64::try_from(number).unwrap_or(0);
    // Not in a system call that would have to be restarted.
    registers.orig_rax = u64::MAX;
    registers.rdi = argument;
    trace::set_registers(tid, &registers)?;
    let mut left = STEPS;
    while left > 0 {
        trace::step(tid)?;
        let stopped = wait_on(pid, tid)?;
        let now = trace::registers(tid)?;
        match now.rip.wrapping_sub(instruction) {
            2 if stopped == (libc::SIGTRAP, 0) => return Ok(now.rax.cast_signed()),
            // Something else was told first. The signal that ends the step is still to come, and would end the process if nobody traced it then.
            2 => {}
            0 => left -= 1,
            _ => break,
        }
    }
    Err(io::Error::other("the thread did not make the step"))
}

/// Address of the bytes `0f 05` in executable memory, in the vdso first.
fn find_syscall(pid: i32) -> io::Result<u64> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let maps = maps::of(pid)?;
    let vdso = maps.iter().filter(|mapping| mapping.name == "[vdso]");
    let others = maps.iter().filter(|mapping| mapping.exec && !mapping.name.starts_with("[v"));
    for mapping in vdso.chain(others) {
        let mut code = vec![0; usize::try_from(mapping.range.len().min(SEARCHED)).unwrap_or(0)];
        let Ok(read) = memory.read_at(&mut code, mapping.range.start) else { continue };
        if let Some(at) = code[..read].windows(2).position(|pair| pair == [0x0f, 0x05]) {
            return Ok(mapping.range.start + at as u64);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
