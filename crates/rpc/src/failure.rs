//! A [`v1::Failure`] inside a `tonic::Status`, for calls that end with an error: reason, message and remedy arrive as they were given.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::v1;

/// An error that carries `failure` in its details.
#[must_use]
pub fn status(failure: &v1::Failure) -> Status {
    let text = format!("{}: {}", failure.reason, failure.message);
    Status::with_details(Code::FailedPrecondition, text, Bytes::from(failure.encode_to_vec()))
}

/// The failure that an error carries, if it carries one.
#[must_use]
pub fn of(status: &Status) -> Option<v1::Failure> {
    if status.details().is_empty() {
        return None;
    }
    v1::Failure::decode(status.details()).ok().filter(|failure| !failure.reason.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_failure_goes_there_and_back() {
        let failure = v1::Failure { reason: "NoRoom".into(), message: "/run has 3 MiB left".into(), remedy: "Make room.".into(), log: String::new() };
        assert_eq!(of(&status(&failure)), Some(failure));
        assert_eq!(of(&Status::unavailable("away")), None);
    }
}
