//! What can go wrong on this side, and the exit code of it.

/// See the module. The text is for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kubeconfig, a broken one, or nobody answers.
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    /// The CRD is not there.
    #[error(
        "Godwit is not installed in this cluster: it knows no PodMigration\n  What to do: helm install godwit deploy/chart/godwit -n godwit-system --create-namespace"
    )]
    NotInstalled,
    /// Not allowed, or not valid.
    #[error("{0}")]
    Refused(String),
    /// No such object.
    #[error("there is no migration {0} in namespace {1}\n  What to do: kubectl migrate list -n {1}")]
    NoMigration(String, String),
    /// A file that cannot be read, or is nothing of the kind.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, String),
    /// A trace that the controller ended.
    #[error("the trace ended early: {0}")]
    Cut(String),
    /// Ctrl-C.
    #[error("not waiting any longer; the migration goes on\n  See it: kubectl migrate status {0} -n {1}\n  Stop it: kubectl migrate cancel {0} -n {1}")]
    Interrupted(String, String),
    /// The output cannot be written.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

impl Error {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Unreachable(_) | Self::NotInstalled | Self::Print(_) | Self::Cut(_) => 4,
            Self::Refused(_) | Self::NoMigration(..) | Self::Unreadable(..) => 5,
            Self::Interrupted(..) => 6,
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            // A path that the API server does not know: the CRD is missing. An object that is missing is named in the details.
            kube::Error::Api(status) if status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty()) => Self::NotInstalled,
            kube::Error::Api(status) if status.code == 401 => Self::Refused(format!("the cluster does not know you: {}", status.message)),
            kube::Error::Api(status) if status.code < 500 => Self::Refused(clean(&status.message)),
            kube::Error::Api(status) => Self::Unreachable(status.message.clone()),
            other => Self::Unreachable(innermost(&other)),
        }
    }
}

/// The API server's words around the message of a policy say nothing to the user.
fn clean(message: &str) -> String {
    match message.split_once("denied request: ") {
        Some((_, rest)) => rest.to_owned(),
        None => message.to_owned(),
    }
}

/// The last of a chain of causes.
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_policy_speaks_for_itself() {
        let message = "podmigrations.godwit.dev \"x\" is forbidden: ValidatingAdmissionPolicy 'godwit-podmigrations' with binding 'b' denied request: user u may not delete pod p";
        assert_eq!(clean(message), "user u may not delete pod p");
        assert_eq!(clean("other"), "other");
    }
}
