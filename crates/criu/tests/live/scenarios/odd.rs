//! One odd thing each.

use anyhow::{Context, Result, ensure};

use super::{Bench, number, until};
use crate::pod::Pod;
use crate::transfer::{self, transfer};

/// What moves, and what is refused with which reason; a refused container runs on.
pub fn odd(bench: &Bench) -> Result<String> {
    let things: &[(&str, &str)] = &[
        ("nothing", ""),
        ("accept-queue", ""),
        ("append", ""),
        ("cgroup-file", ""),
        ("closing", ""),
        ("deleted-directory", ""),
        ("dev-file", ""),
        // What CRIU makes of it depends on the instant.
        ("half-open", "HandshakeInFlight|"),
        ("hard-link", "UnlinkedFile"),
        ("hosts-file", ""),
        ("huge-mapping", ""),
        ("inotify", "Inotify"),
        ("message-queue", "FileOutside"),
        ("namespace", "NestedNamespace"),
        ("netlink", ""),
        ("packet", ""),
        ("packet-pipe", "PacketPipe"),
        ("pidfd", ""),
        ("proc-file", ""),
        ("raw", ""),
        ("semaphore", "UnlinkedFile"),
        ("signalfd", ""),
        ("stopped", if bench.v2 { "" } else { "Deadline" }),
        ("timer", ""),
        ("token-file", ""),
        ("tty", ""),
        ("unix-outside", "UnixSocketOutside"),
        ("zombie", ""),
    ];
    let wrong: Vec<String> =
        things.iter().filter_map(|(thing, expected)| one(bench, thing, expected).err().map(|error| format!("{thing}: {error:#}"))).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(format!("{} things", things.len()))
}

fn one(bench: &Bench, thing: &str, expected: &str) -> Result<()> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", "runc", "odd.py")?;
    let mut target = bench.container(&to, "a", "runc", "odd.py")?;
    for container in [&mut source, &mut target] {
        container.spec["process"]["args"] = serde_json::json!(["python3", "/opt/odd.py", thing]);
    }
    let _outside = std::os::unix::net::UnixListener::bind(from.path("volume/outside"))?;
    source.start()?;
    until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3)).with_context(|| source.output().unwrap_or_default())?;
    let moved = transfer((&from, &source), (&to, &mut target));
    let last = number(&from.path("volume/count")).context("no count")?;
    let reason = match moved {
        Ok(_) => {
            until("counting on", || number(&to.path("volume/count")).filter(|count| *count > last + 3)).with_context(|| target.output().unwrap_or_default())?;
            String::new()
        }
        Err(error) => match error.downcast_ref::<transfer::Refused>() {
            Some(refused) => {
                if !expected.split('|').any(|expected| refused.0.reason == expected) {
                    println!("{thing}: {refused}");
                }
                refused.0.reason.clone()
            }
            None => return Err(error),
        },
    };
    source.thaw()?;
    until("the source counting on", || number(&from.path("volume/count")).filter(|count| *count > last + 3))?;
    ensure!(expected.split('|').any(|expected| reason == expected), "{reason:?} instead of {expected:?}");
    Ok(())
}
