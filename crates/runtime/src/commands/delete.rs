//! `delete`.

use std::time::{Duration, Instant};

use crate::{arguments::Invocation, cgroup, error::Error, fate::Fate, layout::Layout, record::Record, runc};

/// How long the keeper may take to follow its container.
const PATIENCE: Duration = Duration::from_secs(5);

/// Deletes what is left: the real container through the runtime below, the keeper, the cgroup, the directory.
pub fn delete(invocation: &Invocation, layout: &Layout, record: &Record) -> Result<i32, Error> {
    let alive = || layout.keeper().is_some_and(|keeper| keeper.alive());
    let force = invocation.has(&["force", "f"]);
    if alive() && !force && !layout.has("exited") {
        return Err(Error::Runtime(format!("cannot delete container {} that is not stopped: running", layout.id)));
    }
    // From here on no gate opens. One that opened before has its container killed below.
    let passed = matches!(Fate::end(layout), Ok(Fate::Passed(_))) || layout.has("restored");
    if !passed {
        super::kill::end(layout, record);
    }
    // By force, for a keeper that was killed leaves a running container behind, which to the caller is stopped.
    runc::delete(record)?;
    let end = Instant::now() + PATIENCE;
    while alive() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    super::kill::end(layout, record);
    cgroup::remove(&record.cgroup);
    layout.remove().map_err(Error::file("cannot remove", &layout.path))?;
    Ok(0)
}
