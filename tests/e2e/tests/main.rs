//! The list of scenarios, one file each: `cargo test --release -p godwit-e2e --test e2e [-- NAME…]`.

mod agents_crash;
mod archived;
mod bad_streams;
mod bare_pod;
mod blockers;
mod cancel;
mod checkpoint;
mod checkpoint_encrypted;
mod checkpoint_registry;
mod connections;
mod connections_crash;
mod controller_crash;
mod crash_afterwards;
mod criu_options;
mod deployment;
mod dies_afterwards;
mod docs;
mod doctor;
mod engine_checkpoint;
mod engine_checkpoint_restore;
mod explain;
mod files;
mod heap;
mod http_server;
mod instruments;
mod kubectl_afterwards;
mod limits;
mod loopback;
mod memory;
mod menagerie;
mod metrics;
mod node_dies;
mod otlp;
mod pod_deleted;
mod pod_network;
mod post_copy;
mod redis;
mod refusals;
mod report;
mod report_manifest;
mod restore_differs;
mod rivals;
mod same_address;
mod strangers;
mod survivors;
mod target_killed;
mod there_and_back;
mod timeline;
mod trace;
mod tunnel;
mod unfit_targets;
mod uninstall;

use std::process::ExitCode;

use godwit_e2e::Scenario;

/// The road itself, from what a user sees first to what should never happen: a pod moves, or goes on where it was. `make test` runs it.
const ROAD: [Scenario; 29] = [
    instruments::SCENARIO,
    bare_pod::SCENARIO,
    redis::SCENARIO,
    http_server::SCENARIO,
    menagerie::SCENARIO,
    heap::SCENARIO,
    limits::SCENARIO,
    loopback::SCENARIO,
    files::SCENARIO,
    deployment::SCENARIO,
    deployment::CONNECTED,
    kubectl_afterwards::SCENARIO,
    crash_afterwards::SCENARIO,
    there_and_back::SCENARIO,
    refusals::SCENARIO,
    strangers::SCENARIO,
    blockers::SCENARIO,
    cancel::SCENARIO,
    rivals::SCENARIO,
    pod_deleted::SCENARIO,
    target_killed::SCENARIO,
    bad_streams::SCENARIO,
    agents_crash::FAIL,
    agents_crash::CRASH,
    agents_crash::OUTLIVED,
    controller_crash::SCENARIO,
    unfit_targets::SCENARIO,
    uninstall::SCENARIO,
    node_dies::SCENARIO,
];

/// What goes along that road, and beside it: connections, memory while the pod runs, checkpoints, and everything that tells what happened. `make test-rest` runs it.
const REST: [Scenario; 46] = [
    pod_network::SCENARIO,
    connections::ALL_KINDS,
    connections::MANY_OF_THEM,
    connections::RELEASED,
    connections::RETIRED,
    connections::CLOSED,
    tunnel::SCENARIO,
    tunnel::ENCRYPTED,
    same_address::ALL_KINDS,
    same_address::MANY_OF_THEM,
    same_address::TAKEN,
    same_address::AGENTS,
    memory::SCENARIO,
    memory::GIVEN_UP,
    memory::DIGESTS,
    memory::CONNECTIONS,
    post_copy::SCENARIO,
    dies_afterwards::SCENARIO,
    dies_afterwards::MACHINES,
    checkpoint::SCENARIO,
    checkpoint_encrypted::SCENARIO,
    checkpoint_registry::SCENARIO,
    engine_checkpoint::SCENARIO,
    engine_checkpoint::CRASH,
    engine_checkpoint_restore::SCENARIO,
    criu_options::SCENARIO,
    archived::SCENARIO,
    survivors::SCENARIO,
    survivors::WITHOUT_HANDLER,
    restore_differs::SCENARIO,
    timeline::SCENARIO,
    trace::SCENARIO,
    trace::MACHINES,
    explain::SCENARIO,
    report::SCENARIO,
    doctor::SCENARIO,
    docs::PAGES,
    metrics::SCENARIO,
    otlp::SCENARIO,
    connections_crash::AGENTS,
    connections_crash::CONTROLLER,
    agents_crash::MEMORY_CRASH,
    report_manifest::SCENARIO,
    docs::QUICK_START,
    same_address::NODE_DIES,
    post_copy::LOST,
];

fn main() -> ExitCode {
    godwit_e2e::suite::main(&[("road", &ROAD), ("rest", &REST)])
}
