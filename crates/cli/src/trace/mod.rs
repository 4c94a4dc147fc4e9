//! `kubectl migrate trace`: one stream from both nodes and the controller, in the order in which things happened.
//!
//! ```text
//!   PodMigration (watched) ── phases, steps ───────────────▶ record ─┐
//!   MigrationTrace (made, watched, taken away) ── lines ──▶ stream ──┼─▶ Story: clocks, order, filter ─▶ paint ─▶ standard output
//!   kubelets' log level, with --raise ◀── levels ─────────────────────┘
//! ```
//!
//! The user never talks to an agent: who may make a MigrationTrace in a namespace is the cluster's own RBAC, and nothing listens for it on any node.

mod levels;
mod paint;
mod record;
mod story;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use godwit_api::{MigrationTrace, MigrationTraceSpec, PodMigration};

use crate::cluster::Cluster;
use crate::error::{Error, innermost};
use crate::options::{Colour, Output, Place, Trace};
use story::Story;

/// Between two looks for a migration that is not there yet.
const LOOK: Duration = Duration::from_millis(300);
/// Between two tellings.
const TICK: Duration = Duration::from_millis(100);
/// For so long the controller may say nothing at all.
const SILENCE: Duration = Duration::from_secs(15);

/// Tells the story; gives the exit code.
///
/// # Errors
/// When there is no such migration, traces may not be made, or the API server does not answer.
pub async fn run(options: &Trace, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let migration = tokio::select! {
        found = find(&cluster, options) => found?,
        () = &mut interrupted => return Ok(0),
    };
    let raised = if options.raise { Some(levels::raise(&cluster, &migration).await) } else { None };
    let api: Api<MigrationTrace> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    let name = order(&api, &migration, options).await?;
    let record = migration.name_any();
    let outcome = tokio::select! {
        outcome = tell(&cluster, &api, &name, &record, options, place.output) => outcome,
        () = &mut interrupted => Ok(0),
    };
    // The controller takes it away later if this fails.
    let _ = api.delete(&name, &DeleteParams::default()).await;
    if let Some(raised) = raised {
        raised.lower(&cluster).await;
    }
    outcome
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).ok();
    let term = async {
        match &mut term {
            Some(term) => drop(term.recv().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = term => {}
    }
}

/// The migration that is meant, waited for if it is still to come.
async fn find(cluster: &Cluster, options: &Trace) -> Result<PodMigration, Error> {
    let known: Vec<String> = if options.next { cluster.list(false).await?.iter().filter_map(ResourceExt::uid).collect() } else { Vec::new() };
    let mut said = false;
    loop {
        let found = match &options.name {
            Some(name) => match cluster.find(name).await {
                Err(Error::NoMigration(..)) => None,
                other => Some(other?),
            },
            None => cluster.under_way().await?,
        };
        if let Some(found) = found.filter(|found| found.uid().is_none_or(|uid| !known.contains(&uid))) {
            return Ok(found);
        }
        if !std::mem::replace(&mut said, true) {
            let what = options.name.as_ref().map_or("the next migration".to_owned(), |name| format!("a migration of {name}"));
            eprintln!("waiting for {what} in namespace {} (Ctrl-C ends this)", cluster.namespace);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn order(api: &Api<MigrationTrace>, migration: &PodMigration, options: &Trace) -> Result<String, Error> {
    let since = options.since.map(|time| MicroTime(jiff::Timestamp::now() - time));
    let spec = MigrationTraceSpec { migration: migration.name_any(), since, verbose: options.verbose, raise: options.raise, read: 0 };
    let mut object = MigrationTrace::new("", spec);
    object.metadata = ObjectMeta { generate_name: Some(format!("{}-", migration.name_any())), ..ObjectMeta::default() };
    Ok(api.create(&PostParams::default(), &object).await?.name_any())
}

async fn tell(cluster: &Cluster, api: &Api<MigrationTrace>, name: &str, migration: &str, options: &Trace, output: Output) -> Result<u8, Error> {
    let colour = match options.color {
        Colour::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        Colour::Always => true,
        Colour::Never => false,
    };
    let mut story = Story::new(options.clone());
    let migrations: Api<PodMigration> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    let records = watcher::watch_object(migrations, migration);
    let windows = watcher::watch_object(api.clone(), name);
    futures::pin_mut!(records, windows);
    let mut tick = tokio::time::interval(TICK);
    let (mut heard, mut read) = (Instant::now(), 0);
    loop {
        tokio::select! {
            Some(seen) = records.next() => if let Ok(Some(seen)) = seen {
                story.record(&seen);
            },
            Some(seen) = windows.next() => match seen {
                Ok(Some(seen)) => {
                    let Some(status) = seen.status else { continue };
                    heard = Instant::now();
                    let next = story.window(&status);
                    if next > read {
                        read = next;
                        api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"read": read}}))).await?;
                    }
                    if status.completion_time.is_some() {
                        // What the record says of the end may come a moment later.
                        if let Ok(Some(last)) = cluster.get(migration).await.map(Some) {
                            story.record(&last);
                        }
                        show(&mut story.rest(), output, colour)?;
                        return if status.message.is_empty() { Ok(0) } else { Err(Error::Cut(status.message)) };
                    }
                }
                Ok(None) if read > 0 => return Err(Error::Cut("somebody has deleted it".into())),
                Ok(None) => {}
                Err(error) if heard.elapsed() > SILENCE => return Err(Error::Unreachable(innermost(&error))),
                Err(_) => tokio::time::sleep(TICK).await,
            },
            _ = tick.tick() => {
                if read == 0 && story.is_silent() && heard.elapsed() > SILENCE {
                    return Err(Error::Cut("the controller does not answer: kubectl -n godwit-system logs deployment/godwit-controller".into()));
                }
                show(&mut story.ready(), output, colour)?;
            }
        }
    }
}

fn show(told: &mut dyn Iterator<Item = story::Told>, output: Output, colour: bool) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for told in told {
        match output {
            Output::Json => writeln!(out, "{}", paint::json(&told))?,
            Output::Text => writeln!(out, "{}", paint::text(&told, colour))?,
        }
    }
    Ok(out.flush()?)
}
