//! Node affinity: the source's own, and one of the given nodes.
//!
//! Terms are alternatives, the parts of a term hold together, and a field selector on `metadata.name` takes exactly one value. So each term of the source
//! is multiplied by the nodes.

use k8s_openapi::api::core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

const FIELD: &str = "metadata.name";

/// `affinity` restricted to `nodes`. When the source was made by a migration itself, the nodes of that one are taken out first.
pub fn onto(affinity: Option<Affinity>, nodes: &[String], moved_before: bool) -> Option<Affinity> {
    let mut affinity = affinity.unwrap_or_default();
    let node_affinity = affinity.node_affinity.get_or_insert_default();
    let required = node_affinity.required_during_scheduling_ignored_during_execution.take();
    let mut terms = required.map(|selector| selector.node_selector_terms).unwrap_or_default();
    if moved_before {
        terms = without_nodes(terms);
    }
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    let restricted = terms.iter().flat_map(|term| nodes.iter().map(|node| with_node(term, node))).collect();
    node_affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: restricted });
    Some(affinity)
}

fn with_node(term: &NodeSelectorTerm, node: &str) -> NodeSelectorTerm {
    let mut term = term.clone();
    term.match_fields.get_or_insert_default().push(NodeSelectorRequirement { key: FIELD.into(), operator: "In".into(), values: Some(vec![node.into()]) });
    term
}

/// Undoes [`onto`]: terms that differed only in the node become one; a term that was nothing but a node was no term.
fn without_nodes(terms: Vec<NodeSelectorTerm>) -> Vec<NodeSelectorTerm> {
    let mut kept: Vec<NodeSelectorTerm> = Vec::new();
    for mut term in terms {
        if let Some(fields) = &mut term.match_fields {
            fields.retain(|field| field.key != FIELD);
        }
        term.match_fields = term.match_fields.filter(|fields| !fields.is_empty());
        if term == NodeSelectorTerm::default() {
            return Vec::new();
        }
        if !kept.contains(&term) {
            kept.push(term);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn terms(affinity: Option<Affinity>) -> serde_json::Value {
        serde_json::to_value(affinity).unwrap()["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone()
    }

    fn zones() -> Affinity {
        serde_json::from_value(serde_json::json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]},
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
        ]}}}))
        .unwrap()
    }

    #[test]
    fn one_node_is_one_term() {
        let expected = serde_json::json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]);
        assert_eq!(terms(onto(None, &["b".into()], false)), expected);
    }

    #[test]
    fn terms_times_nodes() {
        let made = terms(onto(Some(zones()), &["b".into(), "c".into()], false));
        assert_eq!(made.as_array().unwrap().len(), 4);
        assert!(made.as_array().unwrap().iter().all(|term| term["matchExpressions"].is_array() && term["matchFields"].is_array()));
    }

    #[test]
    fn a_second_move_forgets_the_first() {
        for before in [None, Some(zones())] {
            let first = onto(before.clone(), &["b".into(), "c".into()], false);
            assert_eq!(terms(onto(first, &["a".into()], true)), terms(onto(before, &["a".into()], false)));
        }
    }
}
