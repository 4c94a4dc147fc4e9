//! Orders for fault points (crate `godwit-fault`): a file called like the point, in a folder that the chart's `faults.enabled` gives to controller and agents.
//! Who passes the point takes the file away and obeys, once.

use std::time::Duration;

use anyhow::Result;
use godwit_demo::install::FAULTS;
use godwit_demo::lab::Lab;
use godwit_demo::shell::wait_until;

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// SIGKILL to the process that passes.
    Crash,
    /// It stops there for so long.
    Delay(Duration),
    /// The step fails.
    Fail,
}

/// An order that is taken away again, obeyed or not.
#[derive(Debug)]
pub struct Fault {
    lab: Lab,
    nodes: Vec<String>,
    point: String,
}

impl Fault {
    /// Writes an order on these nodes; the first process that passes the point on each of them obeys. `POINT@NAMESPACE` is for the work of the controller for a namespace.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set(lab: &Lab, nodes: &[&str], point: &str, order: Order) -> Result<Self> {
        let text = match order {
            Order::Crash => "crash".to_owned(),
            Order::Delay(time) => format!("delay {}", time.as_millis()),
            Order::Fail => "fail".to_owned(),
        };
        // Renamed into place: an order is never read half written. Scenarios side by side may write to the same node at once.
        let script = format!("mkdir -p {FAULTS}; echo {text} > {FAULTS}/.new.$$; mv {FAULTS}/.new.$$ {FAULTS}/{point}");
        for node in nodes {
            lab.script_on_node(node, &script)?;
        }
        Ok(Self { lab: lab.clone(), nodes: nodes.iter().map(|node| (*node).to_owned()).collect(), point: point.to_owned() })
    }

    /// Whether somebody has passed the point.
    ///
    /// # Errors
    /// When a node cannot be asked.
    pub fn fired(&self) -> Result<bool> {
        for node in &self.nodes {
            let gone = self.lab.try_on_node(node, &["test", "!", "-e", &format!("{FAULTS}/{}", self.point)])?.code == 0;
            if gone {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until somebody passes the point.
    ///
    /// # Errors
    /// When nobody does within `limit`.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        wait_until(&format!("fault point {} passed", self.point), limit, || Ok(self.fired()?.then_some(())))
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        for node in &self.nodes {
            let _ = self.lab.try_on_node(node, &["rm", "-f", &format!("{FAULTS}/{}", self.point)]);
        }
    }
}
