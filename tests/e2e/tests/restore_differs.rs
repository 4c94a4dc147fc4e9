//! A restored pod that is not what was frozen is never committed: it is taken back, and the record names what differs.

use anyhow::{Context, Result, ensure};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::faults::Order;
use godwit_e2e::{Case, Scenario};
use serde_json::Value;

use crate::refusals::explained;

pub const SCENARIO: Scenario = Scenario::new("restore-differs", "A restored pod that is not what was frozen is taken back, and what differs is named.", run);

/// Here the target expects a thread that never was, and other memory.
const POINT: &str = "agent.target.expected";

fn run(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("exact")?;
    let refused = case.untouched(&witness, &pod, || {
        let _fault = case.fault(&case.pair.b, POINT, Order::Fail)?;
        case.migrate(&pod, &case.pair.b)?.taken_back().and_then(explained)
    })?;
    ensure!(refused.status("/failure/reason") == "RestoreIncomplete", "the reason is {}", refused.status("/failure"));
    let message = refused.status("/failure/message").as_str().unwrap_or_default().to_owned();
    ensure!(
        message.contains("process 1 (") && message.contains("its threads were") && message.contains(&i32::MAX.to_string()),
        "it does not say what differs: {message}"
    );
    ensure!(message.contains("its memory at 0x") && message.contains("bytes differ"), "it does not say that memory differs: {message}");

    let moved = case.migrate(&pod, &case.pair.b)?.moved()?;
    let steps = moved.status("/timeline").as_array().cloned().unwrap_or_default();
    let verify: &Value = steps.iter().find(|step| step["step"] == "verify" && step["who"] == "target").context("nothing was verified")?;
    case.note(format!("verified in {} us", verify["durationUs"]));
    case.ready(&moved.target_pod()?)?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    witness.exactly_one_runner().map(drop)
}
