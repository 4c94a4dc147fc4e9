//! The traffic gate: while it is shut, nothing enters or leaves the pod but over its own loopback.
//!
//! It is one nf_tables transaction inside the pod's network namespace, in tables of its own for each migration, so that the pod's and the CNI plugin's own rules
//! stay as they are:
//!
//! ```text
//!   table netdev godwit-ID   one chain for each interface but lo: ingress, priority -500, policy drop
//!   table inet   godwit-ID   output, priority -500: what would leave by another interface than lo is dropped
//!   table arp    godwit-ID   output, priority -500, policy drop: no answer for an address that may be the peer's business now
//! ```
//!
//! A gate can let frames *pass through* the namespace while the namespace itself stays cut off ([`Gate::connect`]): what comes in at one interface leaves by
//! another one, unseen by the namespace's own network stack. That is how the sealed sandbox of an anchor works:
//!
//! ```text
//!   peers ──▶ eth0 ─ ingress: fwd to anc0 ──▶ tunnel to the new pod        but no new connection from the node itself: a probe or hook of the old pod
//!         ◀── fwd to eth0 : ingress ─ anc0 ◀──                             (SYN from one of the node's addresses is dropped)
//! ```
//!
//! Before it is shut it can be *narrow* ([`Gate::narrow`]): connections go on, but none begins, so that the pod can take in those that have begun.
//!
//! Dropped at ingress means before the TCP stack: nothing is acknowledged that would be lost (a frozen source's kernel would acknowledge it), no RST
//! answers a connection that does not exist yet (a target in the making). Dropped at output means that no RST or FIN leaves when sockets end. The gate
//! queues nothing: TCP sends it again once the gate opens, unless a [`crate::Hold`] has kept it. The tables outlive the agent; [`leftovers`] finds them after a crash.

use std::net::IpAddr;
use std::path::Path;

use crate::netlink::{self, APPEND, CREATE, DUMP, Message, Socket, attributes};
use crate::nft::{Batch, Chain, DELTABLE, Family, GETTABLE, NEWRULE, NEWTABLE, accept, and, compare, drop_it, expression, load, meta, payload};
use crate::sockets::Untaken;
use crate::{Error, addresses, close, links, netns};

const PREFIX: &str = "godwit-";
pub(crate) const PRIORITY: i32 = -500;
/// At most so many of the node's addresses are looked for in a frame.
pub(crate) const STRANGERS: usize = 32;
/// For at most so many connections something may leave at last.
const LAST: usize = 128;
pub(crate) const TCP: u8 = 6;
const NFPROTO: u32 = 15;
pub(crate) const L4PROTO: u32 = 16;
/// Interface index of `lo`, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// The families that a gate uses.
pub(crate) const FAMILIES: [Family; 3] = [Family::Netdev, Family::Inet, Family::Arp];

/// A gate for one migration in one network namespace.
#[derive(Debug)]
pub struct Gate {
    socket: Socket,
    table: String,
    devices: Vec<String>,
}

impl Gate {
    /// Prepares a gate and touches nothing: opens the namespace (a file such as `/proc/PID/ns/net`) and looks at its interfaces. To be called before the
    /// freeze; [`shut`](Self::shut) is then a single request. `id` names the migration and appears in the names of the tables.
    ///
    /// # Errors
    /// The namespace cannot be entered, it is the node's own, or the kernel has no nf_tables.
    pub fn new(netns: &Path, id: &str) -> Result<Self, Error> {
        // The agent runs in the network namespace of its node.
        if netns::is_of(netns, "1") || netns::is_of(netns, "self") {
            return Err(Error::NodesOwn { path: netns.to_owned() });
        }
        let mut devices: Vec<String> = addresses::devices(netns)?.into_iter().filter(|device| device.index != LOOPBACK).map(|device| device.name).collect();
        devices.sort();
        let socket = Socket::inside(netns, netlink::NETFILTER)?;
        tables(&socket)?; // loads the kernel module now, not inside the freeze
        Ok(Self { socket, table: format!("{PREFIX}{id}"), devices })
    }

    /// Lets no new connection begin from outside by one interface, until the gate is shut or opened: what begins one (a SYN) is dropped, all else passes.
    ///
    /// # Errors
    /// The kernel refused; then nothing was changed.
    pub fn narrow(&self, device: &str) -> Result<(), Error> {
        let mut batch = Batch::new();
        renew(&mut batch, &self.table, &[Family::Netdev]);
        let chain = Chain { family: Family::Netdev, hook: 0, device: Some(device), priority: PRIORITY, kind: "filter", drops: false };
        batch.chain(&self.table, "new", chain);
        batch.push(NEWRULE, CREATE | APPEND, Family::Netdev, |m| {
            m.text(1, &self.table).text(2, "new").nested(4, |m| drop_it(begins(compare(meta(m, L4PROTO), 0, &[TCP]))))
        });
        batch.commit(&self.socket, "hold new connections back")
    }

    /// Changes the rules for the last time; nobody waits until the socket is closed ([`close`]).
    ///
    /// # Errors
    /// Those of `change`.
    pub fn last(self, change: impl FnOnce(&Self) -> Result<(), Error>) -> Result<(), Error> {
        let outcome = change(&self);
        close::elsewhere(self);
        outcome
    }

    /// Shuts the gate. Shut already: nothing changes.
    ///
    /// # Errors
    /// The kernel refused; then nothing was changed.
    pub fn shut(&self) -> Result<(), Error> {
        self.set(&[], Leaves::On(&[]), "shut the traffic gate")
    }

    /// As [`shut`](Self::shut), but what the namespace says on one of the connections in `last` leaves: their reset.
    ///
    /// # Errors
    /// The kernel refused; then nothing was changed.
    pub fn seal(&self, last: &[Untaken]) -> Result<(), Error> {
        self.set(&[], Leaves::On(last), "shut the traffic gate")
    }

    /// As [`shut`](Self::shut), but resets of TCP connections leave: of a pod that has moved away without them.
    ///
    /// # Errors
    /// The kernel refused; then nothing was changed.
    pub fn part(&self) -> Result<(), Error> {
        self.set(&[], Leaves::Resets, "let resets leave")
    }

    /// Shuts the gate for the namespace itself, but lets frames pass from each interface of a pair to the other one. In the direction from the first to the
    /// second, TCP connections that begin at one of `strangers` do not pass. What the namespace itself says on one of the connections in `last` leaves: their reset.
    ///
    /// # Errors
    /// The kernel refused (an interface is gone, say); then nothing was changed.
    pub fn connect(&self, netns: &Path, outer: &str, inner: &str, strangers: &[IpAddr], last: &[Untaken]) -> Result<(), Error> {
        let (outer_index, inner_index) = (links::index_of(netns, outer)?, links::index_of(netns, inner)?);
        let pass = [
            Pass { from: outer, to: inner_index, not_from: strangers.iter().take(STRANGERS).copied().collect() },
            Pass { from: inner, to: outer_index, not_from: Vec::new() },
        ];
        self.set(&pass, Leaves::On(last), "let frames pass")
    }

    fn set(&self, passes: &[Pass<'_>], leaves: Leaves<'_>, what: &str) -> Result<(), Error> {
        let mut batch = Batch::new();
        renew(&mut batch, &self.table, &FAMILIES);
        for (index, device) in self.devices.iter().enumerate() {
            let chain = format!("in-{index}");
            batch.chain(&self.table, &chain, Chain { family: Family::Netdev, hook: 0, device: Some(device), priority: PRIORITY, kind: "filter", drops: true });
            for pass in passes.iter().filter(|pass| pass.from == device) {
                for ip in &pass.not_from {
                    batch.push(NEWRULE, CREATE | APPEND, Family::Netdev, |m| drop_new_connections(m.text(1, &self.table).text(2, &chain), *ip));
                }
                batch.push(NEWRULE, CREATE | APPEND, Family::Netdev, |m| forward(m.text(1, &self.table).text(2, &chain), pass.to));
            }
        }
        batch.chain(&self.table, "out", Chain { family: Family::Inet, hook: 3, device: None, priority: PRIORITY, kind: "filter", drops: false });
        match leaves {
            Leaves::On(last) => {
                for connection in last.iter().take(LAST) {
                    batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| accept_connection(m.text(1, &self.table).text(2, "out"), connection));
                }
            }
            Leaves::Resets => batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| accept_resets(m.text(1, &self.table).text(2, "out"))),
        }
        batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| drop_unless_loopback(m.text(1, &self.table).text(2, "out")));
        batch.chain(&self.table, "out", Chain { family: Family::Arp, hook: 1, device: None, priority: PRIORITY, kind: "filter", drops: true });
        batch.commit(&self.socket, what)
    }

    /// Opens the gate. Open already: nothing changes.
    ///
    /// # Errors
    /// The kernel refused; then the gate is as it was.
    pub fn open(&self) -> Result<(), Error> {
        let mut batch = Batch::new();
        for family in tables(&self.socket)?.into_iter().filter(|(_, name)| *name == self.table).map(|(family, _)| family) {
            batch.push(DELTABLE, 0, family, |m| m.text(1, &self.table));
        }
        batch.commit(&self.socket, "open the traffic gate")
    }

    /// Whether the gate is shut.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn is_shut(&self) -> Result<bool, Error> {
        let present = tables(&self.socket)?;
        Ok(FAMILIES.iter().all(|family| present.contains(&(*family, self.table.clone()))))
    }

    /// The interfaces that the gate covers: all of the namespace's but `lo`, as they were when it was made.
    #[must_use]
    pub fn devices(&self) -> &[String] {
        &self.devices
    }
}

/// A table made, deleted and, of these families, made anew in one transaction: afterwards it is complete whatever was there before.
pub(crate) fn renew(batch: &mut Batch, table: &str, families: &[Family]) {
    for family in FAMILIES {
        batch.push(NEWTABLE, CREATE, family, |m| m.text(1, table));
        batch.push(DELTABLE, 0, family, |m| m.text(1, table));
        if families.contains(&family) {
            batch.push(NEWTABLE, CREATE, family, |m| m.text(1, table));
        }
    }
}

/// The ids of all gates that are shut in a network namespace, also those of an agent that died.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn leftovers(netns: &Path) -> Result<Vec<String>, Error> {
    let socket = Socket::inside(netns, netlink::NETFILTER)?;
    let mut ids: Vec<String> = tables(&socket)?.into_iter().filter_map(|(_, name)| name.strip_prefix(PREFIX).map(str::to_owned)).collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Family and name of every table in the families that a gate uses.
fn tables(socket: &Socket) -> Result<Vec<(Family, String)>, Error> {
    let mut found = Vec::new();
    for family in FAMILIES {
        for payload in socket.dump("list tables", Message::new(GETTABLE, DUMP, &family.header()), NEWTABLE)? {
            for (kind, value) in attributes(payload.get(4..).unwrap_or_default()) {
                if kind == 1 {
                    found.push((family, String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()));
                }
            }
        }
    }
    Ok(found)
}

/// What the namespace itself says and a shut gate lets out.
enum Leaves<'a> {
    /// All of these connections.
    On(&'a [Untaken]),
    /// Resets of TCP.
    Resets,
}

/// Frames that pass: from an interface to the one with an index.
struct Pass<'a> {
    from: &'a str,
    to: u32,
    not_from: Vec<IpAddr>,
}

/// Appends the expressions `oif != lo drop`: meta loads the index of the outgoing interface, cmp goes on only if it differs, immediate sets the verdict.
fn drop_unless_loopback(message: Message) -> Message {
    message.nested(4, |m| drop_it(compare(meta(m, 5), 1, &LOOPBACK.to_ne_bytes())))
}

/// Where a header has its addresses, the source's first.
const ADDRESSES: [u32; 2] = [12, 8];

/// Appends the expressions `meta protocol ip, meta l4proto tcp, ip saddr IP, tcp flags & (syn | ack) == syn, drop`; for IPv6 the same of `ip6`.
pub(crate) fn drop_new_connections(message: Message, from: IpAddr) -> Message {
    let (protocol, octets): (u16, _) = (if from.is_ipv4() { 0x0800 } else { 0x86dd }, addresses::octets(from));
    message.nested(4, |m| {
        let m = compare(meta(m, 1), 0, &protocol.to_be_bytes());
        let m = compare(meta(m, L4PROTO), 0, &[TCP]);
        let m = compare(payload(m, 1, ADDRESSES[usize::from(from.is_ipv6())], length(&octets)), 0, &octets);
        drop_it(begins(m))
    })
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Goes on only if a TCP segment begins a connection: `tcp flags & (syn | ack) == syn`.
fn begins(message: Message) -> Message {
    compare(and(payload(message, 2, 13, 1), 0x12), 0, &[0x02])
}

/// Appends the expressions `meta nfproto ipv4, meta l4proto tcp, ip saddr OURS, ip daddr PEER, tcp sport OURS tcp dport PEER, accept`; for IPv6 the same of `ip6`.
fn accept_connection(message: Message, connection: &Untaken) -> Message {
    let (ours, peer) = (connection.ours, connection.peer);
    message.nested(4, |m| {
        let family = if ours.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let m = compare(meta(compare(meta(m, NFPROTO), 0, &[family as u8]), L4PROTO), 0, &[TCP]);
        let (from, to) = (addresses::octets(ours.ip()), addresses::octets(peer.ip()));
        let at = ADDRESSES[usize::from(ours.is_ipv6())];
        let m = compare(payload(m, 1, at, length(&from)), 0, &from);
        let m = compare(payload(m, 1, at + length(&from), length(&to)), 0, &to);
        let m = compare(payload(m, 2, 0, 4), 0, &[ours.port().to_be_bytes(), peer.port().to_be_bytes()].concat());
        accept(m)
    })
}

/// Appends the expressions `meta l4proto tcp, tcp flags & rst == rst, accept`.
fn accept_resets(message: Message) -> Message {
    message.nested(4, |m| accept(compare(and(payload(compare(meta(m, L4PROTO), 0, &[TCP]), 2, 13, 1), 0x04), 0, &[0x04])))
}

/// Appends the expressions `fwd to DEVICE`: immediate puts the index into register 1.
fn forward(message: Message, device: u32) -> Message {
    message.nested(4, |m| expression(load(m, &device.to_ne_bytes()), "fwd", &|m| m.be32(1, 1)))
}
