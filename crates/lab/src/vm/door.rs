//! The wire between `godwit-lab` and a virtual machine: one TCP connection a call, from the clients' network to the node.
//!
//! ```text
//!   client ──▶ {"token": …, "call": …}\n                                       door
//!          ◀── {"Services": …} | {"Content": …} | {"About": …} | "Done" | {"Failed": …}\n
//!   after a call `Exec` and its answer `Done`, frames: kind (1 byte), length (4 bytes, little-endian), content
//!          ──▶ 0 input, empty at its end
//!          ◀── 1 output   2 errors   3 exit code (4 bytes, little-endian), the last
//! ```
//! The token is new at every start of the machine; only root, here and there, can read it. A client that goes away takes its command with it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::units::Units;
use crate::control::{self, Request, ServiceState};
use crate::namespaces;
use crate::vm::guest::SHARE;

/// Where a virtual machine listens.
pub const PORT: u16 = 7010;
/// How long a call other than a command may take: everything is about ten times slower in there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const KNOCK: Duration = Duration::from_secs(5);
/// How long output is still awaited when the command has ended and others hold its pipes.
const ECHO: Duration = Duration::from_millis(300);
/// No frame is longer.
const LONGEST: usize = 1 << 20;

const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const EXIT: u8 = 3;

/// How to get in.
#[derive(Debug, Clone)]
pub struct Key {
    /// The node's address.
    pub address: Ipv4Addr,
    /// A process in whose network namespace that address can be reached.
    pub network: i32,
    /// See the module.
    pub token: String,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// Of the services.
    Ask(Request),
    /// The content of a file.
    Read(PathBuf),
    /// Have a file with this mode and content (base64).
    Write(PathBuf, u32, String),
    /// Have the file of that path in the shared folder `upper`, with this mode.
    Adopt(PathBuf, u32),
    /// Size and time of a file.
    About(PathBuf),
    /// Whether something listens on a Unix socket.
    Knock(PathBuf),
    /// Run a command; the value of TERM.
    Exec(Vec<String>, String),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// All services.
    Services(Vec<ServiceState>),
    /// A file's content (base64); none if it is not there.
    Content(Option<String>),
    /// A file's size and time; none if it is not there.
    About(Option<(u64, SystemTime)>),
    /// It was done, or begins.
    Done,
    /// It was refused.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Letter {
    token: String,
    call: Call,
}

impl Key {
    fn connect(&self) -> Result<TcpStream> {
        let (network, address) = (self.network, SocketAddrV4::new(self.address, PORT));
        // A thread of its own: only it joins the other network.
        let thread = thread::spawn(move || -> Result<TcpStream> {
            namespaces::join_network(network)?;
            Ok(TcpStream::connect_timeout(&address.into(), KNOCK)?)
        });
        let stream = thread.join().map_err(|_| anyhow!("a thread of the lab ended early"))?.with_context(|| format!("{address} does not answer"))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn send(&self, call: Call) -> Result<(TcpStream, Answer)> {
        send(self.connect()?, &self.token, call).with_context(|| self.address.to_string())
    }

    /// Asks PID 1.
    pub fn ask(&self, request: &Request) -> Result<Vec<ServiceState>> {
        match self.send(Call::Ask(request.clone()))?.1 {
            Answer::Services(services) => Ok(services),
            other => bail!("{} answered {other:?}", self.address),
        }
    }

    /// A file's content, if it is there.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match self.send(Call::Read(path.to_owned()))?.1 {
            Answer::Content(content) => Ok(content.map(|text| STANDARD.decode(text)).transpose()?),
            other => bail!("{} answered {other:?}", self.address),
        }
    }

    /// Writes a file, its folders too, at once or not at all.
    pub fn write(&self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.send(Call::Write(path.to_owned(), mode, STANDARD.encode(content))).map(drop)
    }

    /// Takes over a file that was changed in the shared folder.
    pub fn adopt(&self, path: &Path, mode: u32) -> Result<()> {
        self.send(Call::Adopt(path.to_owned(), mode)).map(drop)
    }

    /// A file's size and time, if it is there.
    pub fn about(&self, path: &Path) -> Result<Option<(u64, SystemTime)>> {
        match self.send(Call::About(path.to_owned()))?.1 {
            Answer::About(about) => Ok(about),
            other => bail!("{} answered {other:?}", self.address),
        }
    }

    /// Whether something listens on a Unix socket in there.
    pub fn knock(&self, path: &Path) -> bool {
        self.send(Call::Knock(path.to_owned())).is_ok()
    }

    /// Runs a command with this process's input and outputs; returns its exit code (128 + signal if one ended it).
    pub fn run(&self, command: Vec<String>) -> Result<i32> {
        let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        let (stream, _) = self.send(Call::Exec(command, terminal))?;
        carry(stream, std::io::stdin(), &mut std::io::stdout(), &mut std::io::stderr()).with_context(|| self.address.to_string())
    }
}

/// Sends a call and reads its answer.
fn send(mut stream: TcpStream, token: &str, call: Call) -> Result<(TcpStream, Answer)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(&Letter { token: token.to_owned(), call })?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let answer = read_line(&mut stream)?;
    match serde_json::from_str(&answer).context("no whole answer")? {
        Answer::Failed(why) => bail!(why),
        answer => Ok((stream, answer)),
    }
}

/// Carries input and outputs of a command until it ends; returns its exit code.
fn carry(mut stream: TcpStream, mut from: impl Read + Send + 'static, out: &mut impl Write, errors: &mut impl Write) -> Result<i32> {
    stream.set_read_timeout(None)?;
    let mut input = stream.try_clone()?;
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length) = from.read(&mut buffer) {
            // Whoever reads no more has ended, or will say so by the exit code.
            if write_frame(&mut input, INPUT, buffer.get(..length).unwrap_or_default()).is_err() || length == 0 {
                break;
            }
        }
    });
    loop {
        let (kind, content) = read_frame(&mut stream)?.context("it hung up while the command ran")?;
        match kind {
            // Nobody has to listen.
            OUTPUT => drop(flushed(out, &content)),
            ERRORS => drop(flushed(errors, &content)),
            EXIT => return Ok(i32::from_le_bytes(content.as_slice().try_into().context("an odd exit code")?)),
            other => bail!("an odd frame: {other}"),
        }
    }
}

fn flushed(out: &mut impl Write, content: &[u8]) -> std::io::Result<()> {
    out.write_all(content)?;
    out.flush()
}

/// Reads up to a newline, and not a byte further: frames may follow.
fn read_line(stream: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(String::from_utf8(line)?)
}

fn write_frame(out: &mut impl Write, kind: u8, content: &[u8]) -> Result<()> {
    let mut frame = vec![kind];
    frame.extend(u32::try_from(content.len())?.to_le_bytes());
    frame.extend(content);
    Ok(out.write_all(&frame)?)
}

/// The next frame; none at the end.
fn read_frame(stream: &mut impl Read) -> Result<Option<(u8, Vec<u8>)>> {
    let mut kind = [0];
    if stream.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length))?;
    ensure!(length <= LONGEST, "a frame of {length} bytes");
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok(Some((kind[0], content)))
}

/// Serves calls. Never returns unless it cannot listen.
pub fn serve(address: Ipv4Addr, token: &str) -> Result<()> {
    let listener = TcpListener::bind((address, PORT)).with_context(|| format!("{address}:{PORT} cannot be listened on"))?;
    let units = Arc::new(Units::default());
    for stream in listener.incoming() {
        let (token, units) = (token.to_owned(), Arc::clone(&units));
        match stream {
            Ok(stream) => drop(thread::spawn(move || {
                if let Err(error) = answer(stream, &token, &units) {
                    eprintln!("door: {error:#}");
                }
            })),
            Err(error) => eprintln!("door: {error}"),
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, token: &str, units: &Units) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let letter: Letter = serde_json::from_str(&line).context("an odd call")?;
    let mut say = |answer: &Answer| -> Result<()> { Ok(writeln!(stream, "{}", serde_json::to_string(answer)?)?) };
    if letter.token != token {
        return say(&Answer::Failed("the token is another machine's, or of another start of this one".to_owned()));
    }
    let result = match letter.call {
        Call::Ask(request) => units.handle(request).map(Answer::Services),
        Call::Read(path) => content(&path).map(|content| Answer::Content(content.map(|content| STANDARD.encode(content)))),
        Call::Write(path, mode, text) => {
            STANDARD.decode(text).map_err(Into::into).and_then(|bytes| control::write_file(&path, mode, &bytes)).map(|()| Answer::Done)
        }
        Call::Adopt(path, mode) => adopt(&path, mode).map(|()| Answer::Done),
        Call::About(path) => Ok(Answer::About(fs::metadata(path).ok().and_then(|about| Some((about.len(), about.modified().ok()?))))),
        Call::Knock(path) => UnixStream::connect(path).map(|_| Answer::Done).map_err(Into::into),
        Call::Exec(words, terminal) => match spawn(&words, &terminal) {
            Ok(child) => {
                say(&Answer::Done)?;
                stream.set_read_timeout(None)?;
                return converse(stream, reader, child);
            }
            Err(error) => Err(error),
        },
    };
    say(&result.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))
}

fn adopt(path: &Path, mode: u32) -> Result<()> {
    let source = Path::new(SHARE).join("upper").join(path.strip_prefix("/").unwrap_or(path));
    let content = fs::read(&source).with_context(|| format!("{} is unreadable", source.display()))?;
    control::write_file(path, mode, &content)
}

fn content(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} is unreadable", path.display())),
    }
}

fn spawn(words: &[String], terminal: &str) -> Result<Child> {
    let mut command = namespaces::machine_command(words);
    command.env("TERM", terminal).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().with_context(|| format!("{words:?} cannot be run"))
}

/// What happens while a command runs.
enum Event {
    /// It wrote.
    Wrote(u8, Vec<u8>),
    /// One of its two outputs has no more writer.
    Closed,
    /// The client is gone.
    Alone,
}

/// Carries a command's input and outputs, and its exit code at the end.
fn converse(mut stream: TcpStream, mut reader: BufReader<TcpStream>, mut child: Child) -> Result<()> {
    let (sender, events) = channel();
    let mut open = 0;
    if let Some(out) = child.stdout.take() {
        listen(out, OUTPUT, sender.clone());
        open += 1;
    }
    if let Some(errors) = child.stderr.take() {
        listen(errors, ERRORS, sender.clone());
        open += 1;
    }
    let mut input = child.stdin.take();
    thread::spawn(move || {
        while let Ok(Some((INPUT, content))) = read_frame(&mut reader) {
            // Who reads no more gets no more.
            if content.is_empty() || input.as_mut().is_some_and(|pipe| pipe.write_all(&content).is_err()) {
                input = None;
            }
        }
        let _ = sender.send(Event::Alone);
    });
    let mut quiet = Instant::now();
    loop {
        match events.recv_timeout(Duration::from_millis(10)) {
            Ok(Event::Wrote(kind, content)) => {
                if write_frame(&mut stream, kind, &content).is_err() {
                    break;
                }
                quiet = Instant::now();
                continue;
            }
            Ok(Event::Closed) => open -= 1,
            Ok(Event::Alone) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        // A process that it left behind may hold the outputs for ever.
        if (open == 0 || quiet.elapsed() > ECHO) && child.try_wait()?.is_some() {
            break;
        }
    }
    // Does nothing to one that has ended; one whose client has gone ends by it.
    let _ = child.kill();
    let status = child.wait()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    write_frame(&mut stream, EXIT, &code.to_le_bytes())
}

/// Passes on what a pipe gives.
fn listen(mut pipe: impl Read + Send + 'static, kind: u8, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = pipe.read(&mut buffer).unwrap_or(0);
            let content = buffer.get(..length).unwrap_or_default().to_vec();
            let event = if length == 0 { Event::Closed } else { Event::Wrote(kind, content) };
            if events.send(event).is_err() || length == 0 {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A door on loopback, and a connection to it.
    fn call(token: &str, call: Call) -> (TcpStream, Answer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || answer(listener.accept().unwrap().0, "right", &Units::default()));
        send(TcpStream::connect(address).unwrap(), token, call).unwrap()
    }

    fn run(script: &str, input: &'static [u8]) -> (i32, Vec<u8>, Vec<u8>) {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        let (stream, answer) = call("right", Call::Exec(words, "dumb".to_owned()));
        assert!(matches!(answer, Answer::Done), "{answer:?}");
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = carry(stream, input, &mut out, &mut errors).unwrap();
        (code, out, errors)
    }

    #[test]
    fn commands_have_their_input_outputs_and_exit_code() {
        assert_eq!(run("cat; echo bad >&2; exit 7", b"given"), (7, b"given".to_vec(), b"bad\n".to_vec()));
        assert_eq!(run("kill -9 $$", b"").0, 137);
        let (code, out, _) = run("head -c 3000000 /dev/zero", b"");
        assert_eq!((code, out.len()), (0, 3_000_000));
        let began = Instant::now();
        assert_eq!(run("sleep 20 & exit 3", b"").0, 3);
        assert!(began.elapsed() < Duration::from_secs(10), "waited for what was left behind");
    }

    #[test]
    fn a_command_goes_with_its_client() {
        let mark = std::env::temp_dir().join(format!("godwit-door-{}", std::process::id()));
        let words = ["sh".to_owned(), "-c".to_owned(), format!("echo $$ > {}; exec sleep 60", mark.display())].to_vec();
        let (stream, _) = call("right", Call::Exec(words, "dumb".to_owned()));
        let end = Instant::now() + Duration::from_secs(10);
        let pid = loop {
            let text = fs::read_to_string(&mark).unwrap_or_default();
            if text.ends_with('\n') {
                break text.trim().to_owned();
            }
            assert!(Instant::now() < end, "it did not begin");
        };
        drop(stream);
        while Path::new("/proc").join(&pid).exists() {
            assert!(Instant::now() < end, "it goes on");
        }
        fs::remove_file(mark).unwrap();
    }

    #[test]
    fn files_are_written_read_and_missed() {
        let path = std::env::temp_dir().join(format!("godwit-door-file-{}/in/it", std::process::id()));
        assert!(matches!(call("right", Call::Read(path.clone())).1, Answer::Content(None)));
        assert!(matches!(call("right", Call::Write(path.clone(), 0o600, STANDARD.encode("content"))).1, Answer::Done));
        let Answer::Content(Some(text)) = call("right", Call::Read(path.clone())).1 else { unreachable!() };
        assert_eq!(STANDARD.decode(text).unwrap(), b"content");
        assert!(matches!(call("right", Call::About(path.clone())).1, Answer::About(Some((7, _)))));
        fs::remove_dir_all(path.parent().and_then(Path::parent).unwrap()).unwrap();
    }

    #[test]
    fn who_has_no_token_stays_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || answer(listener.accept().unwrap().0, "right", &Units::default()));
        let refused = send(TcpStream::connect(address).unwrap(), "wrong", Call::Read("/etc/passwd".into())).unwrap_err();
        assert!(refused.to_string().contains("token"), "{refused}");
    }
}
