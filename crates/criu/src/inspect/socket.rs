//! Sockets with their addresses, states and what waits in them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::images::{FILES, Set, end, schema::View};

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Socket {
    /// `tcp`, `udp`, `tcp6`, `unix stream`, `netlink` …
    pub kind: String,
    /// `ESTABLISHED`, `LISTEN` …; empty where it means nothing.
    pub state: &'static str,
    /// Its own address.
    pub local: String,
    /// The other end's, if it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// Bytes that were received and not read.
    pub received: u64,
    /// Bytes that were written and not acknowledged, or not read by the other end.
    pub sent: u64,
    /// Who has it open: `PID/FD`.
    pub owners: Vec<String>,
}

/// Every socket in the images.
pub fn all(set: &Set, owners: &BTreeMap<u64, Vec<String>>) -> Vec<Socket> {
    let mut queued: BTreeMap<u64, u64> = BTreeMap::new();
    for packet in super::all(set, "sk-queues.img") {
        if let (Some(id), Some(length)) = (packet.number("id_for"), packet.number("length")) {
            let sum = queued.entry(id).or_default();
            *sum = sum.saturating_add(length);
        }
    }
    super::all(set, FILES)
        .filter_map(|file| {
            let id = file.number("id")?;
            let mut socket = if let Some(inet) = file.view("isk") {
                let stream = set.first(&format!("tcp-stream-{:x}.img", inet.number("ino")?)).ok();
                let bytes = |field| stream.as_ref().and_then(|stream| stream.number(field)).unwrap_or(0);
                let (local, peer) = (address(&inet, "src_addr", "src_port"), address(&inet, "dst_addr", "dst_port"));
                let peer = if inet.number("dst_port") == Some(0) { String::new() } else { peer };
                Socket { kind: kind(&inet), state: state(&inet), local, peer, received: bytes("inq_len"), sent: bytes("outq_len"), owners: Vec::new() }
            } else if let Some(unix) = file.view("usk") {
                let peer = unix.number("peer").filter(|peer| *peer != 0).map(|peer| format!("inode {peer}")).unwrap_or_default();
                let local = name(&unix);
                let local = if local.is_empty() { format!("inode {}", unix.number("ino")?) } else { local };
                Socket { kind: format!("unix {}", shape(&unix)), state: state(&unix), local, peer, received: 0, sent: 0, owners: Vec::new() }
            } else if let Some(netlink) = file.view("nlsk") {
                Socket { kind: "netlink".into(), state: "", local: self::netlink(&netlink), peer: String::new(), received: 0, sent: 0, owners: Vec::new() }
            } else {
                let packet = file.view("psk")?;
                Socket { kind: "packet".into(), state: "", local: self::packet(&packet), peer: String::new(), received: 0, sent: 0, owners: Vec::new() }
            };
            socket.received = socket.received.saturating_add(queued.get(&id).copied().unwrap_or(0));
            socket.owners = owners.get(&id).cloned().unwrap_or_default();
            Some(socket)
        })
        .collect()
}

/// An inet socket in words.
pub fn inet(socket: &View<'_>) -> String {
    let local = address(socket, "src_addr", "src_port");
    let peer = if socket.number("dst_port") == Some(0) { String::new() } else { format!(" → {}", address(socket, "dst_addr", "dst_port")) };
    format!("{} {local}{peer} {}", kind(socket), state(socket)).trim_end().to_owned()
}

/// A unix socket in words.
pub fn unix(socket: &View<'_>) -> String {
    let peer = socket.number("peer").filter(|peer| *peer != 0).map(|peer| format!(" → inode {peer}")).unwrap_or_default();
    let name = name(socket);
    let name = if name.is_empty() { format!("inode {}", socket.number("ino").unwrap_or(0)) } else { name };
    format!("unix {} {name}{peer} {}", shape(socket), state(socket)).trim_end().to_owned()
}

/// A netlink socket in words.
pub fn netlink(socket: &View<'_>) -> String {
    format!("netlink protocol {} port {}", socket.number("protocol").unwrap_or(0), socket.number("portid").unwrap_or(0))
}

/// A packet socket in words.
pub fn packet(socket: &View<'_>) -> String {
    format!("packet protocol {:#06x}", socket.number("protocol").unwrap_or(0))
}

fn kind(socket: &View<'_>) -> String {
    let protocol = match socket.number("proto").unwrap_or(0) {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => format!("ip protocol {other}"),
    };
    // AF_INET6, SOCK_RAW
    let six = if socket.number("family") == Some(10) { "6" } else { "" };
    let raw = if socket.number("type") == Some(3) { "raw " } else { "" };
    format!("{raw}{protocol}{six}")
}

fn shape(socket: &View<'_>) -> &'static str {
    match socket.number("type") {
        Some(1) => "stream",
        Some(2) => "datagram",
        Some(5) => "seqpacket",
        _ => "socket",
    }
}

/// The kernel's states of TCP, which unix sockets share.
fn state(socket: &View<'_>) -> &'static str {
    const STATES: [&str; 13] = [
        "",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    let state = socket.number("state").and_then(|state| usize::try_from(state).ok()).and_then(|state| STATES.get(state)).copied().unwrap_or("");
    // Of sockets without connections it says nothing.
    if state == "CLOSE" && socket.number("type") != Some(1) { "" } else { state }
}

/// Address and port; nothing if they make no sense.
fn address(socket: &View<'_>, address: &str, port: &str) -> String {
    end(socket, address, port).map(|end| end.to_string()).unwrap_or_default()
}

/// The name of a unix socket: a path, or `@` and an abstract name.
fn name(socket: &View<'_>) -> String {
    let name = socket.bytes("name").unwrap_or_default();
    match name.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest).trim_end_matches('\0').replace('\0', "@")),
        _ => String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
    }
}
