//! The report for people: a block for each node, one line for each thing that was looked at, and the way to mend what is not as it should be.

use godwit_api::check::{Check, CheckState};

use super::{Report, Subject};

/// The lines.
#[must_use]
pub fn text(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for subject in &report.subjects {
        lines.push(headline(subject));
        lines.extend(subject.checks.iter().flat_map(line));
        lines.push(String::new());
    }
    let count = |state: CheckState| report.subjects.iter().flat_map(|subject| &subject.checks).filter(|check| check.state == state).count();
    let (ok, warned, failed, unknown) = (count(CheckState::Ok), count(CheckState::Warning), count(CheckState::Failed), count(CheckState::Unknown));
    let mut verdict = if failed == 0 { "✔ pods can move".to_owned() } else { "✘ not everything that a move needs is there".to_owned() };
    verdict.push_str(&format!(": {ok} fine"));
    for (number, word) in [(failed, "failed"), (warned, "could be better"), (unknown, "not looked at")] {
        if number > 0 {
            verdict.push_str(&format!(", {number} {word}"));
        }
    }
    lines.push(verdict);
    lines
}

fn headline(subject: &Subject) -> String {
    let Some(facts) = &subject.facts else { return subject.name.clone() };
    let criu = if facts.criu.is_empty() { "no CRIU".to_owned() } else { format!("CRIU {}", facts.criu) };
    format!("{} · {} · {} · Linux {} · {criu} · cgroup {}", subject.name, facts.runtime, facts.architecture, facts.kernel, facts.cgroup)
}

fn line(check: &Check) -> Vec<String> {
    let mark = match check.state {
        CheckState::Ok => '✔',
        CheckState::Warning => '!',
        CheckState::Failed => '✘',
        CheckState::Unknown => '?',
    };
    let mut lines = vec![format!("  {mark} {:<9} {:<22} {}", check.area, check.name, check.found)];
    if !check.fix.is_empty() {
        lines.push(format!("    {:<9} {:<22} → {}", "", "", check.fix));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::check;
    use super::*;

    #[test]
    fn a_report_for_people() {
        let node = Subject {
            name: "node-a".into(),
            facts: None,
            checks: vec![
                check("kernel", "version", CheckState::Ok, "6.18.0", ""),
                check("criu", "version", CheckState::Failed, "not installed", "install CRIU 4.1 or newer on the node (package criu)"),
            ],
        };
        let report = Report::new(vec![node]);
        assert_eq!((report.ok, report.code()), (false, 1));
        insta::assert_snapshot!(text(&report).join("\n"), @r"
        node-a
          ✔ kernel    version                6.18.0
          ✘ criu      version                not installed
                                             → install CRIU 4.1 or newer on the node (package criu)

        cluster
          ! cluster   nodes                  0 with an agent that answers
                                             → a pod needs another node to go to: see the nodes above

        ✘ not everything that a move needs is there: 1 fine, 1 failed, 1 could be better
        ");
    }
}
