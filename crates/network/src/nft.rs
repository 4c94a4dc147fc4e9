//! Just enough nf_tables: transactions, chains, and the expressions that rules are made of. Everything computes in register 1.
//!
//! Message types and attributes: linux/netfilter/nf_tables.h and nfnetlink.h.

use crate::Error;
use crate::netlink::{ACK, CREATE, Message, Socket};

const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub const NEWTABLE: u16 = SUBSYSTEM;
pub const GETTABLE: u16 = SUBSYSTEM | 1;
pub const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub const NEWRULE: u16 = SUBSYSTEM | 6;

/// Families of tables, with their numbers in `struct nfgenmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Arp = 3,
    Netdev = 5,
    Ip6 = 10,
}

impl Family {
    /// `struct nfgenmsg`.
    pub fn header(self) -> [u8; 4] {
        [self as u8, 0, 0, 0]
    }
}

/// Where a chain is asked.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    pub family: Family,
    /// The kernel's number of the hook in that family.
    pub hook: u32,
    /// Of the netdev family only.
    pub device: Option<&'a str>,
    pub priority: i32,
    /// `filter`, `nat` or `route`.
    pub kind: &'a str,
    /// What no rule decides is dropped.
    pub drops: bool,
}

pub fn expression(message: Message, name: &str, data: &dyn Fn(Message) -> Message) -> Message {
    message.nested(1, |m| m.text(1, name).nested(2, data))
}

/// Loads something of the packet's metadata (`enum nft_meta_keys`) into register 1.
pub fn meta(message: Message, key: u32) -> Message {
    expression(message, "meta", &|m| m.be32(1, 1).be32(2, key))
}

/// Loads bytes of the network (1) or transport (2) header into register 1.
pub fn payload(message: Message, base: u32, offset: u32, length: u32) -> Message {
    expression(message, "payload", &|m| m.be32(1, 1).be32(2, base).be32(3, offset).be32(4, length))
}

/// Goes on only if register 1 is equal (0) or not equal (1) to `value`.
pub fn compare(message: Message, operation: u32, value: &[u8]) -> Message {
    expression(message, "cmp", &|m| m.be32(1, 1).be32(2, operation).nested(3, |m| m.attribute(1, value)))
}

/// Goes on only for frames beyond the first `count`, and for fewer by one each second.
pub fn beyond(message: Message, count: u32) -> Message {
    // NFTA_LIMIT_RATE, _UNIT (seconds), _BURST, _TYPE (packets), _FLAGS (NFT_LIMIT_F_INV).
    let one = 1_u64.to_be_bytes();
    expression(message, "limit", &|m| m.attribute(1, &one).attribute(2, &one).be32(3, count).be32(4, 0).be32(5, 1))
}

/// Register 1 = register 1 & mask, over one byte.
pub fn and(message: Message, mask: u8) -> Message {
    expression(message, "bitwise", &|m| m.be32(1, 1).be32(2, 1).be32(3, 1).nested(4, |m| m.attribute(1, &[mask])).nested(5, |m| m.attribute(1, &[0])))
}

/// The verdict `drop`.
pub fn drop_it(message: Message) -> Message {
    verdict(message, 0)
}

/// The verdict `accept`.
pub fn accept(message: Message) -> Message {
    verdict(message, 1)
}

fn verdict(message: Message, code: u32) -> Message {
    expression(message, "immediate", &|m| m.be32(1, 0).nested(2, |m| m.nested(2, |m| m.be32(1, code))))
}

/// Sets something of the packet's metadata (`enum nft_meta_keys`) from register 1.
pub fn set_meta(message: Message, key: u32) -> Message {
    expression(message, "meta", &|m| m.be32(2, key).be32(3, 1))
}

/// Loads something of the packet's flow (`enum nft_ct_keys`) into register 1.
pub fn flow(message: Message, key: u32) -> Message {
    expression(message, "ct", &|m| m.be32(1, 1).be32(2, key))
}

/// Sets something of the packet's flow (`enum nft_ct_keys`) from register 1.
pub fn set_flow(message: Message, key: u32) -> Message {
    expression(message, "ct", &|m| m.be32(2, key).be32(4, 1))
}

/// Register 1 = bytes as they are.
pub fn load(message: Message, value: &[u8]) -> Message {
    expression(message, "immediate", &|m| m.be32(1, 1).nested(2, |m| m.attribute(1, value)))
}

/// One nf_tables transaction.
pub struct Batch {
    requests: Vec<Message>,
}

impl Batch {
    pub fn new() -> Self {
        Self { requests: Vec::new() }
    }

    pub fn push(&mut self, kind: u16, flags: u16, family: Family, fill: impl FnOnce(Message) -> Message) {
        self.requests.push(fill(Message::new(kind, flags, &family.header())));
    }

    /// A chain of a table of the same family.
    pub fn chain(&mut self, table: &str, name: &str, chain: Chain<'_>) {
        self.push(NEWCHAIN, CREATE, chain.family, |m| {
            let m = m.text(1, table).text(3, name).nested(4, |m| {
                let m = m.be32(1, chain.hook).be32(2, chain.priority.cast_unsigned());
                match chain.device {
                    Some(device) => m.text(3, device),
                    None => m,
                }
            });
            m.be32(5, u32::from(!chain.drops)).text(7, chain.kind)
        });
    }

    /// Sends it. All or nothing. An empty one does nothing.
    pub fn commit(mut self, socket: &Socket, what: &str) -> Result<(), Error> {
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
