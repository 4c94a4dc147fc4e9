//! CRIU: its version, what it says of itself, and what root needs for it.

use std::fs;

use super::{Check, State, output, version};
use crate::Host;

const AREA: &str = "criu";
/// Oldest CRIU that is used.
const OLDEST: (u32, u32) = (4, 1);
/// `CAP_SYS_RESOURCE` (capabilities(7)).
const SYS_RESOURCE: u64 = 1 << 24;

/// All of it.
pub async fn all(host: &Host, criu: Option<&str>) -> Vec<Check> {
    let mut checks = vec![age(criu)];
    if criu.is_some() {
        checks.push(own_check(output(host.command("criu", ["check"])).await));
    }
    checks.push(capability(fs::read_to_string("/proc/1/status").ok().as_deref(), host.path("/etc/ld.so.preload").exists()));
    checks
}

fn age(criu: Option<&str>) -> Check {
    let install = format!("install CRIU {}.{} or newer on the node (package criu)", OLDEST.0, OLDEST.1);
    match criu {
        None => Check::bad(AREA, "version", State::Failed, "not installed", install),
        Some(criu) if version(criu).is_some_and(|there| there >= OLDEST) => Check::ok(AREA, "version", criu),
        Some(criu) => Check::bad(AREA, "version", State::Failed, criu, install),
    }
}

/// `criu check` without options asks for what every dump and restore needs.
fn own_check(said: Option<(bool, String)>) -> Check {
    let name = "criu check";
    match said {
        Some((true, _)) => Check::ok(AREA, name, "looks good"),
        Some((false, text)) => {
            let line = text.lines().rfind(|line| line.contains("Error")).or_else(|| text.lines().last()).unwrap_or("failed").trim().to_owned();
            Check::bad(AREA, name, State::Warning, line, "run `criu check --all -v4` on the node; what it names is missing in the kernel or forbidden to root")
        }
        None => Check::bad(AREA, name, State::Unknown, "did not end", "run `criu check` on the node"),
    }
}

fn capability(status: Option<&str>, preload: bool) -> Check {
    let name = "CAP_SYS_RESOURCE";
    let bits =
        status.and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapBnd:"))).and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    match bits {
        Some(bits) if bits & SYS_RESOURCE != 0 => Check::ok(AREA, name, "root has it"),
        Some(_) => {
            let found =
                if preload { "root lacks it (a preloaded library may answer instead)" } else { "root lacks it: processes of other users cannot be dumped" };
            Check::bad(AREA, name, State::Warning, found, "give the machine's root CAP_SYS_RESOURCE: it is a container or sandbox that lacks it")
        }
        None => Check::bad(AREA, name, State::Unknown, "/proc/1/status is unreadable", "the agent must share the node's pid namespace (hostPID)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_judged() {
        assert_eq!([age(None).state, age(Some("3.17.1")).state, age(Some("4.2")).state], [State::Failed, State::Failed, State::Ok]);
        let said = own_check(Some((false, "Warn  (criu/x.c:1): a\nError (criu/cr-check.c:1): no tun\n".into())));
        assert_eq!((said.state, said.found.as_str()), (State::Warning, "Error (criu/cr-check.c:1): no tun"));
        assert_eq!(capability(Some("CapBnd:\t000001ffffffffff\n"), false).state, State::Ok);
        assert_eq!(capability(Some("CapBnd:\t000001fffeffffff\n"), false).state, State::Warning);
        assert_eq!(capability(None, false).state, State::Unknown);
    }
}
