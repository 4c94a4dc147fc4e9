//! runc and crun: versions, and what is known to be wrong with old ones.

use super::{Check, State, output, version};
use crate::Host;

const AREA: &str = "oci";

/// All of it.
pub async fn all(host: &Host) -> Vec<Check> {
    let asked = async |program: &str| {
        output(host.command(program, ["--version"])).await.filter(|(good, _)| *good).and_then(|(_, text)| text.lines().next().map(str::to_owned))
    };
    vec![runc(asked("runc").await.as_deref()), crun(asked("crun").await.as_deref())]
}

/// Restored pods run under runc. Before 1.2 it put restored tasks into the old pod's cgroup on cgroup v2, where the kubelet kills them; 1.3 restores time
/// namespaces.
fn runc(said: Option<&str>) -> Check {
    let fix = "install runc 1.3 or later on the node";
    match (said, said.and_then(version)) {
        (None, _) => Check::bad(AREA, "runc", State::Failed, "not installed", fix),
        (Some(said), Some(there)) if there >= (1, 3) => Check::ok(AREA, "runc", said),
        (Some(said), Some(there)) if there >= (1, 2) => {
            Check::bad(AREA, "runc", State::Warning, format!("{said}: restores no time namespaces, CLOCK_MONOTONIC jumps"), fix)
        }
        (Some(said), _) => {
            Check::bad(AREA, "runc", State::Failed, format!("{said}: puts restored processes into the old pod's cgroup, where the kubelet kills them"), fix)
        }
    }
}

/// Pods that run under crun can leave; none is restored by it.
fn crun(said: Option<&str>) -> Check {
    match (said, said.and_then(version)) {
        (None, _) => Check::ok(AREA, "crun", "not installed, not needed"),
        (Some(said), Some(there)) if there >= (1, 21) => Check::ok(AREA, "crun", said),
        (Some(said), _) => {
            Check::bad(AREA, "crun", State::Warning, format!("{said}: not tried with Godwit"), "install crun 1.21 or later, or run pods under runc")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged() {
        let runc = |text: &str| runc(Some(text)).state;
        assert_eq!(
            [runc("runc version 1.3.6"), runc("runc version 1.2.0"), runc("runc version 1.1.12"), runc("?")],
            [State::Ok, State::Warning, State::Failed, State::Failed]
        );
        assert_eq!([crun(None).state, crun(Some("crun version 1.28")).state, crun(Some("crun version 1.3")).state], [State::Ok, State::Ok, State::Warning]);
    }
}
