//! 600 MB of heap that no compression makes smaller arrive as they were.

use anyhow::Result;
use godwit_demo::objects::{Pod, python};
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario = Scenario::new("heap", "600 MB of memory arrive as they were.", run).machines(OnMachines::All);

fn run(case: &Case) -> Result<()> {
    let pod = case.start(Pod::new("heap", [python("main", include_str!("programs/heap.py"), &["600"])]))?;
    let before = case.good(&pod, "main", 0)?;
    let pod = case.move_over(&pod)?;
    // One turn may have been half done before the move; the second is of what arrived only.
    let first = case.goes_on(&pod, "main", &before)?;
    case.goes_on(&pod, "main", &first).map(drop)
}
