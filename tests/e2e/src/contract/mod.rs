//! What becomes of a pod's connections when it moves: one list of behaviours, and what each way of handing them over promises for it.
//!
//! ```text
//!   behaviour        opened, goes on ─▶ move ─▶ goes on ─▶ move back ─▶ goes on ─▶ whole         a way that keeps connections
//!                                       └─────▶ its peer is told at once; who is new is served   a way that closes them
//! ```

mod flow;
mod quiet;
mod six;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::lab::{CLIENT_ADDRESS, CLIENT_ADDRESS_SIX};
use godwit_demo::objects::service;
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_demo::talker::{self, Asker, PORT};
use serde_json::Value;

use crate::Case;
use crate::case::MINUTE;

/// What has ended must be known to its peer within this time: without being told it would take minutes.
const SOON: Duration = Duration::from_secs(10);

/// Within this time old pods go. A flow of datagrams keeps one for as long as the kernel remembers it: 2 minutes.
const FORGOTTEN: Duration = Duration::from_secs(180);

/// A way of handing connections over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The old address lives on through the old pod's sandbox.
    Anchor,
    /// Nothing is handed over.
    Close,
    /// The old address moves into the new pod.
    KeepAddress,
}

impl Driver {
    /// As the command line names it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Anchor => "anchor",
            Self::Close => "close",
            Self::KeepAddress => "keep-address",
        }
    }
}

/// What a driver promises for a behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Nothing is lost, nothing comes twice, nobody is told anything.
    GoesOn,
    /// The peer is told at once.
    Ends,
    /// It is not said.
    Nothing,
}

/// A kind of connection.
#[derive(Clone, Copy)]
pub struct Behaviour {
    /// In words.
    pub name: &'static str,
    open: fn(&Stage<'_>) -> Result<Box<dyn Thing>>,
    /// With [`Driver::Anchor`] and [`Driver::KeepAddress`], which promise the same, and with [`Driver::Close`].
    promises: [Promise; 2],
}

/// An open connection, or several.
pub trait Thing: Send {
    /// It goes on. Nothing to do for what is to be silent.
    ///
    /// # Errors
    /// When it does not.
    fn turn(&mut self, stage: &Stage<'_>) -> Result<()>;

    /// It goes on for the last time: nothing that was said was lost.
    ///
    /// # Errors
    /// What was.
    fn whole(self: Box<Self>, stage: &Stage<'_>) -> Result<()>;

    /// Its peer is told at once that it has ended.
    ///
    /// # Errors
    /// When it goes on, or nobody is told.
    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()>;

    /// Longest pause that somebody saw since this was asked last.
    fn stall(&self) -> Option<Duration>;
}

/// The same for every driver, but for those that many connections are too many for.
pub const KINDS: [Behaviour; 14] = [
    Behaviour { name: "idle", open: quiet::idle, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "request and response", open: flow::asking, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "bulk both ways", open: flow::bulk, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "outgoing", open: flow::outgoing, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "unread in both queues", open: quiet::unread, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "half open, the client is done", open: flow::half, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "half open, the server is done", open: quiet::mute, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "one after the other", open: flow::newcomers, promises: [Promise::GoesOn, Promise::Nothing] },
    // No program has it, so it does not move with one.
    Behaviour { name: "not taken in", open: quiet::backlog, promises: [Promise::Ends, Promise::Nothing] },
    Behaviour { name: "by a Service", open: quiet::by_service, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "to a Service", open: quiet::to_service, promises: [Promise::GoesOn, Promise::Ends] },
    Behaviour { name: "datagrams", open: quiet::datagrams, promises: [Promise::GoesOn, Promise::Nothing] },
    Behaviour { name: "unix socket", open: quiet::unix, promises: [Promise::GoesOn, Promise::GoesOn] },
    Behaviour { name: "IPv6 inside the pod", open: quiet::ipv6, promises: [Promise::GoesOn, Promise::GoesOn] },
];

/// Those over IPv6, where the pods have it.
pub const OVER_SIX: [Behaviour; 11] = [
    over_six::<0>("IPv6, idle"),
    over_six::<1>("IPv6, request and response"),
    over_six::<2>("IPv6, bulk both ways"),
    over_six::<3>("IPv6, outgoing"),
    over_six::<4>("IPv6, unread in both queues"),
    over_six::<5>("IPv6, half open"),
    over_six::<7>("IPv6, one after the other"),
    over_six::<8>("IPv6, not taken in"),
    over_six::<9>("IPv6, by a Service"),
    over_six::<10>("IPv6, to a Service"),
    over_six::<11>("IPv6, datagrams"),
];

/// One of [`KINDS`] over IPv6: what is promised does not depend on the family.
const fn over_six<const KIND: usize>(name: &'static str) -> Behaviour {
    Behaviour { name, open: six::open::<KIND>, ..KINDS[KIND] }
}

/// Those on which something is said all the time.
pub const FLOWING: [Behaviour; 3] = [KINDS[1], KINDS[2], KINDS[3]];

/// Two thousand of the first kind.
pub const MANY: Behaviour = Behaviour { name: "many", open: quiet::many, promises: [Promise::GoesOn, Promise::Ends] };

/// The pod that serves, and whom it talks to.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The run.
    pub case: &'a Case,
    /// The pod that serves, as it is called now.
    pub pod: String,
    /// The address that it has now.
    pub server: SocketAddr,
    /// The same of IPv6, where the lab has it.
    pub server_six: Option<SocketAddr>,
    /// An address of this machine that it can reach.
    pub own: &'static str,
    identity: String,
}

impl<'a> Stage<'a> {
    /// Starts the pod, a Service for it, and another pod with a Service, on the other node.
    ///
    /// # Errors
    /// When they do not start.
    pub fn set(case: &'a Case) -> Result<Self> {
        let pod = case.start(talker::pod("talker"))?;
        case.start_on(talker::pod("listener"), &case.pair.b)?;
        case.apply(&["talker", "listener"].map(|name| six::dual(service(name, PORT))))?;
        for name in ["talker", "listener"] {
            case.good(name, talker::CONTAINER, 0)?;
        }
        let server = address(case, &pod)?;
        let identity = Asker::new(server)?.identity().to_owned();
        let server_six = six::address(case, &pod)?;
        Ok(Self { case, pod, server, server_six, own: CLIENT_ADDRESS, identity })
    }

    /// A connection through a Service, as soon as the nodes know its endpoint.
    ///
    /// # Errors
    /// When they do not.
    pub fn by_service(&self) -> Result<Asker> {
        let address = self.service("talker")?;
        wait_until("the Service answers", MINUTE, || Ok(Asker::new(address).ok()))
    }

    fn service(&self, name: &str) -> Result<SocketAddr> {
        if self.server.is_ipv6() { six::service(self.case, name) } else { pods::service_address(&self.case.lab, &self.case.namespace, name) }
    }

    /// The same stage, all over IPv6.
    ///
    /// # Errors
    /// When there is none.
    fn six(&self) -> Result<Stage<'a>> {
        let server = self.server_six.context("the pod has no IPv6 address")?;
        Ok(Stage { case: self.case, pod: self.pod.clone(), server, server_six: self.server_six, own: CLIENT_ADDRESS_SIX, identity: self.identity.clone() })
    }

    /// All kinds that there can be here.
    #[must_use]
    pub fn kinds(&self) -> Vec<Behaviour> {
        if self.server_six.is_some() {
            return KINDS.into_iter().chain(OVER_SIX).collect();
        }
        self.case.note("not tried: connections over IPv6, which the pods of this network do not have");
        KINDS.to_vec()
    }

    /// Opens connections and lets each go on for a turn.
    ///
    /// # Errors
    /// When one does not.
    pub fn open(&self, behaviours: &[Behaviour]) -> Result<Open> {
        let things = behaviours.iter().map(|behaviour| Ok((*behaviour, (behaviour.open)(self).with_context(|| behaviour.name)?)));
        let mut open = Open(things.collect::<Result<_>>()?);
        open.turn(self)?;
        Ok(open)
    }

    /// The pod has moved, under this name.
    ///
    /// # Errors
    /// When another process answers, by its address or by its Service.
    pub fn moved(&mut self, pod: String) -> Result<()> {
        self.server = address(self.case, &pod)?;
        self.server_six = six::address(self.case, &pod)?;
        self.pod = pod;
        self.answers()?;
        if self.server_six.is_some() { self.six()?.answers().context("over IPv6") } else { Ok(()) }
    }

    fn answers(&self) -> Result<()> {
        for (what, asker) in [("its address", Asker::new(self.server)?), ("its Service", self.by_service()?)] {
            ensure!(asker.identity() == self.identity, "another process answers by {what}");
        }
        quiet::datagrams(self)?.turn(self).context("datagrams to its address")
    }

    /// Moves the pod to the other node; its source may stay for its connections.
    ///
    /// # Errors
    /// When it does not run and serve there.
    pub fn move_by(&mut self, driver: Driver) -> Result<()> {
        let pod = self.case.move_kept_by(&self.pod, &["--network", driver.option()])?;
        self.moved(pod)
    }

    /// Waits until no anchor of the namespace is left, and of all pods that served only the one that runs.
    ///
    /// # Errors
    /// When one stays.
    pub fn all_retired(&self) -> Result<()> {
        all_retired(self.case, &self.pod)
    }
}

/// The address of a pod that serves.
///
/// # Errors
/// When it has none.
pub fn address(case: &Case, pod: &str) -> Result<SocketAddr> {
    let ip = case.pod(pod)?["status"]["podIP"].as_str().context("the pod has no address")?.parse()?;
    Ok(SocketAddr::new(ip, PORT))
}

/// Waits until no anchor of the namespace is left, and of all pods that moved only this one.
///
/// # Errors
/// When one stays.
pub fn all_retired(case: &Case, pod: &str) -> Result<()> {
    // A connection of which one side is gone may live for a minute more (tcp(7), tcp_fin_timeout), and only then does its anchor go.
    let mut left = String::new();
    let gone = wait_until("the old pods gone", FORGOTTEN, || {
        let records = case.lab.get(&["podmigrations", "-n", &case.namespace])?;
        let is_active = |record: &&Value| record["status"]["anchor"]["active"] == true;
        let anchors: Vec<String> = records["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(is_active)
            .map(|record| format!("{}: {}", pods::name(record), record["status"]["anchor"]))
            .collect();
        let all = pods::all(&case.lab, &case.namespace)?;
        let others: Vec<&str> = all.iter().map(pods::name).filter(|name| ![pod, "listener"].contains(name)).collect();
        left = format!("{} pods, of them {pod} is to stay and {others:?} to go; active anchors: {anchors:?}", all.len());
        Ok((anchors.is_empty() && others.is_empty() && all.iter().any(|one| pods::name(one) == pod)).then_some(()))
    });
    gone.with_context(|| format!("{left}; {}", sockets(case, pod)))
}

/// TCP sockets of a pod that serves, as its kernel lists them, but those that listen and those that are only remembered (states 0A and 06).
fn sockets(case: &Case, pod: &str) -> String {
    let listed = case.exec(pod, talker::CONTAINER, &["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
    let lines = |text: String| {
        text.lines().filter(|line| ![Some("0A"), Some("06")].contains(&line.split_whitespace().nth(3))).map(str::trim).collect::<Vec<_>>().join("\n")
    };
    listed.map_or_else(|error| format!("{error:#}"), |text| format!("its sockets:\n{}", lines(text)))
}

/// Open connections of all kinds.
pub struct Open(Vec<(Behaviour, Box<dyn Thing>)>);

impl Open {
    /// Every one goes on.
    ///
    /// # Errors
    /// When one does not.
    pub fn turn(&mut self, stage: &Stage<'_>) -> Result<()> {
        for (behaviour, thing) in &mut self.0 {
            thing.turn(stage).with_context(|| format!("the connection “{}”", behaviour.name))?;
        }
        Ok(())
    }

    /// Longest pause of each kind that has a pace since this was asked last.
    #[must_use]
    pub fn stalls(&self) -> Vec<(&'static str, Duration)> {
        self.0.iter().filter_map(|(behaviour, thing)| Some((behaviour.name, thing.stall()?))).collect()
    }

    /// The promises of a driver are kept: after the last move, or after the only one.
    ///
    /// # Errors
    /// What is broken.
    pub fn kept(self, driver: Driver, stage: &Stage<'_>) -> Result<()> {
        let mut broken = Vec::new();
        for (behaviour, thing) in self.0 {
            let kept = match behaviour.promises[usize::from(driver == Driver::Close)] {
                Promise::GoesOn => thing.whole(stage),
                Promise::Ends => thing.ends(stage),
                Promise::Nothing => Ok(()),
            };
            broken.extend(kept.err().map(|why| format!("“{}”: {why:#}", behaviour.name)));
        }
        ensure!(broken.is_empty(), "{driver:?} does not keep its promises:\n{}", broken.join("\n"));
        Ok(())
    }
}

/// What is asked for must be refused, and soon.
fn refused(asked: impl FnOnce() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    if asked().is_ok() {
        bail!("it went on");
    }
    ensure!(begin.elapsed() < SOON, "its peer heard of the end only after {:?}", begin.elapsed());
    Ok(())
}
