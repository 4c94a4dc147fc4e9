//! One TLS stream of this machine, and the first round of a moving pod's memory beside it: in turns, while the same pod runs.
//!
//! ```text
//!   a thread ── 1 GiB of pages, 1 MiB a write ── TLS 1.3, loopback ──▶ a thread that reads and forgets
//!   the pod's memory, 1 GiB of the same ────────── first round ──────▶ page store on the other node
//! ```
//! The stream has the cryptography that the agents have, with its defaults; nothing reads processes, checks digests or keeps what has come.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::numbers::Row;
use godwit_demo::pages;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::agent::Count;
use crate::noise::Noise;
use crate::processor::spent;
use crate::walker::Walker;
use crate::way::Way;
use crate::{copying, stage};

const NAMESPACE: &str = "godwit-bench-tls";
/// What is measured here and part by part.
pub const CASE: &str = "1 GiB of memory to another node";
const MIB: u32 = 1024;
/// Bytes of a page, and of a write.
const PAGE: usize = 4096;
const WRITE: usize = 1 << 20;
/// Whom the certificate is for.
const NAME: &str = "bench.localhost";
/// Until the program has filled and checked its memory.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two measurements.
const REST: Duration = Duration::from_secs(2);

/// Measures so many streams and as many moves of a pod whose memory does not change, one after the other.
pub fn measure(lab: &Lab, pair: &Pair, turns: usize) -> Result<Vec<Row>> {
    stage::empty(lab, NAMESPACE)?;
    let mut walker = Walker::start(lab, pair, NAMESPACE, pages::pod("heap", MIB, 0))?;
    let configurations = configurations()?;
    let memory = memory();
    let (mut streams, mut rounds, mut dear) = (Vec::new(), Vec::new(), Vec::new());
    let agents = || [&pair.a, &pair.b].into_iter().map(|node| Ok(Count::of(lab, node)?.seconds)).sum::<Result<f64>>();
    for _ in 0..turns {
        // Filled by its pager, too.
        walker.wait_good(PATIENCE)?;
        sleep(REST);
        streams.push(stream(&configurations, &memory)?);
        let before = agents()?;
        let (moved, _) = walker.go(Way::PreCopy.words())?;
        dear.push(agents()? - before);
        rounds.push(copying::rate(&moved).context("the record tells of no first round; see kubectl migrate timeline")?);
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    let shares: Vec<f64> = rounds.iter().zip(&streams).map(|(round, stream)| round / stream.rate * 100.0).collect();
    let system = format!("godwit on {}", pair.runtime);
    let stream = format!("one TLS stream, beside {system}");
    let of = |figure: fn(&Stream) -> f64| streams.iter().map(figure).collect::<Vec<f64>>();
    let rows = [
        Row::of(CASE, &stream, "copy rate", "MB/s", &of(|stream| stream.rate)),
        Row::of(CASE, &stream, "processor time", "s", &of(|stream| stream.processor)),
        Row::of(CASE, &system, "copy rate", "MB/s", &rounds),
        Row::of(CASE, &system, "processor time", "s", &dear),
        Row::of(CASE, &system, "copy rate against one TLS stream", "%", &shares),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// Pages as the pod's program has them: each with its number, and the rest of it noise.
pub fn memory() -> Vec<u8> {
    let block = Noise::new().bytes(61 * PAGE);
    let length = (MIB as usize) << 20;
    let mut memory = Vec::with_capacity(length);
    while memory.len() < length {
        memory.extend(block.iter().take(length - memory.len()));
    }
    for (number, page) in (0_u64..).zip(memory.chunks_exact_mut(PAGE)) {
        page[..8].copy_from_slice(&number.to_le_bytes());
    }
    memory
}

/// Of the client and of the server, who trust each other by a certificate made for it.
struct Configurations {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn configurations() -> Result<Configurations> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("no certificate could be made")?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|error| anyhow!("the key cannot be used: {error}"))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13];
    let client =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?.with_root_certificates(roots).with_no_client_auth();
    let server =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?.with_no_client_auth().with_single_cert(vec![certificate], key)?;
    Ok(Configurations { client: Arc::new(client), server: Arc::new(server) })
}

/// What a stream took.
#[derive(Debug)]
struct Stream {
    /// MB/s from the first write until all has been read.
    rate: f64,
    /// Seconds of a processor, of both ends.
    processor: f64,
}

/// Sends so much from one thread to another.
fn stream(configurations: &Configurations, memory: &[u8]) -> Result<Stream> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("nothing can be bound on loopback")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<(u64, f64)> {
            let (socket, _) = listener.accept()?;
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&configurations.server))?, socket);
            let (mut buffer, mut read) = (vec![0; WRITE], 0);
            loop {
                match tls.read(&mut buffer)? {
                    0 => return Ok((read, spent()?)),
                    // The first byte says that hands are shaken.
                    1 if read == 0 => tls.write_all(b"!")?,
                    length => read += length as u64,
                }
            }
        });
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(NAME)?;
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::clone(&configurations.client), name)?, socket);
        tls.write_all(b"?")?;
        tls.read_exact(&mut [0])?;
        let (begin, before) = (Instant::now(), spent()?);
        memory.chunks(WRITE).try_for_each(|piece| tls.write_all(piece))?;
        tls.conn.send_close_notify();
        tls.flush()?;
        // The reader's thread was made for it.
        let (read, processor) = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        ensure!(read == memory.len() as u64, "{read} of {} bytes came", memory.len());
        #[allow(clippy::cast_precision_loss)]
        let rate = memory.len() as f64 / 1e6 / begin.elapsed().as_secs_f64();
        Ok(Stream { rate, processor: processor + spent()? - before })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn all_of_it_comes_through_the_stream() {
        let seen = stream(&configurations().unwrap(), &vec![7; 5 * WRITE + 3]).unwrap();
        assert!(seen.rate > 0.0 && seen.processor > 0.0, "{seen:?}");
    }
}
