//! `doctor POD`: could this pod move, to which nodes, how, and what would break. A dry run to every other node says so; nothing is touched.

use futures::future::join_all;
use godwit_api::PodMigration;
use godwit_api::migration::Phase;
use kube::ResourceExt;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::view;

/// What is said of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The node.
    pub node: String,
    /// Whether the pod can go there.
    pub can: bool,
    /// How, when it can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// What is in the way, each with the way out.
    pub in_the_way: Vec<String>,
    /// What would be different.
    pub different: Vec<String>,
}

/// Could the pod move?
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The pod.
    pub pod: String,
    /// Every other node.
    pub places: Vec<Place>,
}

/// Plans a move to every other node.
///
/// # Errors
/// When the pod or the nodes cannot be looked at, or dry runs may not be ordered.
pub async fn pod(cluster: &Cluster, name: &str) -> Result<Verdict, Error> {
    let name = name.strip_prefix("pod/").unwrap_or(name);
    let nodes = cluster.other_nodes(name).await?;
    let planned = join_all(nodes.iter().map(|node| async move {
        let ordered = cluster.dry_run(name, node).await?.name_any();
        let planned = cluster.watch(&ordered, |object| Ok(object.filter(|object| view::end(object).is_some()).cloned())).await;
        cluster.forget(&ordered).await;
        planned.map(|object| place(node, &object))
    }))
    .await;
    Ok(Verdict { pod: name.to_owned(), places: planned.into_iter().collect::<Result<_, _>>()? })
}

fn place(node: &str, object: &PodMigration) -> Place {
    let status = object.status.clone().unwrap_or_default();
    let plan = status.plan.clone().unwrap_or_default();
    let told = |why: &godwit_api::migration::Failure| format!("{}: {}. {}", why.reason, why.message, why.remedy);
    let mut in_the_way: Vec<String> = plan.blockers.iter().map(told).collect();
    if in_the_way.is_empty() {
        in_the_way.extend(status.failure.iter().map(told));
    }
    let can = status.phase == Phase::Succeeded;
    let how = if can { view::plan(&plan) } else { String::new() };
    Place { node: node.to_owned(), can, how, in_the_way, different: plan.warnings }
}

impl Verdict {
    /// The exit code: 0 when there is a node that it can go to.
    #[must_use]
    pub fn code(&self) -> u8 {
        u8::from(!self.places.iter().any(|place| place.can))
    }

    /// For people. What is said of every node is said once.
    #[must_use]
    pub fn text(&self) -> Vec<String> {
        let common = |of: fn(&Place) -> &Vec<String>| -> Vec<String> {
            let first = self.places.first().map(|place| of(place).clone()).unwrap_or_default();
            first.into_iter().filter(|line| self.places.len() > 1 && self.places.iter().all(|place| of(place).contains(line))).collect()
        };
        let (blocked, different) = (common(|place| &place.in_the_way), common(|place| &place.different));
        let good: Vec<&str> = self.places.iter().filter(|place| place.can).map(|place| place.node.as_str()).collect();
        let mut lines = vec![match good.as_slice() {
            [] if self.places.is_empty() => format!("✘ {}: there is no other node", self.pod),
            [] => format!("✘ {} cannot be moved", self.pod),
            nodes => format!("✔ {} can be moved to {}", self.pod, nodes.join(", ")),
        }];
        lines.extend(blocked.iter().map(|line| format!("  ✘ {line}")));
        lines.extend(different.iter().map(|line| format!("  ! {line}")));
        for place in &self.places {
            let mark = if place.can { '✔' } else { '✘' };
            lines.push(format!("  {mark} {:<16} {}", place.node, place.how).trim_end().to_owned());
            lines.extend(place.in_the_way.iter().filter(|line| !blocked.contains(line)).map(|line| format!("      ✘ {line}")));
            lines.extend(place.different.iter().filter(|line| !different.contains(line)).map(|line| format!("      ! {line}")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn place(node: &str, can: bool, in_the_way: &[&str]) -> Place {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Place { node: node.into(), can, how: if can { "live".into() } else { String::new() }, in_the_way: list(in_the_way), different: list(&["w"]) }
    }

    #[test]
    fn what_is_common_is_said_once() {
        let verdict = Verdict { pod: "web-0".into(), places: vec![place("b", true, &[]), place("c", false, &["CpuFeaturesMissing: x. y."])] };
        assert_eq!(verdict.text(), ["✔ web-0 can be moved to b", "  ! w", "  ✔ b                live", "  ✘ c", "      ✘ CpuFeaturesMissing: x. y."]);
        assert_eq!(verdict.code(), 0);
        let verdict = Verdict { pod: "web-0".into(), places: vec![place("b", false, &["A"]), place("c", false, &["A"])] };
        assert_eq!(verdict.text(), ["✘ web-0 cannot be moved", "  ✘ A", "  ! w", "  ✘ b", "  ✘ c"]);
        assert_eq!(verdict.code(), 1);
    }
}
