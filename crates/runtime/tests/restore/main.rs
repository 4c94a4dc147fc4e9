//! The wrapper, the keeper, the stand-in and the gate with real runc, CRIU, namespaces and cgroups; only the agent is a small one of the test's own.
//!
//! Needs root and a root file system with runc, CRIU and python3: `$GODWIT_NODE_ROOT`, else `$GODWIT_CACHE/rootfs/node`. It is not written to. Says why it
//! skips otherwise. `GODWIT_RUNTIME` names the wrapper to test (default: the one that cargo built); `GODWIT_CGROUP` is v1 or v2 (default: what the machine has).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod lab;
mod scenarios;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

/// The veil inside the node.
const VEIL: &str = "/work-bin/libgodwit_veil.so";

fn main() -> ExitCode {
    if env::var_os("GODWIT_INSIDE").is_some() {
        return inside();
    }
    if env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let root = env::var_os("GODWIT_NODE_ROOT").map(PathBuf::from).or_else(|| env::var_os("GODWIT_CACHE").map(|cache| Path::new(&cache).join("rootfs/node")));
    let Some(root) = root else { return skip("neither GODWIT_NODE_ROOT nor GODWIT_CACHE is set") };
    if !nix::unistd::geteuid().is_root() {
        return skip("it needs root");
    }
    for tool in ["usr/sbin/runc", "usr/sbin/criu", "usr/bin/python3", "usr/bin/nsenter"] {
        if !root.join(tool).exists() {
            return skip(&format!("{} has no {tool}", root.display()));
        }
    }
    let kind = env::var("GODWIT_CGROUP").unwrap_or_else(|_| if Path::new("/sys/fs/cgroup/memory").exists() { "v1".into() } else { "v2".into() });
    let wrapper = env::var("GODWIT_RUNTIME").unwrap_or_else(|_| env!("CARGO_BIN_EXE_godwit-runtime").into());
    let own = env::current_exe().unwrap();
    // Beside the programs, where `make build` leaves it.
    let veil = own.ancestors().nth(3).unwrap_or(Path::new("/")).join("runtime/libgodwit_veil.so");
    let work = env::temp_dir().join(format!("godwit-runtime-test-{}", std::process::id()));
    let status = Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/restore/node.sh"))
        .args([root.as_os_str(), work.as_os_str(), kind.as_ref(), "--".as_ref(), "/work-bin/test".as_ref()])
        .args(env::args_os().skip(1))
        .env("GODWIT_INSIDE", "1")
        .env(
            "GODWIT_BIND",
            format!(
                "{}={} {}=/work-bin/test{}",
                wrapper,
                lab::WRAPPER,
                own.display(),
                if veil.exists() { format!(" {}={VEIL}", veil.display()) } else { String::new() }
            ),
        )
        .envs(veil.exists().then_some(("GODWIT_VEIL_LIBRARY", VEIL)))
        .status()
        .unwrap();
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

fn skip(why: &str) -> ExitCode {
    println!("restore: skipped: {why}");
    ExitCode::SUCCESS
}

/// Inside the node: one scenario after the other.
fn inside() -> ExitCode {
    let filter = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let Ok(world) = catch_unwind(scenarios::World::new) else {
        lab::thaw();
        return ExitCode::FAILURE;
    };
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, scenario) in scenarios::ALL {
        if !name.contains(&filter) {
            continue;
        }
        count += 1;
        let begin = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| scenario(&world))).is_err() {
            println!("FAILED {name}");
            failed.push(*name);
        } else {
            println!("ok     {name} ({} ms)", begin.elapsed().as_millis());
        }
    }
    lab::thaw();
    let left: Vec<_> = fs::read_dir(godwit_runtime::protocol::CONTAINERS).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    println!("{} of {count} scenarios passed", count - failed.len());
    if !failed.is_empty() || !left.is_empty() {
        println!("failed: {failed:?}, containers left: {left:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
