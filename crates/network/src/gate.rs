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
//! Dropped at ingress means before the TCP stack: nothing is acknowledged that would be lost (a frozen source's kernel would acknowledge it), no RST
//! answers a connection that does not exist yet (a target in the making). Dropped at output means that no RST or FIN leaves when sockets end. Nothing is
//! queued: TCP sends it again once the gate opens. The tables outlive the agent; [`leftovers`] finds them after a crash.
//!
//! Message types and attributes: linux/netfilter/nf_tables.h and nfnetlink.h.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::netlink::{self, ACK, APPEND, CREATE, DUMP, Message, Socket, attributes};
use crate::{Error, addresses, links, netns};

const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;

const PREFIX: &str = "godwit-";
const PRIORITY: i32 = -500;
/// At most so many of the node's addresses are looked for in a frame.
const STRANGERS: usize = 32;
/// Interface index of `lo`, the same in every network namespace.
const LOOPBACK: u32 = 1;
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;

/// The families that a gate uses, with their numbers in `struct nfgenmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Inet = 1,
    Arp = 3,
    Netdev = 5,
}

impl Family {
    const ALL: [Self; 3] = [Self::Netdev, Self::Inet, Self::Arp];

    /// `struct nfgenmsg`.
    fn header(self) -> [u8; 4] {
        [self as u8, 0, 0, 0]
    }
}

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

    /// Shuts the gate. Shut already: nothing changes.
    ///
    /// # Errors
    /// The kernel refused; then nothing was changed.
    pub fn shut(&self) -> Result<(), Error> {
        self.set(&[], "shut the traffic gate")
    }

    /// Shuts the gate for the namespace itself, but lets frames pass from each interface of a pair to the other one. In the direction from the first to the
    /// second, TCP connections that begin at one of `strangers` do not pass.
    ///
    /// # Errors
    /// The kernel refused (an interface is gone, say); then nothing was changed.
    pub fn connect(&self, netns: &Path, outer: &str, inner: &str, strangers: &[Ipv4Addr]) -> Result<(), Error> {
        let (outer_index, inner_index) = (links::index_of(netns, outer)?, links::index_of(netns, inner)?);
        let pass = [
            Pass { from: outer, to: inner_index, not_from: strangers.iter().take(STRANGERS).copied().collect() },
            Pass { from: inner, to: outer_index, not_from: Vec::new() },
        ];
        self.set(&pass, "let frames pass")
    }

    fn set(&self, passes: &[Pass<'_>], what: &str) -> Result<(), Error> {
        let mut batch = Batch::new();
        for family in Family::ALL {
            // Made, deleted and made anew in one transaction: afterwards it is complete whatever was there before.
            batch.push(NEWTABLE, CREATE, family, |m| m.text(1, &self.table));
            batch.push(DELTABLE, 0, family, |m| m.text(1, &self.table));
            batch.push(NEWTABLE, CREATE, family, |m| m.text(1, &self.table));
        }
        for (index, device) in self.devices.iter().enumerate() {
            let chain = format!("in-{index}");
            self.chain(&mut batch, Family::Netdev, &chain, 0, Some(device), POLICY_DROP);
            for pass in passes.iter().filter(|pass| pass.from == device) {
                for ip in &pass.not_from {
                    batch.push(NEWRULE, CREATE | APPEND, Family::Netdev, |m| drop_new_connections(m.text(1, &self.table).text(2, &chain), *ip));
                }
                batch.push(NEWRULE, CREATE | APPEND, Family::Netdev, |m| forward(m.text(1, &self.table).text(2, &chain), pass.to));
            }
        }
        self.chain(&mut batch, Family::Inet, "out", 3, None, POLICY_ACCEPT);
        batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| drop_unless_loopback(m.text(1, &self.table).text(2, "out")));
        self.chain(&mut batch, Family::Arp, "out", 1, None, POLICY_DROP);
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
        Ok(Family::ALL.iter().all(|family| present.contains(&(*family, self.table.clone()))))
    }

    /// The interfaces that the gate covers: all of the namespace's but `lo`, as they were when it was made.
    #[must_use]
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    fn chain(&self, batch: &mut Batch, family: Family, name: &str, hook: u32, device: Option<&str>, policy: u32) {
        batch.push(NEWCHAIN, CREATE, family, |m| {
            let m = m.text(1, &self.table).text(3, name).nested(4, |m| {
                let m = m.be32(1, hook).be32(2, PRIORITY.cast_unsigned());
                match device {
                    Some(device) => m.text(3, device),
                    None => m,
                }
            });
            m.be32(5, policy).text(7, "filter")
        });
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
    for family in Family::ALL {
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

/// Frames that pass: from an interface to the one with an index.
struct Pass<'a> {
    from: &'a str,
    to: u32,
    not_from: Vec<Ipv4Addr>,
}

fn expression(message: Message, name: &str, data: &dyn Fn(Message) -> Message) -> Message {
    message.nested(1, |m| m.text(1, name).nested(2, data))
}

/// Loads something of the packet's metadata (`enum nft_meta_keys`) into register 1.
fn meta(message: Message, key: u32) -> Message {
    expression(message, "meta", &|m| m.be32(1, 1).be32(2, key))
}

/// Loads bytes of the network (1) or transport (2) header into register 1.
fn payload(message: Message, base: u32, offset: u32, length: u32) -> Message {
    expression(message, "payload", &|m| m.be32(1, 1).be32(2, base).be32(3, offset).be32(4, length))
}

/// Goes on only if register 1 is equal (0) or not equal (1) to `value`.
fn compare(message: Message, operation: u32, value: &[u8]) -> Message {
    expression(message, "cmp", &|m| m.be32(1, 1).be32(2, operation).nested(3, |m| m.attribute(1, value)))
}

/// Register 1 = register 1 & mask, over one byte.
fn and(message: Message, mask: u8) -> Message {
    expression(message, "bitwise", &|m| m.be32(1, 1).be32(2, 1).be32(3, 1).nested(4, |m| m.attribute(1, &[mask])).nested(5, |m| m.attribute(1, &[0])))
}

/// The verdict `drop`.
fn drop_it(message: Message) -> Message {
    expression(message, "immediate", &|m| m.be32(1, 0).nested(2, |m| m.nested(2, |m| m.be32(1, 0))))
}

/// Appends the expressions `oif != lo drop`: meta loads the index of the outgoing interface, cmp goes on only if it differs, immediate sets the verdict.
fn drop_unless_loopback(message: Message) -> Message {
    message.nested(4, |m| drop_it(compare(meta(m, 5), 1, &LOOPBACK.to_ne_bytes())))
}

/// Appends the expressions `meta protocol ip, ip protocol tcp, ip saddr IP, tcp flags & (syn | ack) == syn, drop`.
fn drop_new_connections(message: Message, from: Ipv4Addr) -> Message {
    message.nested(4, |m| {
        let m = compare(meta(m, 1), 0, &0x0800_u16.to_be_bytes());
        let m = compare(payload(m, 1, 9, 1), 0, &[6]);
        let m = compare(payload(m, 1, 12, 4), 0, &from.octets());
        drop_it(compare(and(payload(m, 2, 13, 1), 0x12), 0, &[0x02]))
    })
}

/// Appends the expressions `fwd to DEVICE`: immediate puts the index into register 1.
fn forward(message: Message, device: u32) -> Message {
    message.nested(4, |m| {
        let m = expression(m, "immediate", &|m| m.be32(1, 1).nested(2, |m| m.attribute(1, &device.to_ne_bytes())));
        expression(m, "fwd", &|m| m.be32(1, 1))
    })
}

/// One nf_tables transaction.
struct Batch {
    requests: Vec<Message>,
}

impl Batch {
    fn new() -> Self {
        Self { requests: Vec::new() }
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, fill: impl FnOnce(Message) -> Message) {
        self.requests.push(fill(Message::new(kind, flags, &family.header())));
    }

    /// Sends it. All or nothing. An empty one does nothing.
    fn commit(mut self, socket: &Socket, what: &str) -> Result<(), Error> {
        let Some(last) = self.requests.last_mut() else {
            return Ok(());
        };
        last.add_flags(ACK);
        // `res_id` of the batch markers names the subsystem, big-endian.
        let marker = [0, 0, 0, 10];
        let mut messages = vec![Message::new(BATCH_BEGIN, 0, &marker)];
        messages.extend(self.requests);
        let awaited = messages.len() - 1;
        messages.push(Message::new(BATCH_END, 0, &marker));
        socket.transact(what, messages, awaited)
    }
}
