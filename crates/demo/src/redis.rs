//! A connection to Redis.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::resp::{self, Reply};

/// Longest wait for a reply before a connection is given up: it is to live on while its server moves.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers within `patience`, which is also the longest wait for every reply.
    pub fn open(server: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::with_capacity(1 << 16, stream) })
    }

    /// Connects, again and again for at most `limit`.
    ///
    /// # Errors
    /// The last attempt's.
    pub fn insist(server: SocketAddr, patience: Duration, limit: Duration) -> Result<Self> {
        let end = Instant::now() + limit;
        loop {
            match Self::open(server, patience) {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > end => {
                    return Err(error).with_context(|| format!("{server} does not answer ({} s)", limit.as_secs()));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// From now on everything is about this database.
    ///
    /// # Errors
    /// As [`Connection::pipeline`]; or there is no such database.
    pub fn select(&mut self, database: u16) -> io::Result<()> {
        match self.command(&[b"SELECT", database.to_string().as_bytes()])? {
            Reply::Simple(_) => Ok(()),
            other => Err(io::Error::other(format!("SELECT {database} was answered by {other:?}"))),
        }
    }

    /// Sends commands at once and reads their replies.
    ///
    /// # Errors
    /// When the connection ends or is silent: whether the commands were executed is unknown then.
    pub fn pipeline(&mut self, commands: &[&[&[u8]]]) -> io::Result<Vec<Reply>> {
        let mut buffer = Vec::new();
        for words in commands {
            resp::encode(&mut buffer, words);
        }
        self.stream.get_mut().write_all(&buffer)?;
        commands.iter().map(|_| resp::decode(&mut self.stream)).collect()
    }

    /// Sends one command.
    ///
    /// # Errors
    /// As [`Connection::pipeline`].
    pub fn command(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        Ok(self.pipeline(&[words])?.pop().unwrap_or(Reply::Bulk(None)))
    }
}
