//! RESP2, the wire format of Redis (redis.io/docs/latest/develop/reference/protocol-spec): as much of it as the client needs.
//!
//! ```text
//!   request   *2\r\n $3\r\nGET\r\n $3\r\nkey\r\n          an array of byte strings
//!   reply     +OK\r\n | -ERR why\r\n | :42\r\n | $5\r\nhello\r\n | $-1\r\n | *N\r\n…
//! ```

use std::io::{self, BufRead, Read};

/// Longest byte string and longest array that are accepted.
const LIMIT: i64 = 512 << 20;

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+`: a short text.
    Simple(String),
    /// `-`: refused.
    Error(String),
    /// `:`.
    Integer(i64),
    /// `$`: bytes, or nothing.
    Bulk(Option<Vec<u8>>),
    /// `*`.
    Array(Vec<Reply>),
}

/// Appends a command to `buffer`.
pub fn encode(buffer: &mut Vec<u8>, words: &[&[u8]]) {
    buffer.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        buffer.extend(format!("${}\r\n", word.len()).bytes());
        buffer.extend_from_slice(word);
        buffer.extend(b"\r\n");
    }
}

/// Reads one reply.
///
/// # Errors
/// Those of the reader; `InvalidData` for anything that is not RESP2; `UnexpectedEof` when the stream ends within a reply.
pub fn decode(reader: &mut impl BufRead) -> io::Result<Reply> {
    let line = read_line(reader)?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| invalid("an empty line"))?;
    Ok(match kind {
        "+" => Reply::Simple(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number(rest)?),
        "$" => Reply::Bulk(match number(rest)? {
            -1 => None,
            length => Some(read_bytes(reader, length)?),
        }),
        "*" => {
            let length = number(rest)?;
            if !(-1..=LIMIT).contains(&length) {
                return Err(invalid("an array of impossible length"));
            }
            Reply::Array((0..length).map(|_| decode(reader)).collect::<io::Result<_>>()?)
        }
        _ => return Err(invalid("an unknown kind of reply")),
    })
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(1 << 16).read_until(b'\n', &mut bytes)?;
    if !bytes.ends_with(b"\r\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(bytes.len() - 2);
    String::from_utf8(bytes).map_err(|_| invalid("a line that is not text"))
}

fn read_bytes(reader: &mut impl Read, length: i64) -> io::Result<Vec<u8>> {
    if !(0..=LIMIT).contains(&length) {
        return Err(invalid("a byte string of impossible length"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| invalid("a length"))? + 2];
    reader.read_exact(&mut bytes)?;
    if !bytes.ends_with(b"\r\n") {
        return Err(invalid("a byte string without its end"));
    }
    bytes.truncate(bytes.len() - 2);
    Ok(bytes)
}

fn number(text: &str) -> io::Result<i64> {
    text.parse().map_err(|_| invalid("a length that is no number"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP2: {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn commands_are_arrays_of_byte_strings() {
        let mut buffer = Vec::new();
        encode(&mut buffer, &[b"SET", b"k", b"\r\n"]);
        assert_eq!(buffer, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n");
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let mut bytes: &[u8] = b"*5\r\n+OK\r\n-ERR no\r\n:-7\r\n$2\r\nhi\r\n$-1\r\n";
        let expected = [Reply::Simple("OK".into()), Reply::Error("ERR no".into()), Reply::Integer(-7), Reply::Bulk(Some(b"hi".to_vec())), Reply::Bulk(None)];
        assert_eq!(decode(&mut bytes).unwrap(), Reply::Array(expected.to_vec()));
    }

    #[test]
    fn what_is_cut_or_strange_is_refused() {
        for bytes in ["", "+OK", "$5\r\nhi\r\n", "*2\r\n:1\r\n", "?\r\n", "\r\n", ":x\r\n", "$-2\r\n", "$2\r\nhixx"] {
            assert!(decode(&mut bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }
}
