//! A pod that goes from node to node, whatever its name is there.

use std::time::{Duration, Instant};

use anyhow::Result;
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::migrate::{Move, migrate_with};
use godwit_demo::objects::Pod;
use godwit_demo::pods;
use godwit_demo::shell::wait_until;

use crate::stage;

const MINUTE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Walker<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    namespace: &'a str,
    name: String,
    node: String,
}

impl<'a> Walker<'a> {
    /// Starts a pod on the first node; it is Ready then.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub fn start(lab: &'a Lab, pair: &'a Pair, namespace: &'a str, pod: Pod) -> Result<Self> {
        let pod = pod.on(&pair.a);
        let name = pods::name(&pod.clone().object()).to_owned();
        stage::start(lab, namespace, pod)?;
        Ok(Self { lab, pair, namespace, name, node: pair.a.clone() })
    }

    /// Where it goes next.
    pub fn target(&self) -> &str {
        self.pair.other(&self.node)
    }

    /// Moves it to the other node by `kubectl migrate` with these words. Returns what came of it, and how many seconds the command took; the pod is Ready then.
    ///
    /// # Errors
    /// When it was not moved.
    pub fn go(&mut self, words: &[&str]) -> Result<(Move, f64)> {
        let target = self.target().to_owned();
        let begin = Instant::now();
        let moved = migrate_with(self.lab, self.namespace, &[&[self.name.as_str(), "--to", &target], words].concat())?.moved()?;
        let seconds = begin.elapsed().as_secs_f64();
        (self.name, self.node) = (moved.target_pod()?, target);
        pods::wait_ready(self.lab, self.namespace, &self.name, MINUTE)?;
        Ok((moved, seconds))
    }

    /// What its program has said where it is now, since it is there.
    ///
    /// # Errors
    /// When it complains (`bad`), or kubectl does not succeed.
    pub fn said(&self) -> Result<String> {
        let said = self.lab.kubectl(&["logs", "-n", self.namespace, &self.name])?;
        anyhow::ensure!(!said.lines().any(|line| line.starts_with("bad")), "the program complains: {said}");
        Ok(said)
    }

    /// Waits until its program has said, where it is now, that all is as it should be.
    ///
    /// # Errors
    /// When it does not within `limit`, or complains.
    pub fn wait_good(&self, limit: Duration) -> Result<()> {
        wait_until("the program says that all is good", limit, || Ok(self.said()?.lines().any(|line| line.starts_with("good")).then_some(())))
    }
}
