//! The anchor's parts against the real kernel, without CRIU: a listener in the new pod answers for the old pod's address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::tests::{in_new_netns, ip, root, with_peer};
use crate::{Attachment, Gate, Hold, Mirror, close, echo, links, neighbours, sockets, wireguard};

const FOUR: Ends = Ends { old: IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)), peer: IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)) };
const SIX: Ends = Ends { old: IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2)), peer: IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1)) };

/// Whom a peer asks, and from where.
#[derive(Clone, Copy)]
struct Ends {
    old: IpAddr,
    peer: IpAddr,
}

impl Ends {
    fn any(self) -> IpAddr {
        if self.old.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    /// One that has nothing to do with it.
    fn another(self) -> IpAddr {
        if self.old.is_ipv4() { Ipv4Addr::new(10, 99, 0, 77).into() } else { Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x77).into() }
    }

    fn dial(self, netns: &Path) -> std::io::Result<TcpStream> {
        inside(netns, || TcpStream::connect_timeout(&(self.old, 7000).into(), Duration::from_secs(3)))
    }
}

fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    crate::netns::inside(netns, || Ok(work())).unwrap()
}

/// Everything from the making of the pair or tunnel to its end, in an old pod, a new pod and a peer's namespace.
fn the_old_address_lives_in_the_new_pod(ends: Ends, old: &Path, new: &Path, peer: &Path, connect: impl FnOnce(&Mirror)) {
    inside(old, || {
        ip("route add default via 10.99.0.1");
        ip("-6 route add default via fd99::1");
    });
    let six = ends.old.is_ipv6();
    let takes = || Attachment::of(old, FOUR.old).map(|found| (found.datagrams, found.datagrams_six)).unwrap();
    assert_eq!(takes(), (false, false));
    let _bound = inside(old, || UdpSocket::bind((ends.old, 7001)).unwrap());
    assert_eq!(takes(), (false, false), "one that has an address needs nothing");
    let _unbound = inside(old, || UdpSocket::bind((ends.any(), 7002)).unwrap());
    assert_eq!(takes(), (true, six));
    let attachment = Attachment::of(old, FOUR.old).unwrap();
    assert_eq!((attachment.device.as_str(), attachment.addresses().collect::<Vec<_>>()), ("eth0", vec![FOUR.old, SIX.old]));
    assert_eq!(attachment.ips.len(), 3, "the link-local one is there, too: {:?}", attachment.ips);
    let gateways: Vec<IpAddr> = attachment.routes.iter().filter_map(|route| route.via).collect();
    assert_eq!((attachment.routes.len(), gateways), (5, vec![FOUR.peer, SIX.peer]));
    let described: Attachment = serde_json::from_slice(&serde_json::to_vec(&attachment).unwrap()).unwrap();
    assert_eq!(described, attachment);
    inside(new, || {
        for line in [
            "link set lo up",
            "link add eth0 type veth peer name wire",
            "link set wire up",
            "addr add 10.98.0.2/24 dev eth0",
            "-6 addr add fd98::2/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default dev eth0",
            "-6 route add default dev eth0",
        ] {
            ip(line);
        }
    });
    let mirror = Mirror::plan(new, attachment).unwrap();
    connect(&mirror);
    mirror.raise(new, 1450).unwrap();
    mirror.raise(new, 1450).unwrap();
    links::up_as_pipe(old, "anc0", 1500).unwrap();

    assert_eq!(ends.dial(peer).unwrap_err().kind(), ErrorKind::ConnectionRefused); // the peer knows the hardware address from now on
    std::thread::scope(|scope| {
        scope.spawn(|| echo::answer(old, "anc0", Duration::from_secs(1)).unwrap());
        assert!(echo::reaches(new, &mirror.device, Duration::from_secs(1)).unwrap());
    });
    assert!(!echo::reaches(new, &mirror.device, Duration::from_millis(100)).unwrap(), "nobody answers any more");
    let gate = Gate::new(old, "anchor").unwrap();
    gate.shut().unwrap();
    let listener = inside(new, || TcpListener::bind((ends.any(), 7000)).unwrap());
    // What arrives before the gate opens is kept: the first SYN is answered as soon as it opens, not the second one after a second.
    let hold = Hold::begin(old, "eth0", "anc0").unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let dialing = scope.spawn(|| ends.dial(peer).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        gate.connect(old, "eth0", "anc0", &[], &[]).unwrap();
        assert!(hold.release(old, &[]).unwrap() > 0);
        let mut stream = dialing.join().unwrap();
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), ends.peer);
        stream.write_all(&[7; 100_000]).unwrap();
        let mut buffer = vec![0; 100_000];
        accepted.read_exact(&mut buffer).unwrap();
        assert!(buffer.iter().all(|byte| *byte == 7));
        assert_eq!(mirror.connections(new).unwrap(), 1);
    });
    // A probe of the node does not come through; what is there goes on.
    gate.connect(old, "eth0", "anc0", &[ends.another(), ends.peer, FOUR.peer], &[]).unwrap();
    ends.dial(peer).unwrap_err();
    gate.connect(old, "eth0", "anc0", &[ends.another()], &[]).unwrap();
    let stream = ends.dial(peer).unwrap();
    let (_accepted, _) = listener.accept().unwrap();
    drop((stream, _accepted));
    datagrams_are_answered_by_whom_they_were_sent_to(ends, new, peer);
    let begun = inside(new, || UdpSocket::bind((ends.any(), 0)).and_then(|socket| socket.connect((ends.peer, 9)).and(socket.local_addr())).unwrap());
    assert!(![FOUR.old, SIX.old].contains(&begun.ip()), "what begins here has the new address, not {begun}");
    // Who has forgotten the hardware address asks for it, through the pipe; and so does the new pod.
    for (netns, device) in [(peer, "eth0"), (new, mirror.device.as_str())] {
        inside(netns, || ["-4", "-6"].map(|family| ip(&format!("{family} neigh flush dev {device}"))));
    }
    let mut stream = ends.dial(peer).unwrap();
    let (_accepted, _) = listener.accept().unwrap();
    assert!(mirror.connections(new).unwrap() >= 2, "the flow of datagrams to the socket without an address counts");
    // The end: a clean reset.
    mirror.reset(new).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    for _ in 0..2 {
        mirror.lower(new).unwrap();
        links::remove(old, "anc0").unwrap();
    }
    gate.open().unwrap();
    assert!(links::list(new).unwrap().iter().all(|link| link.name != mirror.device));
    for family in ["-4", "-6"] {
        let rules = inside(new, || String::from_utf8(Command::new("ip").args([family, "rule"]).output().unwrap().stdout).unwrap());
        assert!(!rules.contains("7100") && !rules.contains("fwmark"), "{rules}");
    }
    let tables = inside(new, || String::from_utf8(Command::new("nft").args(["list", "tables"]).output().unwrap().stdout).unwrap());
    assert_eq!(tables, "");
}

/// By sockets of the new pod: one that is bound to the old address, and one without an address, twice.
fn datagrams_are_answered_by_whom_they_were_sent_to(ends: Ends, new: &Path, peer: &Path) {
    let servers = inside(new, || [UdpSocket::bind((ends.old, 7001)).unwrap(), UdpSocket::bind((ends.any(), 7002)).unwrap()]);
    for server in &servers {
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let client = inside(peer, || UdpSocket::bind((ends.peer, 0)).unwrap());
        // From now on it hears nobody else.
        client.connect((ends.old, server.local_addr().unwrap().port())).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        for text in [b"one", b"two"] {
            client.send(text).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (text.as_slice(), ends.peer));
            server.send_to(text, from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 3);
        }
    }
}

#[test]
fn a_narrow_gate_lets_connections_go_on_and_none_begin_and_what_nobody_took_in_is_reset() {
    if !root() {
        return;
    }
    [FOUR, SIX].into_iter().for_each(a_narrow_gate);
}

fn a_narrow_gate(ends: Ends) {
    with_peer(move |old, peer| {
        let (old, peer) = (old.as_path(), peer.as_path());
        in_new_netns({
            let (old, peer) = (old.to_owned(), peer.to_owned());
            move |new| {
                links::make_patch(&new, "old0", [2, 0, 0, 0, 0, 1], &old, "anc0").unwrap();
                links::up_as_pipe(&old, "anc0", 1500).unwrap();
                inside(&new, || ip("link set old0 up"));
                let ears = ears(&new);
                let listener = inside(&old, || TcpListener::bind((ends.old, 7000)).unwrap());
                let mut stream = ends.dial(&peer).unwrap();
                let (mut accepted, _) = listener.accept().unwrap();
                assert!(sockets::unsettled(&old).unwrap().is_empty());
                let mut left = ends.dial(&peer).unwrap();
                assert_eq!(sockets::unsettled(&old).unwrap().len(), 1);

                let gate = Gate::new(&old, "narrow").unwrap();
                let hold = Hold::begin_with_beginnings(&old, "eth0", "anc0").unwrap();
                gate.narrow("eth0").unwrap();
                assert!(!gate.is_shut().unwrap());
                stream.write_all(b"goes on").unwrap();
                accepted.read_exact(&mut [0; 7]).unwrap();
                let late = inside(&peer, || TcpStream::connect_timeout(&(ends.old, 7000).into(), Duration::from_millis(300)));
                assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
                hold.keep_everything().unwrap();
                let known = neighbours::known(&old, "eth0").unwrap();
                gate.shut().unwrap();
                // As when the pod stands still for long: the kernel wants it confirmed, and no question leaves.
                inside(&old, || ip("neigh flush dev eth0"));

                let untaken = sockets::untaken(&old, &[ends.old]).unwrap();
                assert_eq!((untaken.len(), untaken[0].peer.port()), (1, left.local_addr().unwrap().port()));
                gate.connect(&old, "eth0", "anc0", &[], &untaken).unwrap();
                neighbours::remember(&old, "eth0", &known).unwrap();
                sockets::refuse(&old, &untaken).unwrap();
                left.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
                assert_eq!(left.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
                // The SYN, and nothing of what went on.
                assert!(heard(&ears).is_empty());
                assert!(hold.release(&old, &[]).unwrap() > 0);
                let passed = heard(&ears);
                assert!(!passed.is_empty() && passed.iter().all(|segment| segment.begins), "{passed:?}");
                // One that begins at the node itself is not passed on.
                let hold = Hold::begin(&old, "eth0", "anc0").unwrap();
                inside(&peer, || TcpStream::connect_timeout(&(ends.old, 7000).into(), Duration::from_millis(300))).unwrap_err();
                heard(&ears);
                hold.release(&old, &[ends.peer]).unwrap();
                assert!(heard(&ears).is_empty());
                drop((listener, accepted));
                stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing else leaves");
            }
        });
    });
}

/// Hears what the anchor passes on to the new pod.
fn ears(new: &Path) -> crate::packet::PacketSocket {
    let index = links::index_of(new, "old0").unwrap();
    inside(new, || crate::packet::PacketSocket::listening(index, 1 << 20).unwrap())
}

/// A segment of TCP that came in at an interface.
#[derive(Debug)]
struct Segment {
    begins: bool,
    text: String,
}

/// The segments among the frames that came in at an interface; what else there is (the kernel asks for neighbours and routers when it likes) is nobody's business.
fn heard(ears: &crate::packet::PacketSocket) -> Vec<Segment> {
    let mut buffer = vec![0; 70_000];
    let mut segments = Vec::new();
    while let Some(length) = ears.read(&mut buffer).unwrap() {
        let packet = &buffer[crate::packet::VNET_HEADER + 14..length];
        let length_at = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let segment = match packet[0] >> 4 {
            4 if packet[9] == 6 => &packet[20..length_at(2)],
            6 if packet[6] == 6 => &packet[40..40 + length_at(4)],
            _ => continue,
        };
        let text = String::from_utf8_lossy(&segment[usize::from(segment[12] >> 4) * 4..]).into_owned();
        segments.push(Segment { begins: segment[13] & 0x12 == 2, text });
    }
    segments
}

#[test]
fn what_arrives_before_the_freeze_is_the_old_pods_and_what_arrives_after_it_is_kept() {
    if !root() {
        return;
    }
    with_peer(|old, peer| {
        in_new_netns(move |new| {
            let (old, peer) = (old.as_path(), peer.as_path());
            links::make_patch(&new, "old0", [2, 0, 0, 0, 0, 1], old, "anc0").unwrap();
            links::up_as_pipe(old, "anc0", 1500).unwrap();
            inside(&new, || ip("link set old0 up"));
            let listener = inside(old, || TcpListener::bind((FOUR.old, 7000)).unwrap());
            let mut stream = FOUR.dial(peer).unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let ears = ears(&new);

            // As the agent does it: armed while the pod runs, everything is kept from the freeze on, the gate is shut after that.
            let gate = Gate::new(old, "freeze").unwrap();
            let hold = Hold::begin_with_beginnings(old, "eth0", "anc0").unwrap();
            gate.narrow("eth0").unwrap();
            stream.write_all(b"before").unwrap();
            accepted.read_exact(&mut [0; 6]).unwrap();
            hold.keep_everything().unwrap();
            // Between the two: taken in here and kept. The peer is not told twice what it sent once; TCP knows what comes again.
            stream.write_all(b"between").unwrap();
            accepted.read_exact(&mut [0; 7]).unwrap();
            gate.shut().unwrap();
            stream.write_all(b"after").unwrap();
            accepted.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert_eq!(accepted.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "the gate lets something in");
            assert!(heard(&ears).is_empty(), "nothing passes yet");

            gate.connect(old, "eth0", "anc0", &[], &[]).unwrap();
            hold.release(old, &[]).unwrap();
            let passed = heard(&ears);
            let count = |text: &str| passed.iter().filter(|segment| segment.text == text).count();
            assert_eq!((count("before"), count("between")), (0, 1), "{passed:?}");
            // Once as it was sent first, and as often as the peer's kernel has tried again since.
            assert!(count("after") >= 1, "{passed:?}");

            // A hold and a gate that are let go, as after a migration that was taken back: the connection goes on as if nothing had been.
            let hold = Hold::begin_with_beginnings(old, "eth0", "anc0").unwrap();
            hold.keep_everything().unwrap();
            gate.open().unwrap();
            close::elsewhere((hold, gate));
            accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut buffer = [0; 5];
            accepted.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"after");
            stream.write_all(b"goes on").unwrap();
            accepted.read_exact(&mut [0; 7]).unwrap();
        });
    });
}

#[test]
fn nobody_waits_for_a_socket_that_is_closed() {
    if !root() {
        return;
    }
    with_peer(|pod, _| {
        let times = |close: fn(Gate)| {
            let mut times: Vec<Duration> = (0..9)
                .map(|_| {
                    let gate = Gate::new(&pod, "close").unwrap();
                    gate.shut().unwrap();
                    let started = Instant::now();
                    close(gate);
                    started.elapsed()
                })
                .collect();
            times.sort();
            times[4]
        };
        let (here, elsewhere) = (times(drop), times(close::elsewhere));
        println!("closed here: {here:?}, elsewhere: {elsewhere:?}");
        Gate::new(&pod, "close").unwrap().open().unwrap();
    });
}

#[test]
fn an_old_address_lives_in_a_new_pod_of_the_same_node() {
    if !root() {
        return;
    }
    [FOUR, SIX].into_iter().for_each(by_a_pair);
}

fn by_a_pair(ends: Ends) {
    with_peer(move |old, peer| {
        in_new_netns(move |new| {
            the_old_address_lives_in_the_new_pod(ends, &old, &new, &peer, |mirror| {
                links::make_patch(&new, &mirror.device, mirror.old.mac, &old, &links::free_name(&old, "anc").unwrap()).unwrap();
            });
        });
    });
}

#[test]
fn an_old_address_lives_in_a_new_pod_behind_a_tunnel() {
    if !root() {
        return;
    }
    [FOUR, SIX].into_iter().for_each(by_a_plain_tunnel);
}

#[test]
fn an_old_address_lives_in_a_new_pod_behind_wireguard() {
    if !root() {
        return;
    }
    in_new_netns(|node| match inside(&node, wireguard::raise) {
        Err(error) => eprintln!("skipped: {error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()),
        Ok(_) => {
            [FOUR, SIX].into_iter().for_each(|ends| by_a_tunnel(ends, by_wireguard));
            (0..2).for_each(|_| inside(&node, || wireguard::remove().unwrap()));
            assert!(links::list(&node).unwrap().iter().all(|link| link.name != wireguard::DEVICE));
        }
    });
}

/// Both ends of a tunnel between two nodes, whose namespaces and addresses are given.
type Ways = fn((&Path, IpAddr), (&Path, IpAddr)) -> (links::Tunnel, links::Tunnel);

fn by_a_plain_tunnel(ends: Ends) {
    by_a_tunnel(ends, |(_, a), (_, b)| (links::Tunnel::plain(77, a, b), links::Tunnel::plain(77, b, a)));
}

fn by_wireguard((node_a, a): (&Path, IpAddr), (node_b, b): (&Path, IpAddr)) -> (links::Tunnel, links::Tunnel) {
    let raise = || wireguard::raise().unwrap();
    let ((key_a, none), (key_b, _)) = (inside(node_a, raise), inside(node_b, raise));
    assert!(none.is_empty() && key_a != key_b);
    inside(node_a, || wireguard::admit(&key_b, b).unwrap());
    inside(node_b, || wireguard::admit(&key_a, a).unwrap());
    assert_eq!(inside(node_a, raise), (key_a, vec![key_b]), "what is there is taken up");
    inside(node_a, || wireguard::admit(&[5; 32], b).unwrap());
    inside(node_a, || wireguard::dismiss(&[5; 32]).unwrap());
    assert_eq!(inside(node_a, raise).1, [key_b]);
    (links::Tunnel::encrypted(77, &key_a, &key_b), links::Tunnel::encrypted(77, &key_b, &key_a))
}

fn by_a_tunnel(ends: Ends, ways: Ways) {
    in_new_netns(move |node_a| {
        on_a_wire_to(&node_a.clone(), move |node_b| {
            with_peer(move |old, peer| {
                in_new_netns(move |new| {
                    the_old_address_lives_in_the_new_pod(ends, &old, &new, &peer, |mirror| {
                        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
                        let (there, here) = ways((&node_a, a), (&node_b, b));
                        inside(&node_a, || links::make_tunnel(&old, "anc0", there, None).unwrap());
                        let again = inside(&node_a, || links::make_tunnel(&old, "anc1", there, None).unwrap_err());
                        assert!(again.is_taken(), "{again}");
                        inside(&node_b, || links::make_tunnel(&new, &mirror.device, here, Some(mirror.old.mac)).unwrap());
                    });
                });
            });
        });
    });
}

/// A wire from `node_a` with 192.0.2.1 to a new namespace with 192.0.2.2, in which `test` runs.
fn on_a_wire_to(node_a: &Path, test: impl FnOnce(PathBuf) + Send + 'static) {
    let node_a = node_a.to_owned();
    in_new_netns(move |node_b| {
        let tid = nix::unistd::gettid();
        inside(&node_a, || {
            ip(&format!("link add wire type veth peer name wire netns {tid}"));
            ip("addr add 192.0.2.1/24 dev wire");
            ip("link set wire up");
        });
        ip("addr add 192.0.2.2/24 dev wire");
        ip("link set wire up");
        test(node_b);
    });
}
