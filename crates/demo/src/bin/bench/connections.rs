//! What connections cost: how long a pod stands still that has many of them, how long one of their clients waits, and what the way to the old address (through the old
//! node's sandbox, which is the anchor, or on the network segment) takes from throughput and round trip.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::migrate::migrate_with;
use godwit_demo::numbers::Row;
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_demo::talker::{self, Asker, connect};

use crate::report::FREEZE;
use crate::stage;

const NAMESPACE: &str = "godwit-bench-connections";
const MINUTE: Duration = Duration::from_secs(60);
/// How the connections are treated, and how many there are.
const CASES: [(&str, &[usize]); 3] = [("anchor", &[0, 1, 100, 2000]), (SEGMENT, &[0, 1, 100, 2000]), (CLOSE, &[0, 100])];
/// The number that is measured if only one is.
const USUAL: usize = 100;
/// Ends them.
const CLOSE: &str = "close";
/// Needs both pods on one network segment, which the lab's bridge network is.
const SEGMENT: &str = "keep-address";
/// The client asks again after this time.
const PACE: Duration = Duration::from_millis(1);
/// Bytes of a measurement of throughput, round trips of one of latency.
const STREAM: usize = 100_000_000;
const ROUND_TRIPS: usize = 500;

/// The drivers that this network has.
pub fn drivers(lab: &Lab) -> impl Iterator<Item = &'static str> {
    let possible = |driver: &&str| *driver != SEGMENT || lab.network() == "bridge";
    CASES.into_iter().map(|(driver, _)| driver).filter(possible)
}

/// Moves a pod with each number of connections, or only with the one that tells the most, so many times between two nodes.
pub fn measure(lab: &Lab, pair: &Pair, driver: &'static str, every: bool, crossings: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in CASES.into_iter().filter(|(one, _)| *one == driver).flat_map(|(_, counts)| counts).filter(|count| every || **count == USUAL) {
        let mut traveller = Traveller::start(lab, pair, driver)?;
        let crossed: Vec<Crossing> = (0..crossings).map(|_| traveller.cross(*count)).collect::<Result<_>>()?;
        let case = format!("move a pod with {count} connections");
        let system = format!("godwit on {}, {driver}", pair.runtime);
        let all = |figure: fn(&Crossing) -> Option<f64>| crossed.iter().filter_map(figure).collect::<Vec<_>>();
        rows.extend(Row::of(&case, &system, FREEZE, "ms", &all(|crossing| Some(crossing.freeze))));
        rows.extend(Row::of(&case, &system, "longest wait of a client", "ms", &all(|crossing| crossing.wait)));
        rows.extend(Row::of(&case, &system, "the client's wait beyond the freeze", "ms", &all(|crossing| Some(crossing.wait? - crossing.freeze))));
    }
    if driver != CLOSE {
        rows.extend(Traveller::start(lab, pair, driver)?.by_the_old_address(crossings)?);
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    Ok(rows)
}

/// What was seen of one move, in milliseconds.
struct Crossing {
    freeze: f64,
    /// Of a client with an open connection; where connections live on.
    wait: Option<f64>,
}

/// The pod, wherever it is.
struct Traveller<'a> {
    lab: &'a Lab,
    pair: &'a Pair,
    driver: &'static str,
    name: String,
    node: String,
}

impl<'a> Traveller<'a> {
    fn start(lab: &'a Lab, pair: &'a Pair, driver: &'static str) -> Result<Self> {
        stage::empty(lab, NAMESPACE)?;
        stage::start(lab, NAMESPACE, talker::pod("talker").on(&pair.a))?;
        let traveller = Self { lab, pair, driver, name: "talker".into(), node: pair.a.clone() };
        let server = traveller.address()?;
        // It runs, but may not listen yet.
        wait_until("the talker's first answer", MINUTE, || Ok(Asker::new(server).ok().map(drop)))?;
        Ok(traveller)
    }

    fn address(&self) -> Result<SocketAddr> {
        let pod = self.lab.get(&["pod", "-n", NAMESPACE, &self.name])?;
        let ip = pod["status"]["podIP"].as_str().context("the pod has no address")?.parse()?;
        Ok(SocketAddr::new(ip, talker::PORT))
    }

    fn migrate(&mut self) -> Result<()> {
        let target = self.pair.other(&self.node).to_owned();
        let moved = migrate_with(self.lab, NAMESPACE, &[&self.name, "--to", &target, "--network", self.driver])?.moved()?;
        (self.name, self.node) = (moved.target_pod()?, target);
        pods::wait_ready(self.lab, NAMESPACE, &self.name, MINUTE)?;
        Ok(())
    }

    fn cross(&mut self, connections: usize) -> Result<Crossing> {
        // The old pods of the move before go when their last connection has ended.
        sleep(Duration::from_secs(5));
        let server = self.address()?;
        let mut open = (0..connections).map(|_| Asker::new(server)).collect::<Result<Vec<_>>>()?;
        gap(server)?;
        let asker = if self.driver == CLOSE { None } else { open.pop() };
        let over = AtomicBool::new(false);
        let wait = thread::scope(|scope| {
            let asking = asker.map(|asker| scope.spawn(|| longest_wait(asker, &over)));
            let moved = self.migrate();
            over.store(true, Ordering::Relaxed);
            let wait = asking.map(|asking| asking.join().map_err(|_| anyhow!("the client panicked"))?).transpose();
            moved.and(wait)
        })?;
        Ok(Crossing { freeze: gap(self.address()?)?, wait })
    }

    /// The same pod through its old address and through its own, one after the other.
    fn by_the_old_address(&mut self, samples: usize) -> Result<Vec<Row>> {
        let before = self.address()?;
        let (mut asking, mut stream) = (Asker::new(before)?, Stream::open(before)?);
        self.migrate()?;
        let after = self.address()?;
        let (mut direct_asking, mut direct_stream) = (Asker::new(after)?, Stream::open(after)?);
        let (mut trips, mut rates, mut direct_trips, mut direct_rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..samples {
            trips.push(round_trip(&mut asking)?);
            direct_trips.push(round_trip(&mut direct_asking)?);
            rates.push(stream.rate()?);
            direct_rates.push(direct_stream.rate()?);
        }
        let through = format!("{} on {}", self.driver, self.pair.runtime);
        let direct = format!("direct, beside {through}");
        let rows = [(&through, &trips, &rates), (&direct, &direct_trips, &direct_rates)].map(|(system, trips, rates)| {
            [
                Row::of("a connection of a pod that has moved", system, "median round trip", "ms", trips),
                Row::of("a connection of a pod that has moved", system, "throughput", "MB/s", rates),
            ]
        });
        Ok(rows.into_iter().flatten().flatten().collect())
    }
}

/// How long the program has stood still since this was asked last, in milliseconds by its own clock.
fn gap(server: SocketAddr) -> Result<f64> {
    let mut answer = String::new();
    BufReader::new(connect(server, "gap")?).read_line(&mut answer)?;
    Ok(answer.trim().parse::<f64>().with_context(|| format!("not a gap: {answer:?}"))? / 1e6)
}

/// Asks all the time. Returns the longest time for which there was no answer, in milliseconds.
fn longest_wait(mut asker: Asker, over: &AtomicBool) -> Result<f64> {
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        asker.ask()?;
        longest = longest.max(begin.elapsed());
        sleep(PACE);
    }
    Ok(longest.as_secs_f64() * 1000.0)
}

fn round_trip(asker: &mut Asker) -> Result<f64> {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let begin = Instant::now();
        asker.ask()?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times.get(ROUND_TRIPS / 2).copied().context("no round trip")
}

/// A connection on which bytes are ordered.
struct Stream(TcpStream);

impl Stream {
    fn open(server: SocketAddr) -> Result<Self> {
        connect(server, "stream").map(Self)
    }

    /// Megabytes per second.
    fn rate(&mut self) -> Result<f64> {
        let begin = Instant::now();
        self.0.write_all(format!("{STREAM}\n").as_bytes())?;
        let (mut left, mut buffer) = (STREAM, vec![0; 1 << 18]);
        while left > 0 {
            let length = self.0.read(&mut buffer)?;
            left = left.checked_sub(length).filter(|_| length > 0).context("the stream ended early")?;
        }
        #[allow(clippy::cast_precision_loss)]
        Ok(STREAM as f64 / 1e6 / begin.elapsed().as_secs_f64())
    }
}
