//! The subcommands. Each gives the exit code.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use kube::ResourceExt;

use godwit_api::PodMigration;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::options::{Command, Options, Output, Place, Pod};
use crate::screen::Screen;
use crate::{text, timeline, view};

/// Does what the command line says.
///
/// # Errors
/// [`Error`], which has an exit code too.
pub async fn run(options: Options) -> Result<u8, Error> {
    match (options.command, options.pod) {
        (Some(Command::Completion { shell }), _) => {
            Options::complete(shell);
            Ok(0)
        }
        (Some(Command::Pod { pod, place }), _) => move_pod(&pod, &place).await,
        (None, Some(pod)) => move_pod(&pod, &options.place).await,
        (Some(Command::Status { name, watch, place }), _) => status(&name, watch, &place).await,
        (Some(Command::List { all_namespaces, place }), _) => list(all_namespaces, &place).await,
        (Some(Command::Cancel { name, no_wait, place }), _) => cancel(&name, no_wait, &place).await,
        (Some(Command::Timeline { name, place }), _) => timeline(&name, &place).await,
        (None, None) => Ok(3),
    }
}

async fn move_pod(pod: &Pod, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(place).await?;
    let ordered = cluster.order(pod).await?;
    let name = ordered.name_any();
    if pod.no_wait {
        match place.output {
            Output::Json => print(&json(&ordered))?,
            Output::Text => print(&format!("ordered: {name}. See it: kubectl migrate status {name} -n {}", cluster.namespace))?,
        }
        return Ok(0);
    }
    follow(&cluster, &name, place).await
}

async fn status(name: &str, watch: bool, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(place).await?;
    let object = cluster.get(name).await?;
    if watch && view::end(&object).is_none() {
        return follow(&cluster, name, place).await;
    }
    match place.output {
        Output::Json => print(&json(&object))?,
        Output::Text => {
            for line in view::lines(&object) {
                print(&line.to_string())?;
            }
            match view::last(&object) {
                Some(last) => print(&last)?,
                None => print(&format!("  … {:?}", object.status.as_ref().map(|status| status.phase).unwrap_or_default()))?,
            }
        }
    }
    Ok(view::end(&object).map_or(0, view::End::code))
}

async fn timeline(name: &str, place: &Place) -> Result<u8, Error> {
    let object = Cluster::connect(place).await?.find(name).await?;
    match place.output {
        Output::Json => print(&serde_json::to_string_pretty(&timeline::value(&object)).unwrap_or_default())?,
        Output::Text => print(&timeline::text(&object).join("\n"))?,
    }
    Ok(0)
}

async fn cancel(name: &str, no_wait: bool, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(place).await?;
    let object = cluster.cancel(name).await?;
    if no_wait || view::end(&object).is_some() {
        return status(name, false, place).await;
    }
    // What was asked for is that the pod stays: that is success here.
    match follow(&cluster, name, place).await? {
        1 | 2 => Ok(0),
        _ => Ok(1),
    }
}

/// Shows a migration until it ends.
async fn follow(cluster: &Cluster, name: &str, place: &Place) -> Result<u8, Error> {
    let mut screen = Screen::new(place.output == Output::Json);
    let watched = cluster.watch(name, |object| {
        let Some(object) = object else {
            return Err(Error::NoMigration(name.to_owned(), cluster.namespace.clone()));
        };
        let lines = view::lines(object);
        match view::end(object) {
            None => screen.show(&lines).map(|()| None),
            Some(end) => {
                screen.end(&lines, view::last(object).as_deref())?;
                if place.output == Output::Json {
                    print(&json(object))?;
                }
                Ok(Some(end.code()))
            }
        }
    });
    tokio::select! {
        code = watched => code,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted(name.to_owned(), cluster.namespace.clone())),
    }
}

async fn list(everywhere: bool, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(place).await?;
    let found = cluster.list(everywhere).await?;
    if place.output == Output::Json {
        print(&serde_json::to_string_pretty(&found).unwrap_or_default())?;
        return Ok(0);
    }
    if found.is_empty() {
        print(&format!("no migrations in {}", if everywhere { "any namespace".into() } else { format!("namespace {}", cluster.namespace) }))?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let head = ["NAME", "POD", "PHASE", "FROM", "TO", "NOW", "FREEZE", "WHY"];
    table.set_header(everywhere.then_some("NAMESPACE").into_iter().chain(head));
    for object in &found {
        let status = object.status.clone().unwrap_or_default();
        let row = [
            object.name_any(),
            object.spec.pod_name.clone(),
            format!("{:?}", status.phase),
            status.source_node.unwrap_or_default(),
            status.target_node.or_else(|| object.spec.target_node.clone()).unwrap_or_default(),
            status.target_pod.unwrap_or_default(),
            status.freeze.map(|freeze| text::time(i64::from(freeze.total_ms) * 1000)).unwrap_or_default(),
            status.failure.map(|failure| failure.reason).unwrap_or_default(),
        ];
        table.add_row(everywhere.then(|| object.namespace().unwrap_or_default()).into_iter().chain(row));
    }
    print(&table.trim_fmt())?;
    Ok(0)
}

fn json(object: &PodMigration) -> String {
    serde_json::to_string_pretty(object).unwrap_or_default()
}

fn print(text: &str) -> Result<(), Error> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
