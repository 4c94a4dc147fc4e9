//! Commands of a few lines.

use std::{
    fs,
    io::{Read, Write},
};

use serde_json::json;

use crate::{arguments::Invocation, error::Error, layout::Layout, layout::write_atomically};

/// Prints on standard output.
pub fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `start`: noted.
pub fn start(layout: &Layout) -> Result<i32, Error> {
    if !layout.keeper().is_some_and(|keeper| keeper.alive()) {
        return Err(Error::Runtime("cannot start a container that has stopped".into()));
    }
    if layout.has("started") {
        return Err(Error::Runtime("cannot start an already running container".into()));
    }
    layout.mark("started").map_err(Error::file("cannot write", layout.file("started")))?;
    Ok(0)
}

/// `update` before the switch: the resources are kept for the keeper, which applies them when the container is here.
pub fn update(invocation: &Invocation, layout: &Layout) -> Result<i32, Error> {
    let Some(source) = invocation.value(&["resources", "r"]) else {
        return Ok(0);
    };
    let mut text = Vec::new();
    if source == "-" {
        std::io::stdin().read_to_end(&mut text).map_err(Error::file("cannot read", "standard input"))?;
    } else {
        text = fs::read(source).map_err(Error::file("cannot read", source))?;
    }
    let number =
        fs::read_dir(&layout.path).map_or(0, |entries| entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("update-")).count());
    let file = layout.file(&format!("update-{number:06}.json"));
    write_atomically(&file, &text).map_err(Error::file("cannot write", &file))?;
    Ok(0)
}

/// `ps` before the switch: the keeper.
pub fn ps(invocation: &Invocation, layout: &Layout) -> Result<i32, Error> {
    let pids: Vec<i32> = layout.keeper().filter(|keeper| keeper.alive()).map(|keeper| keeper.pid).into_iter().collect();
    if invocation.value(&["format", "f"]).is_some_and(|format| format == "json") {
        print(&format!("{}\n", json!(pids)));
    } else {
        let lines: String = pids.iter().map(|pid| format!("{pid} godwit-keeper\n")).collect();
        print(&format!("PID CMD\n{lines}"));
    }
    Ok(0)
}

/// `events` before the switch: nothing has been used yet.
pub fn events(layout: &Layout) -> Result<i32, Error> {
    print(&format!("{}\n", json!({"type": "stats", "id": layout.id, "data": {}})));
    Ok(0)
}
