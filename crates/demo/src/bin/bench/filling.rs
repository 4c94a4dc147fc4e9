//! How long the pager of a pod fills it after the commit: watched on the target node, by the end of the pager's process.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use godwit_demo::lab::Lab;
use godwit_demo::migrate::Move;

/// Prints when the pager ended, see there.
const PROGRAM: &str = include_str!("../../programs/pager_end.py");
/// Tells the program that no pager comes any more.
const OVER: &str = "/run/bench-move-over";
/// The longest move and the longest filling together.
const LIMIT: Duration = Duration::from_secs(900);

/// Somebody who watches a node.
pub struct Watch {
    lab: Lab,
    node: String,
    watching: Option<JoinHandle<Result<String>>>,
}

impl Watch {
    /// Watches a node from now on.
    ///
    /// # Errors
    /// When nothing can be run there.
    pub fn start(lab: &Lab, node: &str) -> Result<Self> {
        lab.on_node(node, &["rm", "-f", OVER])?;
        let (own, at) = (lab.clone(), node.to_owned());
        let watching = std::thread::spawn(move || own.command(&["node", "exec", &at, "--", "python3", "-c", PROGRAM, OVER], LIMIT));
        Ok(Self { lab: lab.clone(), node: node.to_owned(), watching: Some(watching) })
    }

    /// Waits until the pager has ended. Returns for how many seconds after the commit it filled; `None` if there was none.
    ///
    /// # Errors
    /// When it could not be watched.
    pub fn seconds(mut self, moved: &Move) -> Result<Option<f64>> {
        self.over();
        let Some(watching) = self.watching.take() else { return Ok(None) };
        let printed = watching.join().map_err(|_| anyhow!("the watch panicked"))??;
        let committed = moved.steps("target", "commit").first().map(|step| step.to);
        Ok(printed.trim().parse::<f64>().ok().zip(committed).map(|(ended, committed)| ended - committed))
    }

    fn over(&self) {
        // Without it the watch ends by its own limit.
        let _ = self.lab.on_node(&self.node, &["touch", OVER]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.watching.is_some() {
            self.over();
        }
    }
}
