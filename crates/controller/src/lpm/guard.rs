//! No way round the rights: a manifest is carried out only if the admission policy that asks for its maker's rights was there when it was made.
//!
//! Our own kind is defined once and for all; this one comes and goes with a value of the chart, and the API server needs a moment to take a new policy into account.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{Api, Client, ResourceExt};

use godwit_api::lpm::PodMigration as Manifest;

use crate::error::Error;

/// Name of the policy and of its binding.
const POLICY: &str = "godwit-lpm";
/// For how long a new policy may not be in force yet. Times of objects have whole seconds.
const GRACE: Duration = Duration::from_secs(5);

/// Whether it may be carried out. The inner result says why not.
///
/// # Errors
/// When the API server does not answer.
pub async fn check(client: &Client, object: &Manifest) -> Result<Result<(), String>, Error> {
    let policy = Api::<ValidatingAdmissionPolicy>::all(client.clone()).get_opt(POLICY).await?;
    let binding = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone()).get_opt(POLICY).await?;
    let made = |time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.map(|time| time.0);
    let policies = [policy.and_then(|policy| made(policy.creation_timestamp())), binding.and_then(|binding| made(binding.creation_timestamp()))];
    Ok(guarded(made(object.creation_timestamp()), policies))
}

fn guarded(object: Option<Timestamp>, policies: [Option<Timestamp>; 2]) -> Result<(), String> {
    let [Some(policy), Some(binding)] = policies else {
        return Err(format!(
            "there is no admission policy {POLICY} that asks for the rights of whoever makes this. Install Godwit's chart with lpm.enabled=true, then make it anew"
        ));
    };
    match object {
        Some(object) if object >= policy.max(binding) + GRACE => Ok(()),
        _ => Err(format!(
            "it was made before the admission policy {POLICY} was in force, so nobody has asked for its maker's rights. Delete it and make it anew"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn what_no_policy_has_seen_is_refused() {
        assert_eq!(guarded(at(105), [at(100), at(90)]), Ok(()));
        assert!(guarded(at(104), [at(100), at(90)]).is_err());
        assert!(guarded(at(104), [at(90), at(100)]).is_err());
        assert!(guarded(at(200), [None, at(90)]).is_err() && guarded(at(200), [at(90), None]).is_err());
        assert!(guarded(None, [at(1), at(1)]).is_err());
    }
}
