//! The anchor's other end: what the new pod gets so that the connections of the old address live in it.
//!
//! ```text
//!   new pod's netns
//!     eth0  its own address
//!     old0  the old address, the old hardware address      ◀── tunnel or patch ── old pod's netns
//!     rule 100: from the old address, or marked ▶ table 7100: the old routes, by old0
//!     table ip (ip6) anchor-old0: marks answers to datagrams, see crate::replies
//! ```
//!
//! The old address is a single host's, so that nothing else is routed differently. Each interface answers ARP for its own addresses only, as IPv6 always does. `old0` has
//! the old link-local address, too, from which IPv6 asks and answers neighbours; it hears no router.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::attachment::{self, Attachment, TABLES};
use crate::sockets::{self, Destroyed};
use crate::{Error, links, replies};

/// Beginning of the interfaces' names.
pub const PREFIX: &str = "old";

/// One old attachment in a new pod.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Mirror {
    /// Name of the interface in the new pod.
    pub device: String,
    /// What it mirrors.
    pub old: Attachment,
}

impl Mirror {
    /// A mirror under the first free name. Nothing is made yet: `device` is the name for [`links::make_tunnel`] or [`links::make_patch`].
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn plan(netns: &Path, old: Attachment) -> Result<Self, Error> {
        let old = if links::has_six() { old } else { old.without_six() };
        Ok(Self { device: links::free_name(netns, PREFIX)?, old })
    }

    fn table(&self) -> u32 {
        TABLES + self.device.trim_start_matches(PREFIX).parse().unwrap_or(0)
    }

    /// Makes the interface, which is there and down, the home of the old addresses. `mtu`: largest packet that the way to the old pod carries whole, in bytes.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn raise(&self, netns: &Path, mtu: u32) -> Result<(), Error> {
        for link in links::list(netns)?.iter().filter(|link| link.index != 1 && link.name != self.device) {
            links::strict_arp(netns, &link.name)?;
        }
        links::up_as_interface(netns, &self.device, self.old.mtu, &self.old.ips)?;
        attachment::route_from(netns, &self.old, &self.device, self.table(), self.old.mtu.min(mtu))?;
        for family in self.old.answering() {
            if let Err(error) = replies::begin(netns, &self.device, self.table(), family) {
                // No reason not to keep what else there is.
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(device = self.device, ?family, %error, source, "answers to datagrams will come from the new address");
            }
        }
        Ok(())
    }

    /// Takes it away again, whatever of it is there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn lower(&self, netns: &Path) -> Result<(), Error> {
        attachment::unroute(netns, &self.old, self.table())?;
        for family in self.old.answering() {
            if let Err(error) = replies::end(netns, &self.device, family) {
                tracing::debug!(device = self.device, ?family, %error, "there were no rules for datagrams");
            }
        }
        links::remove(netns, &self.device)
    }

    /// How many TCP connections of the old addresses there are, in whatever state but TIME_WAIT, and flows of datagrams that are not forgotten yet.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn connections(&self, netns: &Path) -> Result<u32, Error> {
        let flows = self.old.answering().map(|family| replies::flows(netns, self.table(), family).unwrap_or(0)).fold(0, u32::saturating_add);
        self.old.ips.iter().try_fold(flows, |sum, ip| Ok(sum.saturating_add(sockets::connections(netns, *ip)?)))
    }

    /// Ends them, with a reset to their peers.
    ///
    /// # Errors
    /// The kernel cannot destroy sockets.
    pub fn reset(&self, netns: &Path) -> Result<Destroyed, Error> {
        let mut all = Destroyed::default();
        for ip in &self.old.ips {
            let destroyed = sockets::destroy(netns, *ip)?;
            all.established += destroyed.established;
            all.other += destroyed.other;
        }
        Ok(all)
    }
}
