//! Who somebody is: one word in the common name of a certificate, and the DNS name under which a server of that identity answers.

use std::fmt;
use std::str::FromStr;

use godwit_api::names;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Suffix of the DNS name (subject alternative name) of an agent; the node's name stands before it.
const AGENT_SUFFIX: &str = ".agent.godwit.dev";
/// DNS name of the controller.
const CONTROLLER_NAME: &str = "controller.godwit.dev";

/// Holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// The controller; common name [`names::CN_CONTROLLER`].
    Controller,
    /// The agent of this node; common name [`names::CN_AGENT_PREFIX`] and the node's name.
    Agent(String),
}

/// A common name that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate names {0:?}, which is neither the controller nor an agent")]
pub struct UnknownIdentity(pub String);

impl Identity {
    /// The DNS name that a server of this identity proves: the node's name, which is a DNS subdomain itself, below `agent.godwit.dev`.
    #[must_use]
    pub fn server_name(&self) -> String {
        match self {
            Self::Controller => CONTROLLER_NAME.to_owned(),
            Self::Agent(node) => format!("{node}{AGENT_SUFFIX}"),
        }
    }

    /// Reads the identity from a certificate in DER. The caller has verified its chain.
    ///
    /// # Errors
    /// [`UnknownIdentity`] when the certificate cannot be read, has no common name or several, or one that is not ours.
    pub fn of_certificate(der: &[u8]) -> Result<Self, UnknownIdentity> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| UnknownIdentity("an unreadable certificate".into()))?;
        let mut names = certificate.subject().iter_common_name();
        match (names.next(), names.next()) {
            (Some(name), None) => name.as_str().map_err(|_| UnknownIdentity("an unreadable name".into()))?.parse(),
            _ => Err(UnknownIdentity("not exactly one common name".into())),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str(names::CN_CONTROLLER),
            Self::Agent(node) => write!(f, "{}{node}", names::CN_AGENT_PREFIX),
        }
    }
}

impl FromStr for Identity {
    type Err = UnknownIdentity;

    fn from_str(text: &str) -> Result<Self, UnknownIdentity> {
        if text == names::CN_CONTROLLER {
            return Ok(Self::Controller);
        }
        match text.strip_prefix(names::CN_AGENT_PREFIX) {
            Some(node) if is_node_name(node) => Ok(Self::Agent(node.to_owned())),
            _ => Err(UnknownIdentity(text.to_owned())),
        }
    }
}

/// DNS-1123 subdomain, as Kubernetes requires of node names, short enough to stand before our suffix.
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() + AGENT_SUFFIX.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for identity in [Identity::Controller, Identity::Agent("node-a".into()), Identity::Agent("ip-10-0-0-1.ec2.internal".into())] {
            assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
        }
        assert_eq!(Identity::Agent("node-a".into()).server_name(), "node-a.agent.godwit.dev");
    }

    #[test]
    fn other_names_are_nobody() {
        for name in ["", "agent:", "agent:*", "agent:A", "agent:a..b", "agent:-a", "controller ", "system:node:a", "agent:a/b"] {
            assert!(name.parse::<Identity>().is_err(), "{name}");
        }
        assert!(format!("agent:{}", "a".repeat(254)).parse::<Identity>().is_err());
    }
}
