//! The subcommands. Each gives the exit code.

use std::io::Write as _;
use std::path::Path;

use kube::ResourceExt;

use godwit_api::PodMigration;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::options::{Command, Format, Options, Output, Place, Pod, Where};
use crate::screen::Screen;
use crate::table::print;
use crate::{archived, checkpoint, doctor, explain, inspect, matrix, report, table, text, timeline, trace, view};

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
        (Some(Command::Doctor { pod, node, fix, place }), _) => doctor(pod.as_deref(), node.as_deref(), fix, &place).await,
        (Some(Command::Explain { what, all, place }), _) => explain(what.as_deref(), all, &place).await,
        (Some(Command::Inspect { path, files, maps, environment, decode, output }), _) => {
            let wish = inspect::Wish { files, maps, environment };
            let (text, code) = match decode {
                Some(image) => (inspect::decode(&path, &image)?, 0),
                None => inspect::inspect(&path, wish, output)?,
            };
            print(text.trim_end())?;
            Ok(code)
        }
        (Some(Command::Convert { archive, target, to, image }), _) => {
            print(&inspect::convert(&archive, &target, to, image.as_deref())?)?;
            Ok(0)
        }
        (Some(Command::Run { order }), _) => {
            print(&archived::run(&order).await?)?;
            Ok(0)
        }
        (Some(Command::Timeline { name, place }), _) => timeline(&name, &place).await,
        (Some(Command::Report { name, output, file, at }), _) => report(&name, output, file.as_deref(), &at).await,
        (Some(Command::Trace { trace, place }), _) => trace::run(&trace, &place).await,
        (Some(Command::Release { name, place }), _) => release(&name, &place).await,
        (Some(Command::Checkpoint { order, place }), _) => checkpoint::checkpoint(&order, &place).await,
        (Some(Command::Checkpoints { what, place }), _) => checkpoint::checkpoints(what.as_ref(), &place).await,
        (Some(Command::Restore { order, place }), _) => checkpoint::restore(&order, &place).await,
        (None, None) => Ok(3),
    }
}

async fn move_pod(pod: &Pod, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
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
    let cluster = Cluster::connect(&place.at).await?;
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

async fn doctor(pod: Option<&str>, node: Option<&str>, fix: bool, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
    let (text, value, code) = match pod {
        Some(pod) => {
            let verdict = doctor::pod(&cluster, pod).await?;
            (verdict.text(), serde_json::to_string_pretty(&verdict), verdict.code())
        }
        None => {
            let report = doctor::ask(cluster.client(), node, fix).await?;
            (doctor::text(&report), serde_json::to_string_pretty(&report), report.code())
        }
    };
    match place.output {
        Output::Json => print(&value.unwrap_or_default())?,
        Output::Text => print(&text.join("\n"))?,
    }
    Ok(code)
}

async fn explain(what: Option<&str>, all: bool, place: &Place) -> Result<u8, Error> {
    if all {
        print(matrix::page().trim_end())?;
        return Ok(0);
    }
    let file = what.map(Path::new).filter(|path| *path == Path::new("-") || path.exists());
    let said = match file {
        Some(path) => explain::of_file(path)?,
        None => {
            let cluster = Cluster::connect(&place.at).await?;
            let object = match what {
                Some(name) => cluster.find(name).await?,
                None => cluster.last().await?,
            };
            explain::of_migration(&object, &cluster.warnings(&object).await)
        }
    };
    match place.output {
        Output::Json => print(&serde_json::to_string_pretty(&said).unwrap_or_default())?,
        Output::Text => print(&said.text().join("\n"))?,
    }
    Ok(said.code())
}

async fn timeline(name: &str, place: &Place) -> Result<u8, Error> {
    let (object, _) = record(name, &place.at).await?;
    match place.output {
        Output::Json => print(&serde_json::to_string_pretty(&timeline::value(&object)).unwrap_or_default())?,
        Output::Text => print(&timeline::text(&object).join("\n"))?,
    }
    Ok(0)
}

/// A PodMigration from the cluster, which is told too, or from a file in which somebody has kept one.
async fn record(name: &str, at: &Where) -> Result<(PodMigration, Option<Cluster>), Error> {
    let path = Path::new(name);
    if path.extension().is_some_and(|end| end == "json") && path.is_file() {
        let unreadable = |error: String| Error::Unreadable(name.to_owned(), error);
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        return serde_json::from_str(&text).map(|object| (object, None)).map_err(|error| unreadable(format!("it is no PodMigration: {error}")));
    }
    let cluster = Cluster::connect(at).await?;
    Ok((cluster.find(name).await?, Some(cluster)))
}

async fn report(name: &str, format: Format, file: Option<&Path>, at: &Where) -> Result<u8, Error> {
    let (object, cluster) = record(name, at).await?;
    let warnings = match &cluster {
        Some(cluster) => cluster.warnings(&object).await,
        None => Vec::new(),
    };
    let said = explain::of_migration(&object, &warnings);
    let text = match format {
        Format::Html => report::page(&object, &said),
        Format::Json => {
            let whole = serde_json::json!({"record": object, "timeline": timeline::value(&object), "explanation": said});
            serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
        }
    };
    match file {
        Some(path) => std::fs::write(path, text)?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(0)
}

async fn cancel(name: &str, no_wait: bool, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
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

/// Asks for the end of an anchor and waits for it.
async fn release(name: &str, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
    cluster.release(name).await?;
    let watched = cluster.watch(name, |object| {
        let Some(object) = object else { return Err(Error::NoMigration(name.to_owned(), cluster.namespace.clone())) };
        let ended = object.status.as_ref().is_some_and(|status| status.phase.is_final() && status.anchor.as_ref().is_none_or(|anchor| !anchor.active));
        Ok(ended.then_some(()))
    });
    tokio::select! {
        ended = watched => ended?,
        _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted(name.to_owned(), cluster.namespace.clone())),
    }
    status(name, false, place).await
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
    let cluster = Cluster::connect(&place.at).await?;
    let found = cluster.list(everywhere).await?;
    let head = ["NAME", "POD", "PHASE", "FROM", "TO", "NOW", "FREEZE", "ANCHORED", "WHY"];
    table::list(&found, "migrations", (everywhere, &cluster.namespace, place.output), head, |object| {
        let status = object.status.clone().unwrap_or_default();
        [
            object.name_any(),
            object.spec.pod_name.clone(),
            format!("{:?}", status.phase),
            status.source_node.unwrap_or_default(),
            status.target_node.or_else(|| object.spec.target_node.clone()).unwrap_or_default(),
            status.target_pod.unwrap_or_default(),
            status.freeze.map(|freeze| text::time(i64::from(freeze.total_ms) * 1000)).unwrap_or_default(),
            status.anchor.filter(|anchor| anchor.active).map(|anchor| anchor.connections.to_string()).unwrap_or_default(),
            status.failure.map(|failure| failure.reason).unwrap_or_default(),
        ]
    })?;
    Ok(0)
}

fn json(object: &PodMigration) -> String {
    serde_json::to_string_pretty(object).unwrap_or_default()
}
