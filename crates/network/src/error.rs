//! What can go wrong when a pod's network is changed.

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network namespace could not be opened or joined.
    #[error("cannot enter the network namespace {path}")]
    Namespace {
        /// The file that names the namespace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace is the node's own: a gate there would cut off the node.
    #[error("{path} is the network namespace of the node itself")]
    NodesOwn {
        /// The file that names the namespace.
        path: PathBuf,
    },
    /// The netlink socket could not be made or used.
    #[error("netlink: cannot {what}")]
    Socket {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {what}")]
    Refused {
        /// What it was asked to do.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel sent something that is not a netlink message.
    #[error("netlink: malformed answer to a request to {what}")]
    Malformed {
        /// What it was asked to do.
        what: String,
    },
}

impl Error {
    /// A stable CamelCase word for users and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => "NetworkNamespaceUnreachable",
            Self::NodesOwn { .. } => "HostNetwork",
            Self::Socket { .. } | Self::Malformed { .. } => "NetlinkFailed",
            Self::Refused { .. } => "NetworkChangeRefused",
        }
    }

    /// What a user can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Namespace { .. } => "Check that the pod's sandbox still exists on the node; a sandbox that was just recreated has a new network namespace.",
            Self::NodesOwn { .. } => "Pods with hostNetwork cannot be moved: run the pod in a network namespace of its own.",
            Self::Socket { .. } | Self::Malformed { .. } => "Check that the agent has CAP_NET_ADMIN and CAP_SYS_ADMIN, then try again.",
            Self::Refused { .. } => {
                "Check that the node's kernel has nf_tables with the netdev, inet and arp families (CONFIG_NF_TABLES_NETDEV, CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_ARP) and CONFIG_INET_DIAG_DESTROY."
            }
        }
    }

    /// The errno with which the kernel refused, if it did.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
