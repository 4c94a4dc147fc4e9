//! The pod that serves connections (`programs/talker.py`), and a connection on which questions are asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::objects::{Pod, python};

/// The program.
pub const PROGRAM: &str = include_str!("programs/talker.py");
/// Name of the container that runs it.
pub const CONTAINER: &str = "talker";
/// Where it listens.
pub const PORT: u16 = 9000;
/// How long a connection may be silent: a switch takes less, a broken one does not come back.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A pod of this one container.
#[must_use]
pub fn pod(name: &str) -> Pod {
    Pod::new(name, [python(CONTAINER, PROGRAM, &[&PORT.to_string()])])
}

/// A connection to the program; `what` is its first line.
///
/// # Errors
/// When there is no connection.
pub fn connect(server: SocketAddr, what: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("no connection to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{what}\n").as_bytes())?;
    Ok(stream)
}

/// A connection on which questions are asked.
#[derive(Debug)]
pub struct Asker {
    stream: BufReader<TcpStream>,
    asked: u64,
    identity: Option<String>,
}

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn new(server: SocketAddr) -> Result<Self> {
        Self::by(server, "ask")
    }

    /// Connects; `what` is the first line, and what it orders answers questions.
    ///
    /// # Errors
    /// As [`Asker::new`].
    pub fn by(server: SocketAddr, what: &str) -> Result<Self> {
        let mut asker = Self { stream: BufReader::new(connect(server, what)?), asked: 0, identity: None };
        asker.ask()?;
        Ok(asker)
    }

    /// Asks once. The answer must be the next one of the same process.
    ///
    /// # Errors
    /// When it is not, or the connection broke.
    pub fn ask(&mut self) -> Result<()> {
        self.asked += 1;
        let n = self.asked;
        self.stream.get_mut().write_all(format!("question {n}\n").as_bytes())?;
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed before answer {n}");
        let (identity, rest) = line.trim_end().split_once(' ').with_context(|| format!("not an answer: {line:?}"))?;
        ensure!(rest == format!("{n} question {n}"), "answer {n} is {rest:?}");
        let known = self.identity.get_or_insert_with(|| identity.to_owned());
        ensure!(known == identity, "{known} went, {identity} answers");
        Ok(())
    }

    /// Who answers.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.identity.as_deref().unwrap_or_default()
    }
}
