//! One run of a scenario: a pair of nodes, a namespace of its own, and the verbs that scenarios are written in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::install::NAMESPACE;
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::migrate::{self, Move};
use godwit_demo::objects::{Pod, container};
use godwit_demo::shell::{self, Output, wait_until};
use godwit_demo::witness::Witness;
use godwit_demo::{pods, pulse};
use serde_json::Value;

use crate::faults::{Fault, Order};

/// How long a pod may take to become ready or to go.
pub const MINUTE: Duration = Duration::from_secs(60);
/// How the tests' namespaces begin.
pub const PREFIX: &str = "e2e-";
/// Ticks that prove that a pulse runs.
pub const ALIVE: usize = 20;

/// What a test program says of itself: `good TURN IDENTITY…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Good {
    /// How often it has checked everything.
    pub turn: u64,
    /// What must never change.
    pub rest: Vec<String>,
}

impl Good {
    /// Reads a line of such a program.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("good ")?.split_whitespace();
        let turn = words.next()?.parse().ok()?;
        Some(Self { turn, rest: words.map(str::to_owned).collect() })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Case {
    /// The lab.
    pub lab: Lab,
    /// Source and target.
    pub pair: Pair,
    /// RuntimeClass of source pods.
    pub class: Option<&'static str>,
    /// Namespace of this run.
    pub namespace: String,
    notes: Mutex<Vec<String>>,
}

impl Case {
    /// Makes the namespace.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(lab: &Lab, pair: &Pair, scenario: &str, class: Option<&'static str>) -> Result<Self> {
        let namespace = format!("{PREFIX}{scenario}-{}-{}", pair.label(), class.unwrap_or("runc"));
        lab.kubectl(&["delete", "namespace", &namespace, "--ignore-not-found", "--timeout=50s"])?;
        lab.kubectl(&["create", "namespace", &namespace])?;
        Ok(Self { lab: lab.clone(), pair: pair.clone(), class, namespace, notes: Mutex::default() })
    }

    /// Something worth a word in the result.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// All notes.
    #[must_use]
    pub fn notes(&self) -> String {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).join(", ")
    }

    /// Applies objects in the namespace.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let mut objects = objects.to_vec();
        for object in &mut objects {
            object["metadata"]["namespace"] = self.namespace.as_str().into();
        }
        self.lab.apply(&objects)
    }

    /// Starts a pod on the first node, with the source's RuntimeClass, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(&self, pod: Pod) -> Result<String> {
        self.start_on(pod, &self.pair.a)
    }

    /// Starts a pod on a node, with the source's RuntimeClass, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_on(&self, pod: Pod, node: &str) -> Result<String> {
        let object = pod.on(node).class(self.class).object();
        let name = pods::name(&object).to_owned();
        self.apply(&[object])?;
        self.ready(&name)?;
        Ok(name)
    }

    /// Starts a pod that counts, and its witness.
    ///
    /// # Errors
    /// When it does not tick.
    pub fn start_pulse(&self, name: &str) -> Result<(Witness, String)> {
        let witness = self.witness()?;
        let pod = self.start(pulse::pod(name, witness.address()))?;
        witness.wait_for_ticks(ALIVE, MINUTE)?;
        Ok((witness, pod))
    }

    /// A witness of this namespace.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn witness(&self) -> Result<Witness> {
        Witness::start(&self.lab, &self.namespace)
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn ready(&self, pod: &str) -> Result<Value> {
        pods::wait_ready(&self.lab, &self.namespace, pod, self.patience())
    }

    /// How long a pod may take to become ready or to go on these nodes.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if self.pair.vm { MINUTE * 4 } else { MINUTE }
    }

    /// A pod as it is now.
    ///
    /// # Errors
    /// When it is not there.
    pub fn pod(&self, name: &str) -> Result<Value> {
        self.lab.get(&["pod", "-n", &self.namespace, name])
    }

    /// `kubectl migrate POD --to NODE`, however it ends.
    ///
    /// # Errors
    /// When the command hangs.
    pub fn migrate(&self, pod: &str, node: &str) -> Result<Move> {
        migrate::migrate(&self.lab, &self.namespace, pod, node)
    }

    /// `kubectl migrate` with these arguments in this namespace, for what makes no migration.
    ///
    /// # Errors
    /// When the command hangs.
    pub fn kubectl_migrate(&self, arguments: &[&str]) -> Result<Output> {
        let mut all = vec!["migrate"];
        all.extend(arguments);
        all.extend(["-n", &self.namespace]);
        shell::run("kubectl", &all, None, MINUTE)
    }

    /// Orders something at a fault point of this node's agent.
    ///
    /// # Errors
    /// When the order cannot be written.
    pub fn fault(&self, node: &str, point: &str, order: Order) -> Result<Fault> {
        Fault::set(&self.lab, &[node], point, order)
    }

    /// Orders something at a fault point of the controller, wherever it runs, when it is at work for this namespace: another scenario may be under way, with its own orders.
    ///
    /// # Errors
    /// When the order cannot be written.
    pub fn fault_of_controller(&self, point: &str, order: Order) -> Result<Fault> {
        let nodes: Vec<&str> = self.lab.nodes().iter().map(|node| node.name.as_str()).collect();
        Fault::set(&self.lab, &nodes, &format!("{point}@{}", self.namespace), order)
    }

    /// Orders something at a fault point that a move from `source` to the other node passes: of an agent, or of the controller.
    ///
    /// # Errors
    /// When the order cannot be written.
    pub fn fault_on_way(&self, source: &str, point: &str, order: Order) -> Result<Fault> {
        match point.split('.').take(2).collect::<Vec<_>>()[..] {
            ["agent", "source"] => self.fault(source, point, order),
            ["agent", _] => self.fault(self.pair.other(source), point, order),
            _ => self.fault_of_controller(point, order),
        }
    }

    /// A pod that only waits, and its migration, which is taken back because a step of it fails. Returns how it ended; the pod is left.
    ///
    /// # Errors
    /// When it is not taken back.
    pub fn taken_back(&self, name: &str) -> Result<Move> {
        let pod = self.start(Pod::new(name, [container("main", &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"])]))?;
        let _fault = self.fault(&self.pair.b, "agent.target.verify", Order::Fail)?;
        let moved = self.migrate(&pod, &self.pair.b)?.taken_back()?;
        let after = self.ready(&pod)?;
        ensure!(pods::node(&after) == self.pair.a && pods::restarts(&after) == 0, "{pod} was not left alone");
        Ok(moved)
    }

    /// Moves a pod to the other node: it must run and be ready there, and the source must be gone. Returns its new name.
    ///
    /// # Errors
    /// When any of this is not so.
    pub fn move_over(&self, pod: &str) -> Result<String> {
        self.move_over_by(pod, &[])
    }

    /// As [`Case::move_over`], with options of `kubectl migrate`.
    ///
    /// # Errors
    /// As there.
    pub fn move_over_by(&self, pod: &str, options: &[&str]) -> Result<String> {
        let name = self.move_kept_by(pod, options)?;
        if name != pod {
            pods::wait_gone(&self.lab, &self.namespace, pod, self.patience())?;
        }
        Ok(name)
    }

    /// As [`Case::move_over`], but the source may stay for its connections.
    ///
    /// # Errors
    /// When the pod does not run and is not ready on the other node.
    pub fn move_kept(&self, pod: &str) -> Result<String> {
        self.move_kept_by(pod, &[])
    }

    /// As [`Case::move_kept`], with options of `kubectl migrate`.
    ///
    /// # Errors
    /// When the pod does not run and is not ready on the other node.
    pub fn move_kept_by(&self, pod: &str, options: &[&str]) -> Result<String> {
        let before = self.pod(pod)?;
        let node = self.pair.other(pods::node(&before)).to_owned();
        let mut arguments = vec![pod, "--to", &node];
        arguments.extend(options);
        let moved = migrate::migrate_with(&self.lab, &self.namespace, &arguments)?.moved()?;
        let name = moved.target_pod()?;
        let after = self.ready(&name)?;
        ensure!(pods::node(&after) == node, "{name} runs on {}, not on {node}", pods::node(&after));
        ensure!(pods::restarts(&after) == 0, "containers of {name} were restarted: {:?}", pods::marks(&after));
        self.note(format!("freeze {} ms", moved.freeze_ms().context("the record does not say for how long the pod stood still")?));
        Ok(name)
    }

    /// What a container has written.
    ///
    /// # Errors
    /// When kubectl does not succeed.
    pub fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.lab.kubectl(&["logs", "-n", &self.namespace, pod, "-c", container])
    }

    /// What one of Godwit's own parts has written, on all nodes. Asked again when it fails: another scenario may replace an agent between the list and a log.
    ///
    /// # Errors
    /// When it cannot be read for a minute.
    pub fn godwit_logs(&self, part: &str) -> Result<String> {
        let selector = format!("app.kubernetes.io/name={part}");
        wait_until(&format!("the logs of {part}"), MINUTE, || self.lab.kubectl(&["logs", "-n", NAMESPACE, "-l", &selector, "--tail=-1"]).map(Some))
    }

    /// Proves that no log of Godwit has one of these secrets.
    ///
    /// # Errors
    /// Whose log has one, not which.
    pub fn unspoken(&self, secrets: &[&str]) -> Result<()> {
        for part in ["godwit-controller", "godwit-agent"] {
            let logs = self.godwit_logs(part)?;
            ensure!(secrets.iter().all(|secret| !logs.contains(secret)), "a log of {part} has a secret");
        }
        Ok(())
    }

    /// What a command in a container prints.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        let mut all = vec!["exec", "-n", &self.namespace, pod, "-c", container, "--"];
        all.extend(command);
        self.lab.kubectl(&all)
    }

    /// Sends SIGUSR1 to the first process of a container, which ends by it. Whoever sends it is a process of the container too, and may be ended with it (137).
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn end(&self, pod: &str, container: &str) -> Result<()> {
        let said = self.lab.try_kubectl(&["exec", "-n", &self.namespace, pod, "-c", container, "--", "kill", "-USR1", "1"])?;
        ensure!([0, 137].contains(&said.code), "{container} in {pod} was not ended: {}{}", said.stdout, said.stderr);
        Ok(())
    }

    /// Waits until a container's program has said `good N …` with N above `turn`. A line that begins with `bad` is its complaint.
    ///
    /// # Errors
    /// When it complained, or says nothing new.
    pub fn good(&self, pod: &str, container: &str, turn: u64) -> Result<Good> {
        let mut complaint = None;
        let good = wait_until(&format!("{container} in {pod} beyond turn {turn}"), self.patience(), || {
            let logs = self.lab.kubectl(&["logs", "-n", &self.namespace, pod, "-c", container, "--tail=20"])?;
            if let Some(line) = logs.lines().find(|line| line.starts_with("bad") || line.starts_with("Traceback")) {
                complaint = Some(line.to_owned());
                return Ok(Some(Good { turn: 0, rest: Vec::new() }));
            }
            Ok(logs.lines().rev().find_map(Good::read).filter(|good| good.turn > turn))
        })?;
        match complaint {
            Some(line) => bail!("{container} in {pod} complains: {line}"),
            None => Ok(good),
        }
    }

    /// Fails unless a program goes on in `pod` from where it was: later turns, the same words behind them.
    ///
    /// # Errors
    /// When it complained, stopped, or was started anew.
    pub fn goes_on(&self, pod: &str, container: &str, before: &Good) -> Result<Good> {
        let after = self.good(pod, container, before.turn)?;
        ensure!(after.rest == before.rest, "{container} was {:?}, in {pod} it is {:?}", before.rest, after.rest);
        Ok(after)
    }

    /// Does something that must leave a pod alone: same container, no restart, still in the same place, and its pulse in one line of history.
    ///
    /// # Errors
    /// When it does not.
    pub fn untouched<T>(&self, witness: &Witness, pod: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let (before, tick) = (self.pod(pod)?, witness.latest()?);
        let result = what()?;
        let after = self.pod(pod)?;
        ensure!(pods::marks(&before) == pods::marks(&after), "containers of {pod} changed: {:?}, now {:?}", pods::marks(&before), pods::marks(&after));
        ensure!(before["metadata"]["labels"] == after["metadata"]["labels"], "labels of {pod} changed: {}", after["metadata"]["labels"]);
        let later = witness.wait_for_ticks(ALIVE, MINUTE)?;
        ensure!(later.identity == tick.identity && later.n > tick.n, "{pod} does not go on from tick {}: {later:?}", tick.n);
        witness.exactly_one_runner()?;
        Ok(result)
    }

    /// All pods of the namespace but those that are going.
    ///
    /// # Errors
    /// When kubectl does not succeed.
    pub fn standing_pods(&self) -> Result<Vec<Value>> {
        let all = pods::all(&self.lab, &self.namespace)?;
        Ok(all.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
    }
}
