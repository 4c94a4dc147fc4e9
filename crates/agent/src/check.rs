//! Answers `Check`: what the node itself is (`godwit_node::check`), and whether Godwit's own parts on it are as they should be.

use std::time::SystemTime;

use godwit_api::names::RUNTIME_HANDLER;
use godwit_node::{
    check::{self, Check, State},
    facts,
};
use godwit_rpc::v1::{CheckReply, Checked, checked};

use crate::{convert, install, node::Node};

const AREA: &str = "godwit";
/// A certificate is renewed long before it has only so much left, in seconds.
const EXPIRING: u64 = 3600;

/// Looks at everything. With `fix` Godwit's own files are put in order first.
pub async fn check(node: &Node, fix: bool) -> CheckReply {
    let mut checks = Vec::new();
    if fix && let Err(error) = install::install(&node.host, node.no_handler.is_empty()).await {
        checks.push(Check::bad(AREA, "fix", State::Failed, format!("{error:#}"), "look at the agent's log on this node"));
    }
    let facts = facts::gather(&node.host).await;
    let wanted = node.no_handler.is_empty();
    checks.extend(check::all(&node.host, &node.cri, &facts, wanted).await);
    if wanted {
        checks.push(handler(node.cri.handlers().await.ok().as_deref()));
        checks.extend(install::files(&node.host, &node.cri).await.into_iter().map(|(name, found)| file(name, found)));
    } else {
        checks.push(Check::ok(AREA, "runtime handler", "none, as the installation wants it"));
    }
    if node.may_import {
        checks.push(import(&node.no_import(false)));
    }
    checks.push(certificate(node.credentials.not_after().duration_since(SystemTime::now()).map_or(0, |left| left.as_secs())));
    CheckReply {
        checks: checks.into_iter().map(contract).collect(),
        node: Some(convert::facts(facts)),
        runtime: format!("{} {}", node.cri.runtime_name(), node.cri.runtime_version()),
    }
}

fn handler(known: Option<&[String]>) -> Check {
    let name = "runtime handler";
    match known {
        Some(known) if known.iter().any(|handler| handler == RUNTIME_HANDLER) => Check::ok(AREA, name, "known to the runtime"),
        Some(_) => Check::bad(
            AREA,
            name,
            State::Failed,
            "the runtime does not know it",
            "kubectl migrate doctor --fix; if that does not help, look at the runtime's log",
        ),
        None => Check::bad(AREA, name, State::Unknown, "the runtime does not answer", "look at the log of containerd or CRI-O on this node"),
    }
}

fn import(why_not: &str) -> Check {
    let name = "checkpoint images";
    if why_not.is_empty() {
        return Check::ok(AREA, name, "can be imported: engine: Checkpoint");
    }
    Check::bad(AREA, name, State::Warning, why_not, "use engine: Live for pods that come to this node")
}

fn file(name: &'static str, found: install::Found) -> Check {
    let fix = "kubectl migrate doctor --fix";
    match found {
        install::Found::AsIs => Check::ok(AREA, name, "as this agent installs it"),
        install::Found::Other => Check::bad(AREA, name, State::Failed, "differs from what this agent installs", fix),
        install::Found::Missing => Check::bad(AREA, name, State::Failed, "missing", fix),
    }
}

fn certificate(left: u64) -> Check {
    let found = format!("valid for {} h {} min", left / 3600, left % 3600 / 60);
    if left < EXPIRING {
        return Check::bad(AREA, "certificate", State::Warning, found, "see that a godwit-controller runs: it signs the next one");
    }
    Check::ok(AREA, "certificate", found)
}

fn contract(check: Check) -> Checked {
    let state = match check.state {
        State::Ok => checked::State::Ok,
        State::Unknown => checked::State::Unknown,
        State::Warning => checked::State::Warning,
        State::Failed => checked::State::Failed,
    };
    Checked { area: check.area.into(), name: check.name.into(), state: state.into(), found: check.found, fix: check.fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_parts_are_judged() {
        assert_eq!([handler(Some(&["godwit".into()])).state, handler(Some(&[])).state, handler(None).state], [State::Ok, State::Failed, State::Unknown]);
        assert_eq!([certificate(80_000).state, certificate(60).state], [State::Ok, State::Warning]);
        assert_eq!([import("").state, import("containerd 2.4").state], [State::Ok, State::Warning]);
        assert_eq!(file("wrapper", install::Found::Missing).fix, "kubectl migrate doctor --fix");
    }
}
