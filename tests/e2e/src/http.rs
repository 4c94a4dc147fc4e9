//! As much of HTTP/1.0 as a test asks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// The body of `GET path`.
///
/// # Errors
/// When the server does not answer within 300 ms, or not with 200.
pub fn get(server: SocketAddr, path: &str) -> Result<String> {
    get_within(server, path, PATIENCE)
}

/// The body of `GET path` from a server that may take its time.
///
/// # Errors
/// When it does not answer within `patience`, or not with 200.
pub fn get_within(server: SocketAddr, path: &str, patience: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(status == "200", "GET {path}: {status}");
    Ok(body.to_owned())
}
