//! Fills the memory of restored processes while they run: faults first, the rest in order while none comes, from the page store on the same node.
//!
//! ```text
//!   CRIU, restoring ── lazy-pages.socket: pid, userfaultfd (SCM_RIGHTS) … then "RSTF" ──▶ pager ◀── table and files of the store
//!   process ── touches a page ──▶ kernel ── fault ──▶ pager ── UFFDIO_COPY ──▶ process goes on
//!           ── mremap, munmap, madvise, fork ──▶ event, the process waits until it was read ──▶ Pending follows
//! ```
//! The messages of the socket are CRIU's (criu/uffd.c), as are the events asked for. While an event waits to be read the kernel answers every copy with EAGAIN: nothing can
//! be put where the process has just put something else, as long as a copy that was refused is looked up anew after the events. Their order: [`crate::changes`].
//!
//! A page that is still to come ([`crate::awaited`]) is asked for when a process touches it, and filled when it is there.
//!
//! A page that is filled is given back at once, so that a pod does not need the room for its memory twice: unless a forked process may still have to be filled with it.
//! From then on nobody else can be filled from the store ([`SPENT`]).
//!
//! A page that is to be filled and cannot be is the end: the process must not go on with zeros in its place. The caller kills it; the userfaultfds are held until then, so
//! that whoever touches such a page waits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::time::TimeSpec;

use crate::awaited::{self, Arriving, Known};
use crate::changes::{self, Change};
use crate::pending::Pending;
use crate::range::{PAGE, Range};
use crate::sys::{self, Mapped, Unreadable};

/// Name of the table in the store's directory.
pub const TABLE: &str = "pages.table";
/// Name of a file in the store's directory: pages have been given back, there are holes in their place.
const SPENT: &str = "spent";
/// `UFFD_EVENT_PAGEFAULT`.
const PAGEFAULT: u8 = 0x12;
/// `LAZY_PAGES_RESTORE_FINISHED`.
const FINISHED: i32 = 0x5253_5446;
/// Bytes around a fault that are filled with it.
const CLUSTER: u64 = 64 << 10;
/// Bytes that are filled before faults are looked for again.
const STRIDE: u64 = 256 << 10;
/// How long nothing is filled in order after a fault, or in a rest. A program that goes on touches the next page at once; it needs a processor for that, and may be much
/// less entitled to one than this process is (a pod of the class BestEffort has a weight of 2, on nodes with cgroup v1, where this one has 1024).
const LISTENING: TimeSpec = TimeSpec::new(0, 500_000);
/// How soon it is looked again whether a process has done what it has told.
const SETTLING: TimeSpec = TimeSpec::new(0, 50_000);
/// After so much filling there is a rest, whether there are faults or not.
const SPELL: Duration = Duration::from_millis(1);
/// So long after the last stride there is another one, whatever faults there are: those that touch pages which are nobody's must not keep the others from being filled.
const PATIENCE: Duration = Duration::from_millis(2);
/// How soon it is looked again whether pages have come that are awaited.
const AWAITING: TimeSpec = TimeSpec::new(0, 1_000_000);
/// How soon everything is looked at once more while nothing comes.
const LOOK: Duration = Duration::from_secs(1);
/// So often, a millisecond apart, a page is tried again where nothing is mapped.
const UNMAPPED: u32 = 2000;

/// Where the pages of a process lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The process, inside its container.
    pub process: i32,
    /// Its pages, as they were when it stood still.
    pub range: Range,
    /// Level of the store, or [`awaited::LEVEL`].
    pub level: u64,
    /// Offset in that level's file of the process.
    pub offset: u64,
}

/// Writes the table.
///
/// # Errors
/// When it cannot be written.
pub fn write_table(directory: &Path, rows: &[Row]) -> io::Result<()> {
    let words = rows.iter().flat_map(|row| [u64::try_from(row.process).unwrap_or(0), row.range.start, row.range.end, row.level, row.offset]);
    fs::write(directory.join(TABLE), words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

/// Reads the table: rows as they were written. Where nothing travelled it has none.
///
/// # Errors
/// When it is damaged, or cannot be read.
pub fn read_table(directory: &Path) -> io::Result<Vec<Row>> {
    let bytes = fs::read(directory.join(TABLE))?;
    let row = |row: &[u8]| {
        let word = |at: usize| row.get(at * 8..at * 8 + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes).ok_or_else(damaged);
        let process = i32::try_from(word(0)?).map_err(|_| damaged())?;
        let row = Row { process, range: Range { start: word(1)?, end: word(2)? }, level: word(3)?, offset: word(4)? };
        let aligned = [row.range.start, row.range.end, row.offset].iter().all(|word| word % PAGE == 0);
        if aligned && !row.range.is_empty() && row.offset.checked_add(row.range.len()).is_some() { Ok(row) } else { Err(damaged()) }
    };
    bytes.chunks(40).map(row).collect()
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the table of the page store is damaged")
}

/// A file with pages of a process.
enum Pages {
    /// They are all there.
    Stored(Mapped),
    /// They come.
    Awaited(Arriving),
}

/// What there is of a page.
enum Found<'a> {
    /// It, and what follows it.
    Bytes(Cow<'a, [u8]>),
    /// Not yet.
    ToCome,
    /// It will never come.
    Lost,
    /// It is in no row.
    Unknown,
}

/// Where a page of a frozen process lies.
struct Source {
    files: Vec<Pages>,
    /// By process: first address, end, file, offset.
    places: BTreeMap<i32, Vec<(Range, usize, u64)>>,
}

impl Source {
    fn open(directory: &Path) -> io::Result<Self> {
        if directory.join(SPENT).exists() {
            return Err(io::Error::other("a process has been filled from this page store before, and it holds no longer what it held"));
        }
        let (mut files, mut known, mut places) = (Vec::new(), BTreeMap::new(), BTreeMap::<i32, Vec<(Range, usize, u64)>>::new());
        for Row { process, range, level, offset } in read_table(directory)? {
            let file = match known.get(&(process, level)) {
                Some(file) => *file,
                None => {
                    files.push(if level == awaited::LEVEL {
                        Pages::Awaited(Arriving::open(directory, process)?)
                    } else {
                        let path = directory.join(level.to_string()).join(crate::store::pages_file(process));
                        Pages::Stored(Mapped::of(OpenOptions::new().read(true).write(true).open(path)?)?)
                    });
                    known.insert((process, level), files.len() - 1);
                    files.len() - 1
                }
            };
            let held = match &files[file] {
                Pages::Stored(mapped) => u64::try_from(mapped.bytes().len()).unwrap_or(0),
                Pages::Awaited(arriving) => arriving.room()?,
            };
            let list = places.entry(process).or_default();
            if list.last().is_some_and(|(last, ..)| last.end > range.start) || offset + range.len() > held {
                return Err(damaged());
            }
            list.push((range, file, offset));
        }
        Ok(Self { files, places })
    }

    fn pending(&self, process: i32) -> Pending {
        Pending::of(self.places.get(&process).into_iter().flatten().map(|(range, ..)| *range))
    }

    /// The row of `address`: its file, the offset there, and how many bytes follow in it.
    fn row(&self, process: i32, address: u64) -> Option<(usize, u64, u64)> {
        let list = self.places.get(&process)?;
        let at = list.partition_point(|(range, ..)| range.end <= address);
        let (range, file, offset) = list.get(at).filter(|(range, ..)| range.start <= address)?;
        Some((*file, offset + (address - range.start), range.end - address))
    }

    fn place(&self, process: i32, address: u64) -> Option<(&Pages, u64, u64)> {
        let (file, offset, behind) = self.row(process, address)?;
        Some((self.files.get(file)?, offset, behind))
    }

    /// Gives back the memory of pages that lie together.
    fn give_back(&mut self, process: i32, address: u64, length: u64) -> io::Result<()> {
        let Some((file, offset, behind)) = self.row(process, address) else { return Ok(()) };
        match self.files.get_mut(file) {
            Some(Pages::Stored(mapped)) => mapped.give_back(offset, length.min(behind)),
            Some(Pages::Awaited(arriving)) => arriving.give_back(offset, length.min(behind)),
            None => Ok(()),
        }
    }

    /// The bytes from `address` on, up to `length`, as far as they lie together.
    fn bytes(&self, process: i32, address: u64, length: u64) -> io::Result<Found<'_>> {
        let Some((pages, offset, behind)) = self.place(process, address) else { return Ok(Found::Unknown) };
        let length = length.min(behind);
        Ok(match pages {
            Pages::Stored(mapped) => {
                let from = usize::try_from(offset).ok();
                let range = from.and_then(|from| Some(from..from.checked_add(usize::try_from(length).ok()?)?));
                range.and_then(|range| mapped.bytes().get(range)).map_or(Found::Unknown, |bytes| Found::Bytes(Cow::Borrowed(bytes)))
            }
            Pages::Awaited(arriving) => match arriving.known(offset, length) {
                Known::Here(length) => Found::Bytes(Cow::Owned(arriving.read(offset, length)?)),
                Known::ToCome(_) => Found::ToCome,
                Known::Lost => Found::Lost,
            },
        })
    }

    /// A process stands still for the page at `address`, and will soon for those behind it.
    fn want(&self, process: i32, address: u64, length: u64) {
        if let Some((Pages::Awaited(arriving), offset, behind)) = self.place(process, address) {
            arriving.want(offset, length.min(behind));
        }
    }

    /// What changes when pages have come.
    fn come(&self) -> Vec<u8> {
        self.files.iter().filter_map(|pages| if let Pages::Awaited(arriving) = pages { Some(arriving.count()) } else { None }).collect()
    }

    /// How many of `length` bytes from `address` on are still to come before the first one that is not.
    fn to_come(&self, process: i32, address: u64, length: u64) -> u64 {
        let mut at = address;
        while at < address + length {
            match self.place(process, at) {
                Some((Pages::Awaited(arriving), offset, behind)) => match arriving.known(offset, behind.min(address + length - at)) {
                    Known::ToCome(run) => at += run,
                    _ => break,
                },
                _ => break,
            }
        }
        at - address
    }
}

/// One process (or a child of it) that is being filled.
struct Filling {
    /// Whose pages these were.
    process: i32,
    uffd: OwnedFd,
    pending: Pending,
    /// Faults that could not be answered yet.
    faults: Vec<u64>,
    /// What it has done since nothing changed, and `pending` does not say yet. Nothing is filled meanwhile.
    changes: Vec<Change>,
    gone: bool,
    /// How often in a row nothing was mapped where a page belongs.
    unmapped: u32,
}

impl Filling {
    fn new(process: i32, uffd: OwnedFd, pending: Pending) -> Self {
        Self { process, uffd, pending, faults: Vec::new(), changes: Vec::new(), gone: false, unmapped: 0 }
    }
}

/// What became of an attempt to put something.
enum Put {
    Done,
    /// The process changes its mappings: events first. Or the page is still to come.
    Later,
    /// The process has gone.
    Gone,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Bytes.
    pub bytes: u64,
    /// Faults of the processes.
    pub faults: u64,
}

/// Fills until every page is there. `directory` is the store's; its table is read when the first process comes. On an error the processes must be killed before what is
/// returned with it, which holds their userfaultfds, is dropped.
///
/// # Errors
/// A page that cannot be filled.
pub fn serve(listener: &UnixListener, directory: &Path) -> Result<Filled, (io::Error, impl Sized + use<>)> {
    let mut pager = Pager {
        directory: directory.to_owned(),
        source: None,
        stream: None,
        unreadable: None,
        fillings: Vec::new(),
        finished: false,
        starved: None,
        spent: false,
        looked: Instant::now(),
        done: Filled::default(),
    };
    match pager.run(listener) {
        Ok(()) => Ok(pager.done),
        Err(error) => Err((error, Box::new(pager))),
    }
}

struct Pager {
    directory: PathBuf,
    source: Option<Source>,
    stream: Option<UnixStream>,
    /// Made when it is first asked what is where.
    unreadable: Option<Unreadable>,
    fillings: Vec<Filling>,
    finished: bool,
    /// What is left to be filled is still to come; what had come when that was seen.
    starved: Option<Vec<u8>>,
    /// It is written down that pages have been given back.
    spent: bool,
    /// When all processes were looked at last.
    looked: Instant,
    done: Filled,
}

impl Pager {
    fn run(&mut self, listener: &UnixListener) -> io::Result<()> {
        let (stream, _) = listener.accept()?;
        self.stream = Some(stream);
        let (mut listening, mut rested, mut filled) = (false, Instant::now(), Instant::now());
        loop {
            // With nothing to do in the background: wait.
            let busy =
                self.finished && self.fillings.iter().any(|filling| !filling.pending.is_empty() || !filling.faults.is_empty() || !filling.changes.is_empty());
            let unsettled = self.fillings.iter().any(|filling| !filling.changes.is_empty());
            if self.finished && !busy {
                return Ok(());
            }
            let retry = self.fillings.iter().any(|filling| !filling.faults.is_empty());
            let rest = listening || rested.elapsed() >= SPELL;
            self.wait(match (busy, retry) {
                _ if unsettled => Some(SETTLING),
                (true, _) if self.starved.is_some() => Some(AWAITING),
                (true, _) if rest => Some(LISTENING),
                (true, _) => Some(TimeSpec::new(0, 0)),
                (false, true) => Some(TimeSpec::new(0, 1_000_000)),
                (false, false) => None,
            })?;
            if rest {
                rested = Instant::now();
            }
            let (before, mut at) = (self.done.faults, 0);
            while at < self.fillings.len() {
                self.hear(at)?;
                at += 1;
            }
            listening = self.done.faults > before;
            if self.finished && (!listening || filled.elapsed() >= PATIENCE) {
                filled = Instant::now();
                self.fill_all()?;
            }
            self.fillings.retain(|filling| !filling.gone);
        }
    }

    /// Waits for messages and takes those of the socket.
    fn wait(&mut self, timeout: Option<TimeSpec>) -> io::Result<()> {
        let mut descriptors: Vec<BorrowedFd<'_>> = self.fillings.iter().map(|filling| filling.uffd.as_fd()).collect();
        descriptors.extend(self.stream.as_ref().map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = descriptors.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut polled, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let told = polled.last().and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        if self.stream.is_some() && told { self.take_in() } else { Ok(()) }
    }

    /// One message of CRIU's.
    fn take_in(&mut self) -> io::Result<()> {
        let Some(stream) = self.stream.as_mut() else { return Ok(()) };
        let mut word = [0; 4];
        match stream.read_exact(&mut word) {
            Ok(()) => {}
            // CRIU has given up. What it has made it kills itself.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !self.finished => {
                return Err(io::Error::new(error.kind(), "CRIU has ended before the restore was finished"));
            }
            Err(error) => return Err(error),
        }
        let process = i32::from_le_bytes(word);
        if process == FINISHED {
            (self.finished, self.stream) = (true, None);
            return Ok(());
        }
        if process < 0 {
            // A zombie: it has no memory.
            return Ok(());
        }
        let uffd = receive(stream)?;
        let source = match &self.source {
            Some(source) => source,
            None => self.source.insert(Source::open(&self.directory)?),
        };
        self.fillings.push(Filling::new(process, uffd, source.pending(process)));
        Ok(())
    }

    /// Takes the events of a process, then answers its faults.
    fn hear(&mut self, at: usize) -> io::Result<()> {
        let filling = &mut self.fillings[at];
        while let Some(message) = sys::uffd_message(filling.uffd.as_fd())? {
            if message[0] == PAGEFAULT {
                // Flags at 8, the address at 16.
                let address = message[16..24].try_into().map_or(0, u64::from_le_bytes);
                let page = address & !(PAGE - 1);
                // Who is woken by a signal while it waits for a page that is still to come tells it again.
                if !filling.faults.contains(&page) {
                    self.done.faults += 1;
                    filling.faults.push(page);
                }
            } else {
                filling.changes.push(Change::read(&message)?);
            }
        }
        match self.settle(at)? {
            Put::Done => {}
            Put::Later => return Ok(()),
            Put::Gone => {
                self.fillings[at].gone = true;
                return Ok(());
            }
        }
        let faults = std::mem::take(&mut self.fillings[at].faults);
        for address in faults {
            let put = match self.fillings[at].pending.at(address) {
                Some((end, origin)) => {
                    let end = end.min(address + CLUSTER);
                    let put = self.copy(at, address, end, origin)?;
                    if let (Put::Later, Some(source)) = (&put, &self.source) {
                        source.want(self.fillings[at].process, origin, end - address);
                    }
                    put
                }
                None => self.zero(at, address)?,
            };
            match put {
                Put::Done => {}
                Put::Later => self.fillings[at].faults.push(address),
                Put::Gone => {
                    self.fillings[at].gone = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Follows what a process has done, when all of it is told.
    fn settle(&mut self, at: usize) -> io::Result<Put> {
        let filling = &mut self.fillings[at];
        if filling.changes.is_empty() {
            return Ok(Put::Done);
        }
        let unreadable = made(&mut self.unreadable)?;
        let outcome = match changes::order(&mut filling.changes, |address| unreadable.occupied(filling.uffd.as_fd(), address)) {
            Ok(true) => Put::Done,
            Ok(false) => return Ok(Put::Later),
            // It has gone, and its children have not: they are to be filled. What it did came in the order in which it was told, as far as anybody can tell now.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Put::Gone,
            Err(error) => return Err(error),
        };
        let mut born: Vec<Filling> = Vec::new();
        for change in std::mem::take(&mut filling.changes) {
            for child in &mut born {
                // It may have been done before the fork, and told after it: then the child is as if it had done it itself.
                let at = |address: u64| unreadable.occupied(child.uffd.as_fd(), address).ok().flatten();
                let left = change.left().is_some_and(|range| at(range.start) == Some(false));
                if left && change.reached().is_none_or(|range| at(range.start) == Some(true)) {
                    child.pending.follow(&change);
                }
            }
            filling.pending.follow(&change);
            if let Change::Forked(uffd) = change {
                born.push(Filling::new(filling.process, uffd, filling.pending.clone()));
            }
        }
        self.fillings.extend(born);
        Ok(outcome)
    }

    /// Fills the next pages of each process.
    fn fill_all(&mut self) -> io::Result<()> {
        let come = self.source.as_ref().map(Source::come).unwrap_or_default();
        if self.starved.as_ref() == Some(&come) && self.looked.elapsed() < LOOK {
            return Ok(()); // nothing new
        }
        self.looked = Instant::now();
        if self.starved.is_some() {
            self.miss_the_dead()?;
        }
        let mut starved = true;
        for at in 0..self.fillings.len() {
            starved &= self.fill(at)?;
        }
        self.starved = Some(come).filter(|come| starved && !come.is_empty());
        Ok(())
    }

    /// A process that ends tells nothing; while nothing is put into it nobody else would notice.
    fn miss_the_dead(&mut self) -> io::Result<()> {
        let unreadable = made(&mut self.unreadable)?;
        // One that has told of something is looked at when that is settled: it may have children.
        for filling in self.fillings.iter_mut().filter(|filling| filling.changes.is_empty()) {
            let Some((start, ..)) = filling.pending.parts().next() else { continue };
            filling.gone |= unreadable.occupied(filling.uffd.as_fd(), start).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        }
        Ok(())
    }

    /// Fills the next pages of a process, if there are any that are not still to come. Whether there were none.
    fn fill(&mut self, at: usize) -> io::Result<bool> {
        let filling = &self.fillings[at];
        if !filling.changes.is_empty() {
            return Ok(false);
        }
        let Some(source) = &self.source else { return Ok(true) };
        let ready = filling.pending.parts().find_map(|(start, end, origin)| {
            let skipped = source.to_come(filling.process, origin, end - start);
            (start + skipped < end).then_some((start + skipped, end, origin + skipped))
        });
        let Some((start, end, origin)) = ready else { return Ok(true) };
        if let Put::Gone = self.copy(at, start, end.min(start + STRIDE), origin)? {
            self.fillings[at].gone = true;
        }
        Ok(false)
    }

    fn copy(&mut self, at: usize, start: u64, end: u64, origin: u64) -> io::Result<Put> {
        let filling = &mut self.fillings[at];
        let lost = |what: String| io::Error::other(format!("page {start:#x} of process {}: {what}", filling.process));
        let found = self.source.as_ref().map_or(Ok(Found::Unknown), |source| source.bytes(filling.process, origin, end - start));
        let data = match found.map_err(|error| lost(error.to_string()))? {
            Found::Bytes(data) => data,
            Found::ToCome => return Ok(Put::Later),
            Found::Lost => return Err(lost("the node that it was to come from has lost it".into())),
            Found::Unknown => return Err(lost("it is not in the store".into())),
        };
        let mut outcome = sys::uffd_copy(filling.uffd.as_fd(), start, &data);
        if data.len() > 4096 && outcome.as_ref().is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL))) {
            // It reaches beyond a mapping: page by page.
            outcome = sys::uffd_copy(filling.uffd.as_fd(), start, &data[..4096]);
        }
        match outcome {
            Ok(copied) => {
                filling.unmapped = 0;
                filling.pending.drop(start, start + copied);
                self.done.bytes += copied;
                let process = filling.process;
                // What stays takes memory until everything is filled, and does no other harm.
                let _ = self.give_back(process, origin, copied);
                Ok(Put::Done)
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Put::Later),
                Some(libc::ESRCH) => Ok(Put::Gone),
                // It is being moved or unmapped, and the event that says so is still to come: nothing is lost by looking again.
                Some(libc::ENOENT) if filling.unmapped < UNMAPPED => {
                    filling.unmapped += 1;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    Ok(Put::Later)
                }
                // Nobody else puts pages there: the process would read something else than it wrote.
                _ => Err(lost(error.to_string())),
            },
        }
    }

    /// Gives back what was put, unless processes have been forked that may need the same. One that is about to be is not overlooked: a process that forks is not filled
    /// before that is settled.
    fn give_back(&mut self, process: i32, origin: u64, length: u64) -> io::Result<()> {
        let is_shared = self.fillings.iter().filter(|filling| filling.process == process && !filling.gone).nth(1).is_some();
        let Some(source) = self.source.as_mut().filter(|_| !is_shared) else { return Ok(()) };
        if !self.spent {
            File::create(self.directory.join(SPENT))?;
            self.spent = true;
        }
        source.give_back(process, origin, length)
    }

    fn zero(&mut self, at: usize, address: u64) -> io::Result<Put> {
        match sys::uffd_zero(self.fillings[at].uffd.as_fd(), address) {
            Ok(_) => Ok(Put::Done),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Put::Later),
                Some(libc::ESRCH) => Ok(Put::Gone),
                // It is there already (two threads), or it has been unmapped: whoever waits looks again.
                Some(libc::EEXIST | libc::ENOENT) => self.wake(at, address),
                _ => Err(io::Error::other(format!("page {address:#x} of process {}: {error}", self.fillings[at].process))),
            },
        }
    }

    fn wake(&self, at: usize, address: u64) -> io::Result<Put> {
        match sys::uffd_wake(self.fillings[at].uffd.as_fd(), address) {
            Ok(()) => Ok(Put::Done),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Put::Gone),
            Err(error) => Err(error),
        }
    }
}

/// It, made when it is first needed.
fn made(unreadable: &mut Option<Unreadable>) -> io::Result<&Unreadable> {
    let made = match unreadable.take() {
        Some(made) => made,
        None => Unreadable::new()?,
    };
    Ok(unreadable.insert(made))
}

/// The descriptor that comes with one byte.
fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(libc::c_int);
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control
            && let Some(number) = numbers.first()
        {
            return sys::take_descriptor(*number);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "CRIU sent no userfaultfd"))
}
