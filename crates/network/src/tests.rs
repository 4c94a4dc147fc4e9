//! Against the real kernel, as root, in network namespaces that the tests make themselves; they vanish with the threads that made them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{process, thread};

use nix::sched::{CloneFlags, unshare};

use crate::{Gate, addresses, gate, sockets};

pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to make network namespaces");
    }
    root
}

/// Runs `test` on a thread with a network namespace of its own, whose file it is given.
pub(crate) fn in_new_netns<T: Send + 'static>(test: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let netns = PathBuf::from(format!("/proc/{}/task/{}/ns/net", process::id(), nix::unistd::gettid()));
        ip("link set lo up");
        test(netns)
    })
    .join()
    .unwrap()
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pod's namespace with eth0 = 10.99.0.2 / fd99::2, and a peer's with 10.99.0.1 / fd99::1; `test` runs in the pod's and is given both files.
pub(crate) fn with_peer<T: Send + 'static>(test: impl FnOnce(PathBuf, PathBuf) -> T + Send + 'static) -> T {
    in_new_netns(move |pod| {
        let (made, peer_made) = std::sync::mpsc::channel();
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let peer = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            made.send((nix::unistd::gettid(), PathBuf::from(format!("/proc/{}/task/{}/ns/net", process::id(), nix::unistd::gettid())))).unwrap();
            finished.recv().unwrap_or_default();
        });
        let (tid, peer_netns) = peer_made.recv().unwrap();
        ip(&format!("link add eth0 type veth peer name eth0 netns {tid}"));
        for line in ["addr add 10.99.0.2/24 dev eth0", "-6 addr add fd99::2/64 dev eth0 nodad", "link set eth0 up"] {
            ip(line);
        }
        crate::netns::inside(&peer_netns, || {
            for line in ["addr add 10.99.0.1/24 dev eth0", "-6 addr add fd99::1/64 dev eth0 nodad", "link set eth0 up"] {
                ip(line);
            }
            Ok(())
        })
        .unwrap();
        let result = test(pod, peer_netns);
        drop(finish);
        peer.join().unwrap();
        result
    })
}

fn connect(netns: &std::path::Path, to: &str) -> Result<TcpStream, std::io::Error> {
    connect_within(netns, to, Duration::from_millis(700))
}

/// As `connect`, for a link that has just come up: a SYN that was lost is sent again after a second.
fn connect_within(netns: &std::path::Path, to: &str, patience: Duration) -> Result<TcpStream, std::io::Error> {
    let to = to.parse().unwrap();
    crate::netns::inside(netns, || Ok(TcpStream::connect_timeout(&to, patience))).unwrap()
}

#[test]
fn a_shut_gate_holds_traffic_and_an_open_one_lets_it_go_on() {
    if !root() {
        return;
    }
    with_peer(|pod, peer| {
        let listener = TcpListener::bind("10.99.0.2:7000").unwrap();
        let mut outside = connect_within(&peer, "10.99.0.2:7000", Duration::from_secs(10)).unwrap();
        let (mut inside, _) = listener.accept().unwrap();
        outside.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        inside.set_read_timeout(Some(Duration::from_millis(300))).unwrap();

        let gate = Gate::new(&pod, "test-1").unwrap();
        assert_eq!(gate.devices(), ["eth0"]);
        assert!(!gate.is_shut().unwrap());
        let started = Instant::now();
        gate.shut().unwrap();
        println!("shut: {:?}", started.elapsed());
        gate.shut().unwrap();
        assert!(gate.is_shut().unwrap());
        assert_eq!(gate::leftovers(&pod).unwrap(), ["test-1"]);

        // Neither direction passes, new connections neither: no answer at all, no RST.
        outside.write_all(b"ping").unwrap();
        inside.write_all(b"pong").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(inside.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(outside.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(connect(&peer, "10.99.0.2:7000").unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(connect(&peer, "[fd99::2]:7001").unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(connect(&peer, "10.99.0.2:1").unwrap_err().kind(), ErrorKind::TimedOut);
        // Loopback inside the pod is untouched, also by the pod's own address.
        let local = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(local.local_addr().unwrap()).unwrap();
        TcpStream::connect("10.99.0.2:7000").unwrap();

        let started = Instant::now();
        gate.open().unwrap();
        println!("open: {:?}", started.elapsed());
        gate.open().unwrap();
        assert!(!gate.is_shut().unwrap());
        assert!(gate::leftovers(&pod).unwrap().is_empty());
        // Nothing was lost: TCP sends again what the gate dropped.
        inside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        outside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        inside.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"ping");
        outside.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pong");
    });
}

#[test]
fn a_gate_of_a_dead_agent_is_found_and_opened_by_its_id() {
    if !root() {
        return;
    }
    with_peer(|pod, _| {
        Gate::new(&pod, "dead").unwrap().shut().unwrap();
        for id in gate::leftovers(&pod).unwrap() {
            Gate::new(&pod, &id).unwrap().open().unwrap();
        }
        assert!(gate::leftovers(&pod).unwrap().is_empty());
    });
}

#[test]
fn the_node_itself_is_never_cut_off() {
    let refused = Gate::new(std::path::Path::new("/proc/self/ns/net"), "node").unwrap_err();
    assert!(!root() || refused.reason() == "HostNetwork", "{refused}");
}

#[test]
fn shutting_takes_far_less_than_the_budget() {
    if !root() {
        return;
    }
    with_peer(|pod, _| {
        let mut times: Vec<Duration> = (0..30)
            .map(|_| {
                let gate = Gate::new(&pod, "speed").unwrap();
                let started = Instant::now();
                gate.shut().unwrap();
                let took = started.elapsed();
                gate.open().unwrap();
                took
            })
            .collect();
        times.sort();
        println!("shut: min {:?} median {:?} max {:?}", times[0], times[15], times[29]);
    });
}

#[test]
fn an_address_comes_and_goes_without_a_trace() {
    if !root() {
        return;
    }
    with_peer(|pod, _| {
        let routes = || {
            let v4 = Command::new("ip").args(["route", "show", "table", "all"]).output().unwrap().stdout;
            let v6 = Command::new("ip").args(["-6", "route", "show", "table", "all"]).output().unwrap().stdout;
            (String::from_utf8(v4).unwrap(), String::from_utf8(v6).unwrap())
        };
        let before = routes();
        for text in ["10.55.0.9", "fd55::9"] {
            let ip: IpAddr = text.parse().unwrap();
            addresses::remove(&pod, ip).unwrap();
            addresses::add_temporary(&pod, ip).unwrap();
            addresses::add_temporary(&pod, ip).unwrap();
            assert!(addresses::list(&pod).unwrap().contains(&("lo".into(), ip)));
            TcpListener::bind((ip, 0)).unwrap();
            addresses::remove(&pod, ip).unwrap();
            addresses::remove(&pod, ip).unwrap();
            assert!(!addresses::list(&pod).unwrap().iter().any(|(_, found)| *found == ip));
        }
        assert_eq!(before, routes());
        assert!(addresses::list(&pod).unwrap().contains(&("eth0".into(), "10.99.0.2".parse().unwrap())));
    });
}

#[test]
fn what_is_missing_of_some_sockets_is_told() {
    if !root() {
        return;
    }
    with_peer(|pod, peer| {
        use sockets::{Endpoint, Protocol};
        let listener = TcpListener::bind("10.99.0.2:7000").unwrap();
        let dual = TcpListener::bind("[::]:7001").unwrap();
        let _peers = ["10.99.0.2:7000", "10.99.0.2:7001", "[fd99::2]:7001"].map(|to| connect_within(&peer, to, Duration::from_secs(10)).unwrap());
        let accepted = [listener.accept().unwrap().0, dual.accept().unwrap().0, dual.accept().unwrap().0];
        let udp = UdpSocket::bind("0.0.0.0:7002").unwrap();
        let connected = UdpSocket::bind("10.99.0.2:0").unwrap();
        connected.connect("10.99.0.1:9").unwrap();
        let plain = |address: std::net::SocketAddr| std::net::SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut wanted: Vec<Endpoint> = accepted
            .iter()
            .map(|stream| Endpoint { protocol: Protocol::Tcp, local: plain(stream.local_addr().unwrap()), remote: Some(plain(stream.peer_addr().unwrap())) })
            .collect();
        wanted.extend([&listener, &dual].map(|one| Endpoint { protocol: Protocol::Tcp, local: one.local_addr().unwrap(), remote: None }));
        wanted.push(Endpoint { protocol: Protocol::Udp, local: udp.local_addr().unwrap(), remote: None });
        wanted.push(Endpoint { protocol: Protocol::Udp, local: connected.local_addr().unwrap(), remote: Some("10.99.0.1:9".parse().unwrap()) });
        let started = Instant::now();
        assert_eq!(sockets::missing(&pod, &wanted).unwrap(), []);
        println!("{} sockets: {:?}", wanted.len(), started.elapsed());
        // The listener that the kernel names instead is no connection.
        let gone = Endpoint { remote: Some("10.99.0.1:1".parse().unwrap()), ..wanted[0] };
        assert_eq!(sockets::missing(&pod, &[gone]).unwrap(), [gone]);
        assert_eq!(gone.to_string(), "tcp 10.99.0.2:7000 → 10.99.0.1:1");
        // Twice what is there once; and what went.
        assert_eq!(sockets::missing(&pod, &[wanted[3], wanted[3]]).unwrap(), [wanted[3]]);
        drop((udp, accepted));
        let left = sockets::missing(&pod, &wanted).unwrap();
        assert_eq!(left.iter().filter(|one| one.protocol == Protocol::Udp).map(ToString::to_string).collect::<Vec<_>>(), ["udp 0.0.0.0:7002"]);
    });
}

#[test]
fn a_gate_that_parts_lets_resets_out_and_nothing_else() {
    if !root() {
        return;
    }
    with_peer(|pod, peer| {
        let listener = TcpListener::bind("[::]:7001").unwrap();
        for (to, ip) in [("10.99.0.2:7001", "10.99.0.2"), ("[fd99::2]:7001", "fd99::2")] {
            let mut client = connect_within(&peer, to, Duration::from_secs(10)).unwrap();
            let mut server = listener.accept().unwrap().0;
            let gate = Gate::new(&pod, "part").unwrap();
            gate.part().unwrap();
            server.write_all(b"x").unwrap();
            client.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
            assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "{to}");
            sockets::destroy(&pod, ip.parse().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{to}");
            gate.open().unwrap();
        }
    });
}

#[test]
fn destroyed_connections_fail_at_once_and_the_peer_hears_nothing_behind_a_gate() {
    if !root() {
        return;
    }
    with_peer(|pod, peer| {
        let ip: IpAddr = "10.99.0.2".parse().unwrap();
        let v4 = TcpListener::bind("10.99.0.2:7000").unwrap();
        let dual = TcpListener::bind("[::]:7001").unwrap();
        let mut peers = ["10.99.0.2:7000", "10.99.0.2:7001", "[fd99::2]:7001"].map(|to| connect_within(&peer, to, Duration::from_secs(10)).unwrap());
        let mut first = v4.accept().unwrap().0;
        let mut mapped = dual.accept().unwrap().0;
        let v6 = dual.accept().unwrap().0;
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut local = TcpStream::connect(loopback.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("10.99.0.2:0").unwrap();
        udp.connect("10.99.0.1:9").unwrap();
        assert_eq!(sockets::established(&pod, ip).unwrap(), 2);

        // A reader that sleeps in the kernel is woken with an error.
        let mut sleeping = first.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let result = sleeping.read(&mut [0; 1]);
            (result, Instant::now())
        });
        thread::sleep(Duration::from_millis(100));
        let gate = Gate::new(&pod, "destroy").unwrap();
        gate.shut().unwrap();
        let started = Instant::now();
        let destroyed = sockets::destroy(&pod, ip).unwrap();
        println!("destroy: {:?}", started.elapsed());
        assert_eq!(destroyed, sockets::Destroyed { established: 2, other: 1 });
        let (result, at) = reader.join().unwrap();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert!(at.duration_since(started) < Duration::from_secs(5), "who is not woken sleeps for ever");
        assert!(mapped.write_all(b"x").is_err());
        assert!(first.write_all(b"x").is_err());
        assert_eq!(sockets::established(&pod, ip).unwrap(), 0);
        assert_eq!(sockets::established(&pod, "fd99::2".parse().unwrap()).unwrap(), 1);
        local.write_all(b"x").unwrap();
        drop(v6);
        // The peers have not heard of it.
        for stream in &mut peers[..2] {
            stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        gate.open().unwrap();
        // The listeners live: a new connection is accepted.
        connect(&peer, "10.99.0.2:7000").unwrap();
        v4.accept().unwrap();
    });
}
