//! One pod that crosses the road again and again while something breaks: whatever does, in the end it runs exactly once, where the record says, and nothing of
//! its memory is lost. The same pod goes through all of it, so its history grows through every crash.

use anyhow::{Context, Result, ensure};
use godwit_demo::install;
use godwit_demo::migrate::{self, Move};
use godwit_demo::objects::deployment;
use godwit_demo::pods;
use godwit_demo::pulse;
use godwit_demo::shell::wait_until;
use godwit_demo::witness::Witness;
use serde_json::Value;

use crate::case::{ALIVE, Case, MINUTE};
use crate::faults::{Fault, Order};

/// The pod on its road.
#[derive(Debug)]
pub struct Road<'a> {
    /// Where it happens.
    pub case: &'a Case,
    /// Who watches.
    pub witness: Witness,
    /// Name of the pod now.
    pub pod: String,
    /// Its node now.
    pub node: String,
    /// What else `kubectl migrate` is told.
    pub options: Vec<String>,
}

impl<'a> Road<'a> {
    /// A pod that counts, on the first node.
    ///
    /// # Errors
    /// When it does not tick.
    pub fn start(case: &'a Case) -> Result<Self> {
        let (witness, pod) = case.start_pulse("traveller")?;
        Ok(Self { case, witness, pod, node: case.pair.a.clone(), options: Vec::new() })
    }

    /// The same as the only replica of a Deployment.
    ///
    /// # Errors
    /// When it does not tick.
    pub fn start_owned(case: &'a Case) -> Result<Self> {
        let witness = case.witness()?;
        let template = pulse::pod("replica", witness.address()).class(case.class);
        case.apply(&[deployment(template, 1, &case.pair.a)])?;
        let pod = wait_until("the replica", MINUTE, || Ok(case.standing_pods()?.into_iter().find(pods::is_ready)))?;
        witness.wait_for_ticks(ALIVE, MINUTE)?;
        let node = pods::node(&pod).to_owned();
        ensure!(node == case.pair.a || node == case.pair.b, "the replica is on {node}, which is none of the pair");
        Ok(Self { case, witness, pod: pods::name(&pod).to_owned(), node, options: Vec::new() })
    }

    /// The node that it would go to.
    #[must_use]
    pub fn target(&self) -> String {
        self.case.pair.other(&self.node).to_owned()
    }

    /// Orders something at a fault point of who carries the pod on its way from here.
    ///
    /// # Errors
    /// When the order cannot be written.
    pub fn at(&self, point: &str, order: Order) -> Result<Fault> {
        self.case.fault_on_way(&self.node, point, order)
    }

    /// Migrates while `order` waits at `point`; afterwards everything must be in order, and somebody must have passed the point. Returns how it ended.
    ///
    /// # Errors
    /// When it is not.
    pub fn cross(&mut self, point: &str, order: Order) -> Result<Move> {
        let fault = self.at(point, order)?;
        let target = self.target();
        let mut arguments = vec![self.pod.as_str(), "--to", &target];
        arguments.extend(self.options.iter().map(String::as_str));
        let moved = migrate::migrate_with(&self.case.lab, &self.case.namespace, &arguments)?;
        ensure!(fault.fired()?, "nobody passed {point}; the command said:\n{}", moved.text());
        drop(fault);
        self.arrive(&moved).with_context(|| format!("after {order:?} at {point}; the command said:\n{}", moved.text()))?;
        Ok(moved)
    }

    /// Checks that the pod is where the command and the record say, alone, and in one line of history; goes on with it.
    ///
    /// # Errors
    /// When it is not.
    pub fn arrive(&mut self, moved: &Move) -> Result<()> {
        let record = moved.record.as_ref().context("no PodMigration was made")?;
        let phase = self.settled(pods::name(record))?;
        let code = match phase.as_str() {
            "Succeeded" => 0,
            "RolledBack" => 2,
            _ => 1,
        };
        ensure!(moved.output.code == code, "the command exited with {}, the record says {phase}", moved.output.code);
        Ok(())
    }

    /// Waits until a migration has ended, then as [`Road::arrive`]. Returns its phase.
    ///
    /// # Errors
    /// When something is not in order.
    pub fn settled(&mut self, record: &str) -> Result<String> {
        let record = migrate::wait_final(&self.case.lab, &self.case.namespace, record)?;
        let phase = migrate::phase(&record).to_owned();
        let source = self.pod.clone();
        if phase == "Succeeded" {
            self.pod = record["status"]["targetPod"].as_str().context("no target pod in the record")?.to_owned();
            self.node = self.target();
        }
        let pod = self.case.ready(&self.pod)?;
        ensure!(pods::node(&pod) == self.node, "{} is on {}, the record says {phase}", self.pod, pods::node(&pod));
        ensure!(pods::restarts(&pod) == 0, "{} was restarted", self.pod);
        let tick = self.witness.wait_for_ticks(ALIVE, MINUTE)?;
        wait_until(&format!("only {} is left ({source} was the source)", self.pod), MINUTE, || {
            let pods = pods::all(&self.case.lab, &self.case.namespace)?;
            Ok((pods.len() == 1).then_some(()))
        })?;
        let history = self.witness.exactly_one_runner()?;
        let last = history.lives.last().and_then(|life| life.stretches.last()).map_or(0, |stretch| stretch.last);
        ensure!(last + 1000 > tick.n, "the history ends at {last}, the pod is at {}", tick.n);
        Ok(phase)
    }
}

/// Gives every controller, and every agent of this pair, that was killed a new pod: the kubelet waits longer before each restart of the same one.
///
/// # Errors
/// When they do not become ready.
pub fn renew(case: &Case) -> Result<()> {
    let restarted = |pod: &Value| pods::restarts(pod) > 0;
    replace(case, restarted)
}

/// Gives these of the controllers and of this pair's agents new pods, and waits for them.
///
/// # Errors
/// When they do not become ready.
pub fn replace(case: &Case, which: impl Fn(&Value) -> bool) -> Result<()> {
    let (lab, pair) = (&case.lab, &case.pair);
    // The agents of the other pair belong to whoever kills them.
    let ours = |pod: &&Value| !pods::name(pod).starts_with("godwit-agent") || [&pair.a, &pair.b].iter().any(|node| *node == pods::node(pod));
    let all = pods::all(lab, install::NAMESPACE)?;
    let old: Vec<String> = all.iter().filter(ours).filter(|pod| which(pod)).map(|pod| pods::name(pod).to_owned()).collect();
    for name in &old {
        lab.kubectl(&["delete", "pod", "-n", install::NAMESPACE, name, "--wait=false", "--ignore-not-found"])?;
    }
    for name in &old {
        pods::wait_gone(lab, install::NAMESPACE, name, MINUTE)?;
    }
    install::wait_ready(lab)
}
