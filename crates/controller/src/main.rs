//! Godwit's controller: carries `PodMigration` objects through their phases.
//!
//! ```text
//!   main ─▶ lease (one of two leads) ─▶ authority (CA) ─▶ signer (agents' certificates)
//!                                                     └─▶ reconcile ─▶ phase::{pending … settling, undo, finished}
//!                                                                        │ effects             │ calls
//!                                                                        ▼                     ▼
//!                                                                   API server              agents
//! ```

mod aftermath;
mod agents;
mod answered;
mod authority;
mod candidates;
mod checkpoint;
mod checks;
mod context;
mod error;
mod failure;
mod finalizer;
mod imported;
mod lease;
mod lpm;
mod naming;
mod nodes;
mod owner;
mod phase;
mod plan;
mod pods;
mod points;
mod reconcile;
mod record;
mod removal;
mod run;
mod signer;
mod target;
mod trace;

use clap::{Parser, Subcommand};

/// Carries PodMigration objects through their phases.
#[derive(Debug, Parser)]
#[command(name = "godwit-controller", version)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the names of all fault points, one a line.
    FaultPoints,
    /// Before Godwit is uninstalled: end the agents, each of which takes the runtime handler off its node, and wait until they have gone.
    RemoveAgents(removal::Options),
    /// After Godwit was uninstalled: take its finalizers off checkpoints and restores, so that these can be deleted.
    LiftFinalizers,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GODWIT_LOG").unwrap_or_else(|_| "info".into());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    if godwit_rpc::logs::json() {
        lines.json().init()
    } else {
        lines.init()
    }
    // Fails only if one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match options.command {
        Some(Command::FaultPoints) => {
            points::ALL.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        Some(Command::RemoveAgents(options)) => removal::remove_agents(&options).await,
        Some(Command::LiftFinalizers) => finalizer::lift().await,
        None => run::run(options.run).await,
    }
}
