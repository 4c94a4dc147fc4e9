//! What of CRIU's protocol the stand-in and the agent read and write: images/rpc.proto of CRIU, each message one packet. Everything else passes unread.

use prost::Message;

/// `criu_req_type`.
const DUMP: i32 = 1;
/// `criu_req_type`.
const RESTORE: i32 = 2;
/// `criu_req_type`.
const NOTIFY: i32 = 6;

/// `criu_req`: from the runtime to CRIU.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    notify_success: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    keep_open: Option<bool>,
}

/// `criu_opts`.
#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(int32, optional, tag = "1")]
    images_dir_fd: Option<i32>,
    #[prost(string, optional, tag = "68")]
    images_dir: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pid: Option<i32>,
    #[prost(int32, optional, tag = "9")]
    log_level: Option<i32>,
    #[prost(bool, optional, tag = "12")]
    notify_scripts: Option<bool>,
    #[prost(int32, optional, tag = "17")]
    work_dir_fd: Option<i32>,
}

/// `criu_resp`: from CRIU to the runtime.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(bool, required, tag = "2")]
    success: bool,
    #[prost(message, optional, tag = "5")]
    notify: Option<Notify>,
}

/// `criu_notify`.
#[derive(Clone, PartialEq, Message)]
struct Notify {
    #[prost(string, optional, tag = "1")]
    script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pid: Option<i32>,
}

/// CRIU has come to a stage of its work, and goes on when it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name, as of an action script.
    pub name: String,
    /// Pid of the restored init process, as CRIU sees it; only some stages tell.
    pub init_pid: Option<i32>,
}

impl Request {
    /// Reads a packet; `None` if it is no request.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        Self::decode(packet).ok()
    }

    /// Whether CRIU is to restore.
    #[must_use]
    pub fn restores(&self) -> bool {
        self.kind == RESTORE
    }

    /// Whether another request may follow on the same socket.
    #[must_use]
    pub fn keeps_open(&self) -> bool {
        self.keep_open == Some(true)
    }

    /// Whether it is the answer to a stage that CRIU must not pass.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.notify_success == Some(false)
    }

    /// Whether CRIU will tell of each [`Stage`], and wait.
    #[must_use]
    pub fn tells_stages(&self) -> bool {
        self.options.as_ref().and_then(|options| options.notify_scripts).unwrap_or(false)
    }

    /// The folders that CRIU opens through descriptors of the process that made its socket.
    #[must_use]
    pub fn folders(&self) -> Vec<i32> {
        let all = self.options.iter().flat_map(|options| [options.images_dir_fd, options.work_dir_fd]);
        all.flatten().filter(|fd| *fd >= 0).collect()
    }
}

/// What CRIU says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It waits at a stage.
    Stage(Stage),
    /// The restore has failed.
    Failed,
    /// Something that concerns the runtime alone.
    Other,
}

/// Reads a packet of CRIU's; `None` if it cannot be understood.
#[must_use]
pub fn read(packet: &[u8]) -> Option<Word> {
    let response = Response::decode(packet).ok()?;
    Some(match response.kind {
        NOTIFY => {
            let notify = response.notify?;
            Word::Stage(Stage { name: notify.script?, init_pid: notify.pid })
        }
        RESTORE if !response.success => Word::Failed,
        _ => Word::Other,
    })
}

/// The answer to a stage, which CRIU passes or not.
#[must_use]
pub fn answer(passes: bool) -> Vec<u8> {
    Request { kind: NOTIFY, options: None, notify_success: Some(passes), keep_open: None }.encode_to_vec()
}

/// The request for a dump of the processes below `pid` into the directory `images`, both as CRIU names them, in which it tells of each [`Stage`]. All else is left to its options.
#[must_use]
pub fn dump(pid: i32, images: &str) -> Vec<u8> {
    const NO_DESCRIPTOR: i32 = -1;
    // As `--verbosity`, which counts no more then (criu/cr-service.c, `setup_logging_from_req`).
    const EVERYTHING: i32 = 4;
    let options = Options {
        images_dir_fd: Some(NO_DESCRIPTOR),
        images_dir: Some(images.to_owned()),
        pid: Some(pid),
        log_level: Some(EVERYTHING),
        notify_scripts: Some(true),
        work_dir_fd: None,
    };
    Request { kind: DUMP, options: Some(options), notify_success: None, keep_open: None }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests() {
        // type = RESTORE, opts = { images_dir_fd = 7, leave_running = 1, root = "x", notify_scripts = 1, work_dir_fd = 9 }
        let packet = [0x08, 0x02, 0x12, 0x0d, 0x08, 7, 0x18, 1, 0x6a, 1, b'x', 0x60, 1, 0x88, 0x01, 9, 0x28];
        assert_eq!(Request::read(&packet), None);
        let restore = Request::read(&[&packet[..3], &[0x0c], &packet[4..16]].concat()).unwrap();
        assert!(restore.restores() && restore.tells_stages());
        assert_eq!(restore.folders(), [7, 9]);
        let dump = Request::read(&dump(42, "/images")).unwrap();
        assert!(!dump.restores() && dump.tells_stages() && dump.folders().is_empty());
        let version = Request::read(&[0x08, 0x0a]).unwrap();
        assert!(!version.restores() && !version.tells_stages() && version.folders().is_empty());
    }

    #[test]
    fn stages() {
        let told = [0x08, 6, 0x10, 1, 0x2a, 0x10, 0x0a, 12, b'p', b'o', b's', b't', b'-', b'r', b'e', b's', b't', b'o', b'r', b'e', 0x10, 42];
        assert_eq!(read(&told), Some(Word::Stage(Stage { name: "post-restore".into(), init_pid: Some(42) })));
        assert_eq!(read(&[0x08, 2, 0x10, 1, 0x22, 2, 0x08, 42]), Some(Word::Other));
        assert_eq!(read(&[0x08, 2, 0x10, 0]), Some(Word::Failed));
        // A stage without a name, and what cannot be read.
        assert_eq!(read(&[0x08, 6, 0x10, 1, 0x2a, 0]), None);
        assert_eq!(read(&[0xff; 12]), None);
        assert_eq!((answer(false), answer(true)), (vec![0x08, 6, 0x18, 0], vec![0x08, 6, 0x18, 1]));
        assert!(Request::read(&answer(false)).unwrap().refuses() && !Request::read(&answer(true)).unwrap().refuses());
    }
}
