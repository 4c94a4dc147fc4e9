//! Signals, as the tracepoint `signal:signal_generate` tells them through tracefs' `trace_pipe`.
//!
//! ```text
//!   kubelet-812     [000] d..1.  9315.933643: signal_generate: sig=9 errno=0 code=0 comm=python3 pid=4711 grp=1 res=0
//!   └ sender                     └ seconds of the trace's clock              (include/trace/events/signal.h)
//! ```

use crate::line::{Level, Line, Source};

/// A signal that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Seconds of the trace's clock, in microseconds.
    pub clock_us: i64,
    /// Who sent it: name and pid of the task that ran, which for signals of the kernel is whoever it interrupted.
    pub from: (String, i32),
    /// To whom.
    pub to: (String, i32),
    /// Its number.
    pub signal: i32,
    /// 0 and negative: a process sent it (kill, sigqueue …); 128 (`SI_KERNEL`) and other positive ones: the kernel.
    pub code: i32,
}

impl Sent {
    /// As a line; `base_us` is the time since the epoch at which the trace's clock was 0.
    #[must_use]
    pub fn line(&self, base_us: i64) -> Line {
        let who = if self.code > 0 { format!("the kernel, while {}[{}] ran", self.from.0, self.from.1) } else { format!("{}[{}]", self.from.0, self.from.1) };
        let level = if matches!(self.signal, 4 | 6 | 7 | 8 | 9 | 11) { Level::Warning } else { Level::Info };
        let text = format!("{} to {}[{}], sent by {who}", name(self.signal), self.to.0, self.to.1);
        Line::new(base_us.saturating_add(self.clock_us), Source::Signal, level, &text)
    }
}

/// One line of the pipe.
#[must_use]
pub fn sent(text: &str) -> Option<Sent> {
    let (head, told) = text.split_once(": signal_generate: ")?;
    let (task, rest) = head.trim_start().split_once(" [")?;
    let (comm, pid) = task.trim_end().rsplit_once('-')?;
    let seconds = rest.rsplit(' ').next()?;
    let (whole, part) = seconds.split_once('.')?;
    let clock_us = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(format!("{part:0<6}").get(..6)?.parse().ok()?)?;
    let field = |name: &str| {
        let at = told.find(name)? + name.len();
        told[at..].split(' ').next()
    };
    let number = |name: &str| field(name)?.parse().ok();
    let to = told.split_once(" comm=")?.1.split_once(" pid=")?;
    Some(Sent {
        clock_us,
        from: (comm.to_owned(), pid.parse().ok()?),
        to: (to.0.to_owned(), to.1.split(' ').next()?.parse().ok()?),
        signal: number("sig=")?,
        code: number("code=")?,
    })
}

/// `SIGKILL`; signals beyond the standard ones by number.
fn name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP",
        "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let known = usize::try_from(signal - 1).ok().and_then(|index| NAMES.get(index));
    known.map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_signal_and_its_sender() {
        let text = "    containerd-shim-812     [001] d..1.  9315.933643: signal_generate: sig=9 errno=0 code=0 comm=redis-server pid=4711 grp=1 res=0";
        let found = sent(text).unwrap();
        assert_eq!((found.from.0.as_str(), found.from.1, found.to.1, found.clock_us), ("containerd-shim", 812, 4711, 9_315_933_643));
        let line = found.line(1_000_000);
        assert_eq!((line.at_us, line.level, line.source), (9_316_933_643, Level::Warning, Source::Signal));
        assert_eq!(line.text, "SIGKILL to redis-server[4711], sent by containerd-shim[812]");
    }

    #[test]
    fn the_kernel_is_named_as_the_sender() {
        let text = " python3-5 [000] dN.1. 12.5: signal_generate: sig=11 errno=0 code=1 comm=a b pid=5 grp=0 res=0";
        let found = sent(text).unwrap();
        assert_eq!((found.to.0.as_str(), found.clock_us), ("a b", 12_500_000));
        assert_eq!(found.line(0).text, "SIGSEGV to a b[5], sent by the kernel, while python3[5] ran");
        assert_eq!(sent("CPU:0 [LOST 12 EVENTS]"), None);
        assert_eq!(name(40), "signal 40");
    }
}
