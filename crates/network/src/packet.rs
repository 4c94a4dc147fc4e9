//! Packet sockets (packet(7)): the system calls of this crate that Rust cannot check.
//!
//! Every frame is read and written with the header of virtio_net (`PACKET_VNET_HDR`): frames between namespaces of one machine carry no checksum yet and may be
//! larger than the wire's, and this header says so in both directions.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// `struct virtio_net_hdr`.
pub const VNET_HEADER: usize = 10;

/// A program of linux/filter.h, as (code, jump if true, jump if false, operand): EtherType IPv4 or IPv6, protocol TCP, of its flags SYN and ACK only SYN.
const BEGINNINGS: [(u16, u8, u8, u32); 15] = [
    (0x28, 0, 0, 12),           // A = 16 bits at 12
    (0x15, 0, 5, 0x0800),       // IPv4, or on to IPv6
    (0x30, 0, 0, 23),           // A = byte at 23
    (0x15, 0, 10, 6),           // TCP, or to the end
    (0xb1, 0, 0, 14),           // X = length of the IPv4 header at 14
    (0x50, 0, 0, 14 + 13),      // A = byte at X + 27
    (0x05, 0, 0, 4),            // to the flags
    (0x15, 0, 6, 0x86dd),       // IPv6, or to the end
    (0x30, 0, 0, 20),           // A = byte at 20
    (0x15, 0, 4, 6),            // TCP, or to the end
    (0x30, 0, 0, 14 + 40 + 13), // A = byte at 67
    (0x54, 0, 0, 0x12),         // A &= SYN | ACK
    (0x15, 0, 1, 0x02),         // SYN, or to the end
    (0x06, 0, 0, 0xffff_ffff),  // taken whole
    (0x06, 0, 0, 0),            // not taken
];

/// The same for ARP, whole.
const ARP: [(u16, u8, u8, u32); 4] = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x0806), (0x06, 0, 0, 0xffff_ffff), (0x06, 0, 0, 0)];

/// A packet socket of one interface, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// One that hears every frame which comes in at the interface, up to `room` bytes; they wait in it until they are read.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listening(index: u32, room: libc::c_int) -> io::Result<Self> {
        let socket = Self::new()?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room)?;
        socket.bind(index, libc::ETH_P_ALL)?;
        Ok(socket)
    }

    /// One that hears ARP only; by index 0 on all interfaces, before any bridge or the like takes it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn listening_to_arp(index: u32, room: libc::c_int) -> io::Result<Self> {
        let socket = Self::new()?;
        socket.only(&ARP)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room)?;
        socket.bind(index, libc::ETH_P_ALL)?;
        Ok(socket)
    }

    /// One that only sends by the interface.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn sending(index: u32) -> io::Result<Self> {
        let socket = Self::new()?;
        socket.bind(index, 0)?;
        Ok(socket)
    }

    fn new() -> io::Result<Self> {
        // Protocol 0: it hears nothing until it is bound.
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        socket.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        Ok(socket)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
        // SAFETY: the pointer is to a value of the length given, which lives during the call.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// From now on it hears only what begins a TCP connection.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn only_beginnings(&self) -> io::Result<()> {
        self.only(&BEGINNINGS)
    }

    fn only(&self, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
        let mut program: Vec<_> = program.iter().map(|(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k }).collect();
        let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
        let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(16);
        // SAFETY: the pointer is to a `sock_fprog` of the length given, and that one's to as many instructions as it says; both live during the call, and the
        // kernel only reads them.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// From now on it hears everything again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn everything(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
    }

    fn bind(&self, index: u32, protocol: libc::c_int) -> io::Result<()> {
        let protocol = u16::try_from(protocol).unwrap_or(0).to_be();
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(17),
            sll_protocol: protocol,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
        // SAFETY: the pointer is to a `sockaddr_ll` of the length given, which lives during the call.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads a frame with its header; `None` when none is waiting.
    ///
    /// # Errors
    /// The interface is gone, say.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(&self.fd, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends a frame with its header.
    ///
    /// # Errors
    /// The interface is gone or down, say.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.fd, frame).map(drop).map_err(io::Error::from)
    }
}
