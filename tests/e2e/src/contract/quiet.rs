//! Connections that say something only when they are asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::shell::wait_until;
use godwit_demo::talker::{self, Asker, PATIENCE, connect};
use sha2::{Digest, Sha256};

use super::{Stage, Thing, refused};

const MANY: usize = 2000;
/// Bytes that the server sends and nobody reads until the end.
const UNREAD_THERE: usize = 300_000;
/// Bytes that are sent and that the server does not read until the end.
const UNREAD_HERE: usize = 60_000;
/// Bytes of a turn.
const PIECE: usize = 10_000;
/// A datagram without an answer is sent again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// Says nothing until the end.
struct Idle(Asker);

pub fn idle(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    Ok(Box::new(Idle(Asker::new(stage.server)?)))
}

impl Thing for Idle {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        Ok(())
    }

    fn whole(mut self: Box<Self>, _: &Stage<'_>) -> Result<()> {
        self.0.ask()
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.whole(stage))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// Each asks once a turn.
struct Askers(Vec<Asker>);

pub fn many(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    Ok(Box::new(Askers((0..MANY).map(|_| Asker::new(stage.server)).collect::<Result<_>>()?)))
}

pub fn by_service(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    Ok(Box::new(Askers(vec![stage.by_service()?])))
}

/// The pod's own connection to another pod, by its Service: who answers is the other one.
pub fn to_service(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let there = stage.service("listener")?;
    let what = format!("relay {} {}", there.ip(), there.port());
    let asker = wait_until("the other pod's Service answers", super::MINUTE, || Ok(Asker::by(stage.server, &what).ok()))?;
    ensure!(asker.identity() != stage.identity, "it talks to itself");
    Ok(Box::new(Askers(vec![asker])))
}

impl Thing for Askers {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        let all = self.0.len();
        self.0.iter_mut().enumerate().try_for_each(|(index, asker)| asker.ask().with_context(|| format!("connection {index} of {all}")))
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.turn(stage)
    }

    /// Every one of them.
    fn ends(mut self: Box<Self>, _: &Stage<'_>) -> Result<()> {
        let all = self.0.len();
        self.0.iter_mut().enumerate().try_for_each(|(index, asker)| refused(|| asker.ask()).with_context(|| format!("connection {index} of {all}")))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// A question on a connection that the kernel of the pod has accepted and its program has not: it waits for "go".
struct Backlog(TcpStream);

pub fn backlog(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    connect(SocketAddr::new(stage.server.ip(), talker::PORT + 1), "ask").map(|stream| Box::new(Backlog(stream)) as Box<dyn Thing>)
}

impl Thing for Backlog {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        Ok(())
    }

    /// Nothing is sent: a reset is heard, an answer is none.
    fn whole(mut self: Box<Self>, _: &Stage<'_>) -> Result<()> {
        self.0.read(&mut [0]).map(drop).context("a connection that waited to be taken in")
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.whole(stage))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// Both queues are full until the end.
struct Unread(TcpStream);

pub fn unread(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let mut stream = connect(stage.server, &format!("full {UNREAD_THERE} {UNREAD_HERE}"))?;
    stream.write_all(&bytes(UNREAD_HERE))?;
    Ok(Box::new(Unread(stream)))
}

impl Thing for Unread {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        Ok(())
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        said(stage.server, "go")?;
        let mut there = vec![0; UNREAD_THERE];
        self.0.read_exact(&mut there).context("what the server had sent and nobody read")?;
        let block = Sha256::digest(b"full");
        ensure!(there.iter().enumerate().all(|(index, byte)| *byte == block[index % block.len()]), "what the server had sent arrived damaged");
        let mut digest = String::new();
        BufReader::new(&self.0).read_line(&mut digest).context("what the server had not read")?;
        ensure!(digest.trim() == hex(&bytes(UNREAD_HERE)), "what the server had not read arrived damaged");
        Ok(())
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.whole(stage))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// The server has ended its direction; some bytes a turn in the other one.
struct Mute {
    stream: TcpStream,
    sent: Vec<u8>,
}

pub fn mute(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let mut stream = connect(stage.server, "mute")?;
    ensure!(stream.read(&mut [0])? == 0, "the server said something");
    Ok(Box::new(Mute { stream, sent: Vec::new() }))
}

impl Thing for Mute {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        let piece = bytes(PIECE);
        self.stream.write_all(&piece)?;
        self.sent.extend(piece);
        Ok(())
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.turn(stage)?;
        self.stream.shutdown(Shutdown::Write)?;
        let wanted = format!("{} {}", self.sent.len(), hex(&self.sent));
        wait_until("all bytes of the half open connection", SILENT, || Ok((said(stage.server, "heard")? == wanted).then_some(())))
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.whole(stage))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// After this time what has not come will not.
const SILENT: Duration = Duration::from_secs(8);

/// Questions by datagrams, which may be lost.
struct Datagrams {
    socket: UdpSocket,
    asked: u64,
    identity: String,
}

pub fn datagrams(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let any: IpAddr = if stage.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // It hears nobody else: an answer from another address is none.
    socket.connect(stage.server)?;
    socket.set_read_timeout(Some(AGAIN))?;
    Ok(Box::new(Datagrams { socket, asked: 0, identity: stage.identity.clone() }))
}

impl Thing for Datagrams {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        self.asked += 1;
        let question = format!("question {}\n", self.asked);
        let (end, mut buffer) = (Instant::now() + SILENT, [0; 256]);
        while Instant::now() < end {
            // One that is refused (ICMP) is told at the next call.
            let _ = self.socket.send(question.as_bytes());
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                ensure!(answer.starts_with(&self.identity), "another process answers: {answer:?}");
                if answer.ends_with(&format!(" {question}")) {
                    return Ok(());
                }
            }
        }
        bail!("no datagram was answered")
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.turn(stage)
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.whole(stage))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// A connection that the program has with itself.
struct Inside {
    name: &'static str,
    turns: u64,
}

pub fn unix(_: &Stage<'_>) -> Result<Box<dyn Thing>> {
    Ok(Box::new(Inside { name: "unix", turns: 0 }))
}

/// Over the loopback interface.
pub fn ipv6(_: &Stage<'_>) -> Result<Box<dyn Thing>> {
    Ok(Box::new(Inside { name: "ipv6", turns: 0 }))
}

impl Thing for Inside {
    fn turn(&mut self, stage: &Stage<'_>) -> Result<()> {
        let before = self.turns;
        wait_until(&format!("more than {before} turns"), PATIENCE, || {
            let answer = said(stage.server, &format!("inside {}", self.name))?;
            let (identity, turns) = answer.split_once(' ').context("not an answer")?;
            ensure!(identity == stage.identity, "another process answers");
            self.turns = turns.parse()?;
            Ok((self.turns > before).then_some(()))
        })
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.turn(stage)?;
        self.turn(stage)
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.whole(stage))
    }

    fn stall(&self) -> Option<Duration> {
        None
    }
}

/// What the program answers to one line.
fn said(server: SocketAddr, what: &str) -> Result<String> {
    let mut answer = String::new();
    BufReader::new(connect(server, what)?).read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 13 % 251).to_le_bytes()[0]).collect()
}

fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
