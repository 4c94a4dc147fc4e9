//! The CustomResourceDefinitions, made from the types: what stands in the chart is generated and compared with them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray};
use kube::CustomResourceExt;

use crate::{Handover, MigrationTrace, NodeCheck, PodCheckpoint, PodMigration, PodRestore, lpm};

/// All definitions of our own group, in the order of their names.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![Handover::crd(), MigrationTrace::crd(), NodeCheck::crd(), PodCheckpoint::crd(), PodMigration::crd(), PodRestore::crd()];
    for version in all.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_formats(schema);
        }
    }
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    all
}

/// The definition that is there only where the installation says so. It has no unsigned numbers.
#[must_use]
pub fn lpm_crd() -> CustomResourceDefinition {
    lpm::PodMigration::crd()
}

/// The API server knows no unsigned formats and would warn of each.
fn drop_formats(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        drop_formats(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => drop_formats(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_formats),
        None => {}
    }
}
