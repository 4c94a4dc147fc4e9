//! An old address that moves on its segment by itself, against the real kernel, without CRIU: a bridge, an old pod, a new pod and a peer on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::announce::{self, Ears};
use crate::tests::{in_new_netns, ip, root};
use crate::{Attachment, Gate, Mirror, Relay, links, neighbours, segment, sockets};

const OLD: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
const TRIAL: [u8; 6] = [2, b'g', b'w', 1, 1, 1];
const LEFT: [u8; 6] = [2, b'g', b'w', 2, 2, 2];
const SHORT: Duration = Duration::from_millis(300);

fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    crate::netns::inside(netns, || Ok(work())).unwrap()
}

fn dial(netns: &Path) -> std::io::Result<TcpStream> {
    inside(netns, || TcpStream::connect_timeout(&(OLD, 7000).into(), Duration::from_secs(3)))
}

fn output(netns: &Path, command: &[&str]) -> String {
    inside(netns, || String::from_utf8(Command::new(command[0]).args(&command[1..]).output().unwrap().stdout).unwrap())
}

/// A namespace with eth0 on the bridge of `switch`.
fn plugged(switch: PathBuf, address: &'static str, test: impl FnOnce(PathBuf) + Send + 'static) {
    in_new_netns(move |netns| {
        let (tid, port) = (nix::unistd::gettid(), format!("p{}", address.split('.').nth(3).unwrap().split('/').next().unwrap()));
        inside(&switch, || {
            ip(&format!("link add {port} type veth peer name eth0 netns {tid}"));
            ip(&format!("link set {port} master br0 up"));
        });
        ip(&format!("addr add {address} dev eth0"));
        ip("link set eth0 up");
        test(netns);
    });
}

/// A switch, an old pod, a new pod, and a peer.
fn on_one_segment(test: impl FnOnce(&Path, &Path, &Path, &Path) + Send + 'static) {
    if !root() {
        return;
    }
    in_new_netns(|switch| {
        ip("link add br0 type bridge forward_delay 0");
        ip("link set br0 up");
        let (to_old, to_new, to_peer) = (switch.clone(), switch.clone(), switch.clone());
        plugged(to_old, "10.97.0.2/24", move |old| {
            plugged(to_new, "10.97.0.3/24", move |new| plugged(to_peer, "10.97.0.1/24", move |peer| test(&switch, &old, &new, &peer)));
        });
    });
}

fn raised(old: &Path, new: &Path) -> Mirror {
    let mirror = Mirror::plan(new, Attachment::of(old, OLD.into()).unwrap()).unwrap();
    let own = segment::own_device(new).unwrap();
    assert_eq!(own.name, "eth0");
    segment::make(new, &mirror.device, &own.name, TRIAL).unwrap();
    assert_eq!(announce::who_has(new, &mirror.device, TRIAL, OLD, Duration::from_secs(1)).unwrap(), [mirror.old.mac]);
    segment::set_mac(new, &mirror.device, mirror.old.mac).unwrap();
    mirror.raise(new, own.mtu).unwrap();
    mirror
}

fn lowered(mirror: &Mirror, new: &Path) {
    for _ in 0..2 {
        mirror.lower(new).unwrap();
        segment::forget(new, &mirror.device).unwrap();
    }
    assert!(links::list(new).unwrap().iter().all(|link| link.name != mirror.device));
    assert!(!output(new, &["ip", "rule"]).contains(&OLD.to_string()));
    assert_eq!(output(new, &["nft", "list", "tables"]), "");
}

#[test]
fn an_old_address_moves_on_its_segment() {
    on_one_segment(|_, old, new, peer| {
        inside(old, || ip("route add default via 10.97.0.1"));
        let _unbound = inside(old, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7002)).unwrap());
        let server = inside(old, || TcpListener::bind((OLD, 7000)).unwrap());
        let _before = dial(peer).unwrap(); // the peer knows the hardware address from now on
        let neighbour = output(peer, &["ip", "neigh", "show", "to", "10.97.0.2"]);
        let mirror = raised(old, new);
        // The old pod goes on undisturbed while the new one has the address: nothing of it is heard.
        dial(peer).unwrap();
        let listener = inside(new, || TcpListener::bind((OLD, 7000)).unwrap());
        dial(peer).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        // Something in the new pod speaks too early: it waits. (Not in life: only what is restored speaks, and that is the old pod's.)
        let early = std::thread::spawn({
            let new = new.to_owned();
            let echo = inside(peer, || TcpListener::bind((PEER, 7003)).unwrap());
            move || {
                let began = Instant::now();
                let stream = inside(&new, || {
                    let socket = socket_bound_to_old();
                    socket.connect((PEER, 7003)).map(|()| socket)
                });
                drop(echo);
                (stream.is_ok(), began.elapsed())
            }
        });

        let gate = Gate::new(old, "keep").unwrap();
        let relay = Relay::begin_with_beginnings(old, "eth0").unwrap();
        gate.narrow("eth0").unwrap();
        relay.keep_everything().unwrap();
        gate.shut().unwrap();
        drop(server);
        listener.set_nonblocking(false).unwrap();
        let began = Instant::now();
        let (mut stream, mut accepted) = std::thread::scope(|scope| {
            let dialing = scope.spawn(|| dial(peer).unwrap());
            std::thread::sleep(SHORT);
            // The new pod runs: first here, then the old pod's node hears of it.
            segment::open(new, &mirror.device, &["10.97.0.77".parse().unwrap()]).unwrap();
            announce::announce(new, &mirror.device, mirror.old.mac, &mirror.old.ips).unwrap();
            gate.seal(&[]).unwrap();
            segment::set_mac(old, "eth0", LEFT).unwrap();
            relay.release(old, LEFT, vec![mirror.old.clone()], Vec::new()).unwrap();
            (dialing.join().unwrap(), listener.accept().unwrap().0)
        });
        // The SYN that was kept, not the second one after a second.
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        let (connected, time) = early.join().unwrap();
        assert!(connected && time > SHORT && time < Duration::from_millis(900), "{connected} {time:?}");
        segment::as_usual(new, &mirror.device).unwrap();
        stream.write_all(&[7; 100_000]).unwrap();
        let mut buffer = vec![0; 100_000];
        accepted.read_exact(&mut buffer).unwrap();
        assert!(buffer.iter().all(|byte| *byte == 7));
        let same = |line: &str| line.split(' ').skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned);
        assert_eq!(same(&output(peer, &["ip", "neigh", "show", "to", "10.97.0.2"])), same(&neighbour), "the peer had to learn another hardware address");

        // A probe of the old node does not come through; what is there goes on.
        segment::open(new, &mirror.device, &[PEER.into()]).unwrap();
        inside(peer, || TcpStream::connect_timeout(&(OLD, 7000).into(), SHORT)).unwrap_err();
        accepted.write_all(b"on").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        segment::open(new, &mirror.device, &[]).unwrap();
        datagrams(new, peer);

        // The end of the old pod's sandbox changes nothing.
        inside(old, || ip("link set eth0 down"));
        accepted.write_all(b"on").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        assert!(mirror.connections(new).unwrap() >= 1);
        mirror.reset(new).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        lowered(&mirror, new);
        gate.open().unwrap();
    });
}

/// A socket that is bound to the old address, not connected yet.
fn socket_bound_to_old() -> Bound {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(OLD, 0))).unwrap();
    Bound(fd)
}

struct Bound(std::os::fd::OwnedFd);

impl Bound {
    fn connect(&self, to: (Ipv4Addr, u16)) -> nix::Result<()> {
        use std::os::fd::AsRawFd;
        nix::sys::socket::connect(self.0.as_raw_fd(), &nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(to.0, to.1)))
    }
}

/// By a socket of the new pod without an address.
fn datagrams(new: &Path, peer: &Path) {
    let server = inside(new, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7002)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let client = inside(peer, || UdpSocket::bind((PEER, 0)).unwrap());
    client.connect((OLD, 7002)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    for text in [b"one", b"two"] {
        client.send(text).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (text.as_slice(), IpAddr::from(PEER)));
        server.send_to(text, from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
    }
}

#[test]
fn a_move_that_is_taken_back_was_not_heard_of() {
    on_one_segment(|switch, old, new, peer| {
        let listener = inside(old, || TcpListener::bind((OLD, 7000)).unwrap());
        let mut stream = dial(peer).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let mirror = raised(old, new);
        let gate = Gate::new(old, "back").unwrap();
        let relay = Relay::begin(old, "eth0").unwrap();
        gate.shut().unwrap();
        stream.write_all(b"meanwhile").unwrap();
        // Nobody answers for it: neither the sealed pod nor the one in the making.
        inside(peer, || ip("neigh flush dev eth0"));
        assert_eq!(announce::who_has(peer, "eth0", TRIAL, OLD, SHORT).unwrap(), Vec::<[u8; 6]>::new());
        lowered(&mirror, new);
        gate.open().unwrap();
        drop(relay);
        accepted.read_exact(&mut [0; 9]).unwrap();
        let table = output(switch, &["bridge", "fdb", "show", "br", "br0"]);
        let mac = mirror.old.mac.map(|byte| format!("{byte:02x}")).join(":");
        assert!(table.lines().filter(|line| line.contains(&mac)).all(|line| line.contains("dev p2 ")), "{table}");
    });
}

#[test]
fn peers_of_connections_that_nobody_took_in_are_told_and_the_address_stays_where_it_is() {
    on_one_segment(|_, old, new, peer| {
        let _listener = inside(old, || TcpListener::bind((OLD, 7000)).unwrap());
        let mut left = dial(peer).unwrap();
        let known = neighbours::known(old, "eth0").unwrap();
        assert!(!known.is_empty());
        let mirror = raised(old, new);
        let gate = Gate::new(old, "left").unwrap();
        gate.shut().unwrap();
        segment::open(new, &mirror.device, &[]).unwrap();
        announce::announce(new, &mirror.device, mirror.old.mac, &mirror.old.ips).unwrap();
        let untaken = sockets::untaken(old, &[OLD.into()]).unwrap();
        gate.seal(&untaken).unwrap();
        segment::set_mac(old, "eth0", LEFT).unwrap();
        assert!(!neighbours::known(old, "eth0").unwrap().iter().any(|neighbour| known.contains(neighbour)), "nobody is known any more");
        neighbours::remember(old, "eth0", &known).unwrap();
        sockets::refuse(old, &untaken).unwrap();
        left.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(left.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        // The reset came from the old pod, and the address is at the new one all the same.
        let listener = inside(new, || TcpListener::bind((OLD, 7000)).unwrap());
        dial(peer).unwrap();
        listener.accept().unwrap();
        lowered(&mirror, new);
    });
}

#[test]
fn who_is_on_the_segment_and_who_is_not() {
    on_one_segment(|switch, old, new, peer| {
        // A node: the bridge is its own.
        let node = Ears::open(switch).unwrap();
        assert!(announce::shout(old, "eth0", TRIAL, OLD, 4).unwrap().is_empty(), "the pod itself does not count");
        assert!(node.heard(TRIAL, OLD) && !node.heard(LEFT, OLD));
        // Not on it.
        in_new_netns(|other| {
            assert!(!Ears::open(&other).unwrap().heard(TRIAL, OLD));
        });
        // Somebody else has the address.
        inside(peer, || ip("addr add 10.97.0.2/32 dev eth0"));
        assert_eq!(announce::shout(old, "eth0", TRIAL, OLD, 4).unwrap().len(), 1);
        let own = segment::own_device(new).unwrap();
        segment::make(new, "old0", &own.name, TRIAL).unwrap();
        // Shut, it holds back too many bare acknowledgements.
        let rules = inside(new, || Command::new("nft").args(["list", "table", "inet", "segment-old0"]).output().unwrap());
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        assert_eq!(rules.matches("limit rate over 1/second burst 400 packets drop").count(), 4, "{rules}");
        assert_eq!(announce::who_has(new, "old0", TRIAL, OLD, Duration::from_secs(1)).unwrap().len(), 2);
        // A port that lets nothing from unknown hardware addresses in.
        inside(switch, || {
            let mac = own.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
            let rules = format!("table netdev guard {{ chain guard {{ type filter hook ingress device p3 priority 0; ether saddr != {mac} drop; }}; }}");
            assert!(Command::new("nft").arg(&rules).status().unwrap().success());
        });
        assert!(announce::who_has(new, "old0", TRIAL, OLD, SHORT).unwrap().is_empty());
    });
}
