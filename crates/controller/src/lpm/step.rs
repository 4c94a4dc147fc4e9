//! What is to be done about one manifest, from what is seen of it and of the migration with its name. Decides, does nothing.

use kube::ResourceExt;

use godwit_api::PodMigration;
use godwit_api::lpm::{Phase, PodMigration as Manifest, PodMigrationStatus as Status};

use super::{is_of, mirror};

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make the migration.
    Order,
    /// Say how it goes.
    Write(Status),
    /// The migration is gone, so the manifest's object goes too. Otherwise the same manifest, applied again, would change nothing.
    Forget,
    /// Wait.
    Nothing,
}

/// See the module.
#[must_use]
pub fn next(object: &Manifest, ours: Option<&PodMigration>) -> Step {
    // On its way out: what it owns goes with it.
    if object.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    let before = object.status.clone().unwrap_or_default();
    let uid = object.uid().unwrap_or_default();
    match (&before.migration_uid, ours) {
        (Some(known), Some(ours)) if ours.uid().as_ref() == Some(known) => {
            let after = mirror::next(&before, ours);
            if after == before { Step::Nothing } else { Step::Write(after) }
        }
        (Some(_), _) => Step::Forget,
        // Refused.
        (None, _) if before.phase == Phase::Failed => Step::Nothing,
        (None, Some(ours)) if is_of(ours, &uid) => Step::Write(Status { migration_uid: ours.uid(), ..before }),
        (None, Some(_)) => Step::Write(refused(
            object,
            "there is a PodMigration.godwit.dev of this name already, which is another order. Give this one another name, or delete that one and make this anew".into(),
        )),
        (None, None) => Step::Order,
    }
}

/// Nothing is done about it.
#[must_use]
pub fn refused(object: &Manifest, message: String) -> Status {
    Status { phase: Phase::Failed, message, ..object.status.clone().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::lpm::made_of;
    use crate::lpm::tests::manifest;

    fn ours(uid: &str) -> PodMigration {
        let mut made = made_of(&manifest());
        made.metadata.uid = Some(uid.into());
        made
    }

    fn known(uid: &str) -> Manifest {
        Manifest { status: Some(Status { migration_uid: Some(uid.into()), ..Status::default() }), ..manifest() }
    }

    #[test]
    fn it_is_ordered_once() {
        assert_eq!(next(&manifest(), None), Step::Order);
        // The controller ended between making it and noting it.
        let Step::Write(status) = next(&manifest(), Some(&ours("g-1"))) else { panic!() };
        assert_eq!((status.migration_uid.as_deref(), status.phase), (Some("g-1"), Phase::Pending));
    }

    #[test]
    fn gone_is_gone_and_not_ordered_again() {
        assert_eq!(next(&known("g-1"), None), Step::Forget);
        assert_eq!(next(&known("g-1"), Some(&ours("g-2"))), Step::Forget);
    }

    #[test]
    fn another_order_of_the_same_name_is_left_alone() {
        let mut other = ours("g-9");
        other.metadata.owner_references = None;
        let Step::Write(status) = next(&manifest(), Some(&other)) else { panic!() };
        assert_eq!((status.phase, status.migration_uid.clone()), (Phase::Failed, None));
        let refused = Manifest { status: Some(status), ..manifest() };
        assert_eq!([next(&refused, Some(&other)), next(&refused, None)], [Step::Nothing, Step::Nothing]);
    }

    #[test]
    fn what_is_being_deleted_is_left_to_it() {
        let mut going = known("g-1");
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        assert_eq!(next(&going, None), Step::Nothing);
    }
}
