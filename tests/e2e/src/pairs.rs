//! More pairs of nodes for a whole run: they join the lab for the scenarios that may run side by side, and go again.
//!
//! A scenario waits most of its time, for a kubelet or a deadline, so four pairs take far less time than two: two for each of two runtimes, or four for one.
//! `GODWIT_E2E_PAIRS` says how many pairs there are for each of two runtimes, 1 or 2; without it a whole run has 2, and a run of chosen scenarios 1.

use std::time::Duration;

use anyhow::{Result, bail};
use godwit_demo::install;
use godwit_demo::lab::Lab;
use godwit_demo::notice::step;

/// Nodes that are added, by runtime, pair for pair.
const NODES: [(&str, [[&str; 2]; 3]); 2] = [("containerd", [["e", "f"], ["i", "j"], ["k", "l"]]), ("crio", [["g", "h"], ["m", "n"], ["o", "p"]])];
/// How long joining and leaving may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A lab that may have more nodes than before.
pub struct Widened {
    /// The lab with them.
    pub lab: Lab,
    added: Vec<String>,
}

impl Widened {
    /// The lab with more pairs for each of its runtimes, or as it is.
    ///
    /// # Errors
    /// When `GODWIT_E2E_PAIRS` says something else, or nodes do not come up.
    pub fn for_run(lab: &Lab, whole: bool) -> Result<Self> {
        let pairs = if wanted(&std::env::var("GODWIT_E2E_PAIRS").unwrap_or_default(), whole)? { 2 } else { 1 };
        let there: Vec<String> = lab.pairs().into_iter().map(|pair| pair.runtime).collect();
        let new = missing(&there, pairs);
        if new.is_empty() {
            return Ok(Self { lab: lab.clone(), added: Vec::new() });
        }
        let (specs, added): (Vec<String>, Vec<String>) = new.into_iter().unzip();
        step(&format!("{} join the lab", added.join(", ")), || lab.command(&["node", "add", &specs.join(",")], LIMIT))?;
        let widened = Self { lab: lab.again()?, added };
        match install::wait_ready(&widened.lab) {
            Ok(()) => Ok(widened),
            Err(error) => widened.leave(lab).and(Err(error)),
        }
    }

    /// Takes away what has come, and waits until Godwit is ready in `lab`, which is what stays.
    ///
    /// # Errors
    /// When nodes do not go, or controllers that ran on them do not come elsewhere.
    pub fn leave(self, lab: &Lab) -> Result<()> {
        if self.added.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["node", "remove"];
        arguments.extend(self.added.iter().map(String::as_str));
        step(&format!("{} leave the lab", self.added.join(", ")), || lab.command(&arguments, LIMIT))?;
        install::wait_ready(lab)
    }
}

/// What `node add` takes, and the name, of each node that `there` lacks: the runtime of each of its pairs. `pairs` are those of each of two runtimes.
fn missing(there: &[String], pairs: usize) -> Vec<(String, String)> {
    let of = |runtime: &str| there.iter().filter(|other| *other == runtime).count();
    let runtimes = NODES.iter().filter(|(runtime, _)| of(runtime) > 0);
    let each = if pairs > 1 { pairs * NODES.len() / runtimes.clone().count().max(1) } else { pairs };
    let letters = runtimes.flat_map(|(runtime, all)| all.iter().take(each.saturating_sub(of(runtime))).flatten().map(move |letter| (letter, runtime)));
    letters.map(|(letter, runtime)| (format!("{letter}:{runtime}"), format!("node-{letter}"))).collect()
}

/// Whether there shall be two pairs for each runtime.
fn wanted(word: &str, whole: bool) -> Result<bool> {
    Ok(match word {
        "" => whole,
        "1" => false,
        "2" => true,
        other => bail!("GODWIT_E2E_PAIRS is {other:?}; it can be 1 or 2"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_a_whole_run_has_more_pairs_by_itself() {
        assert_eq!(
            [wanted("", true).unwrap(), wanted("", false).unwrap(), wanted("1", true).unwrap(), wanted("2", false).unwrap()],
            [true, false, false, true]
        );
        assert!(wanted("3", true).unwrap_err().to_string().contains("1 or 2"));
    }

    #[test]
    fn one_runtime_has_as_many_pairs_as_two() {
        let names = |there: &[&str], pairs| {
            missing(&there.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), pairs).into_iter().map(|(spec, _)| spec).collect::<Vec<_>>()
        };
        assert_eq!(names(&["containerd", "crio"], 2), ["e:containerd", "f:containerd", "g:crio", "h:crio"]);
        assert_eq!(names(&["containerd"], 2), ["e:containerd", "f:containerd", "i:containerd", "j:containerd", "k:containerd", "l:containerd"]);
        assert_eq!(names(&["crio", "crio", "crio"], 2), ["g:crio", "h:crio"]);
        assert!(names(&["containerd"], 1).is_empty() && names(&[], 2).is_empty());
    }
}
