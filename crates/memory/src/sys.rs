//! The system calls of this crate that Rust cannot check: userfaultfd's and pagemap's ioctls, reading another process, ptrace.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU8;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

/// `struct pm_scan_arg` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanArgument {
    pub size: u64,
    pub flags: u64,
    pub start: u64,
    pub end: u64,
    pub walk_end: u64,
    pub vec: u64,
    pub vec_len: u64,
    pub max_pages: u64,
    pub category_inverted: u64,
    pub category_mask: u64,
    pub category_anyof_mask: u64,
    pub return_mask: u64,
}

/// `struct page_region` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)` (include/uapi/linux/userfaultfd.h).
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOR(0xaa, 0x01, struct uffdio_range)`.
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURES: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 15; // PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED, WP_ASYNC
const REGISTER_MODE_WP: u64 = 1 << 1;
/// `UFFD_USER_MODE_ONLY`: allowed to everybody. Asynchronous write protection sends no messages, so it does not matter who writes.
pub const UFFD_FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK | 1;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Bytes of this machine's pages.
pub fn page_size() -> Option<u64> {
    // SAFETY: takes and gives numbers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()
}

/// PAGEMAP_SCAN on a `/proc/PID/pagemap`. Fills `out` from its start and `argument.walk_end`; returns how many regions there are.
pub fn pagemap_scan(pagemap: BorrowedFd<'_>, argument: &mut ScanArgument, out: &mut [Region]) -> io::Result<usize> {
    argument.size = u64::try_from(size_of::<ScanArgument>()).unwrap_or(0);
    argument.vec = out.as_mut_ptr() as u64;
    argument.vec_len = u64::try_from(out.len()).unwrap_or(0);
    // SAFETY: the argument is a live pm_scan_arg whose `vec` points to `vec_len` writable page_regions for the time of the call.
    let count = check(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, std::ptr::from_mut(argument)) })?;
    Ok(usize::try_from(count).unwrap_or(0).min(out.len()))
}

/// UFFDIO_API with the features of asynchronous write protection.
pub fn uffd_api(uffd: BorrowedFd<'_>) -> io::Result<()> {
    let mut argument = [UFFD_API, UFFD_FEATURES, 0];
    // SAFETY: uffdio_api is three u64; the array lives for the time of the call.
    check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, argument.as_mut_ptr()) }).map(drop)
}

/// UFFDIO_REGISTER for write protection.
pub fn uffd_register(uffd: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<()> {
    let mut argument = [start, length, REGISTER_MODE_WP, 0];
    // SAFETY: uffdio_register is four u64 (range, mode, ioctls); the array lives for the time of the call.
    check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, argument.as_mut_ptr()) }).map(drop)
}

/// UFFDIO_UNREGISTER: what is protected in there is so no longer, nor marked as such.
pub fn uffd_unregister(uffd: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<()> {
    let mut argument = [start, length];
    // SAFETY: uffdio_range is two u64; the array lives for the time of the call.
    check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_UNREGISTER, argument.as_mut_ptr()) }).map(drop)
}

/// A userfaultfd of the calling process.
pub fn userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: takes flags only; the descriptor it returns is ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_FLAGS) };
    let fd = check(libc::c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// process_vm_readv of one range into `out`; returns how many bytes could be read from its start.
pub fn read_memory(pid: i32, address: u64, out: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: out.len() };
    // SAFETY: `local` describes `out`, which is writable for the time of the call; `remote` is an address of the other process, checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// One descriptor of another process (pidfd_open(2), pidfd_getfd(2)).
#[cfg(target_arch = "x86_64")]
pub fn steal_descriptor(pid: i32, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the descriptor it returns is ours.
    let pidfd = check(libc::c_int::try_from(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).unwrap_or(-1))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: plain numbers; the descriptor it returns is ours.
    let fd = check(libc::c_int::try_from(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) }).unwrap_or(-1))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// ptrace, as far as the injection needs it.
#[cfg(target_arch = "x86_64")]
pub mod trace {
    use super::{check, io, libc};

    const SUSPEND_SECCOMP: usize = 1 << 21;
    const GET_SIGMASK: libc::c_uint = 0x420a;
    const SET_SIGMASK: libc::c_uint = 0x420b;
    const GET_RSEQ: libc::c_uint = 0x420f;
    /// `PTRACE_EVENT_STOP`.
    pub const EVENT_STOP: i32 = 128;

    /// What waitpid says of a thread.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Stop {
        /// Not stopped yet.
        No,
        /// Stopped by a signal, or by an event with that number.
        Stopped { signal: i32, event: i32 },
        /// Gone.
        Ended,
    }

    fn call(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
        // SAFETY: only used for requests whose address and data are plain numbers (SEIZE, INTERRUPT, CONT, SINGLESTEP, DETACH).
        let result = unsafe { libc::ptrace(request, tid, address, data) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes hold of a thread; its seccomp filter rests meanwhile where that is allowed.
    pub fn seize(tid: i32) -> io::Result<()> {
        call(libc::PTRACE_SEIZE, tid, 0, SUSPEND_SECCOMP).or_else(|_| call(libc::PTRACE_SEIZE, tid, 0, 0))
    }

    pub fn interrupt(tid: i32) -> io::Result<()> {
        call(libc::PTRACE_INTERRUPT, tid, 0, 0)
    }

    pub fn resume(tid: i32, signal: i32) -> io::Result<()> {
        call(libc::PTRACE_CONT, tid, 0, usize::try_from(signal).unwrap_or(0))
    }

    pub fn step(tid: i32) -> io::Result<()> {
        call(libc::PTRACE_SINGLESTEP, tid, 0, 0)
    }

    pub fn detach(tid: i32, signal: i32) -> io::Result<()> {
        call(libc::PTRACE_DETACH, tid, 0, usize::try_from(signal).unwrap_or(0))
    }

    pub fn registers(tid: i32) -> io::Result<libc::user_regs_struct> {
        // SAFETY: user_regs_struct consists of integers, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: GETREGS writes one user_regs_struct to `data`.
        check(i32::try_from(unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut registers) }).unwrap_or(-1))?;
        Ok(registers)
    }

    pub fn set_registers(tid: i32, registers: &libc::user_regs_struct) -> io::Result<()> {
        // SAFETY: SETREGS reads one user_regs_struct from `data`.
        check(i32::try_from(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0, std::ptr::from_ref(registers)) }).unwrap_or(-1)).map(drop)
    }

    pub fn signal_mask(tid: i32) -> io::Result<u64> {
        let mut mask = 0u64;
        // SAFETY: GETSIGMASK with size 8 writes 8 bytes to `data`.
        check(i32::try_from(unsafe { libc::ptrace(GET_SIGMASK, tid, 8usize, &raw mut mask) }).unwrap_or(-1))?;
        Ok(mask)
    }

    pub fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
        // SAFETY: SETSIGMASK with size 8 reads 8 bytes from `data`.
        check(i32::try_from(unsafe { libc::ptrace(SET_SIGMASK, tid, 8usize, &raw const mask) }).unwrap_or(-1)).map(drop)
    }

    /// Address of the thread's `struct rseq`, 0 where it has none.
    pub fn rseq(tid: i32) -> u64 {
        let mut configuration = [0u64; 3]; // pointer; size and signature; flags and padding
        // SAFETY: GET_RSEQ_CONFIGURATION writes at most 24 bytes to `data`.
        let written = unsafe { libc::ptrace(GET_RSEQ, tid, 24usize, configuration.as_mut_ptr()) };
        if written > 0 { configuration[0] } else { 0 }
    }

    /// Looks once whether the thread has stopped.
    pub fn look(tid: i32) -> io::Result<Stop> {
        let mut status = 0;
        // SAFETY: waitpid writes one int.
        let found = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
        Ok(match check(found)? {
            0 => Stop::No,
            _ if libc::WIFSTOPPED(status) => Stop::Stopped { signal: libc::WSTOPSIG(status), event: status >> 16 },
            _ => Stop::Ended,
        })
    }
}

/// `_IOWR(0xaa, 0x03, struct uffdio_copy)`.
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
/// `_IOWR(0xaa, 0x04, struct uffdio_zeropage)`.
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
/// `_IOR(0xaa, 0x02, struct uffdio_range)`.
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;

/// UFFDIO_COPY of `data` to `address`; gives the bytes that were copied, which may be fewer, or why none was.
pub fn uffd_copy(uffd: BorrowedFd<'_>, address: u64, data: &[u8]) -> Result<u64, io::Error> {
    let length = u64::try_from(data.len()).unwrap_or(0);
    let mut argument = [address, data.as_ptr() as u64, length, 0, 0];
    // SAFETY: uffdio_copy is five u64 (dst, src, len, mode, copy); `src` points to `len` readable bytes for the time of the call; `dst` is the other process's.
    let result = check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_COPY, argument.as_mut_ptr()) });
    answered(result, argument[4].cast_signed())
}

/// UFFDIO_ZEROPAGE of one page.
pub fn uffd_zero(uffd: BorrowedFd<'_>, address: u64) -> Result<u64, io::Error> {
    let mut argument = [address, 4096, 0, 0];
    // SAFETY: uffdio_zeropage is four u64 (range, mode, zeropage); the array lives for the time of the call.
    let result = check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_ZEROPAGE, argument.as_mut_ptr()) });
    answered(result, argument[3].cast_signed())
}

/// UFFDIO_WAKE of whoever waits for a page.
pub fn uffd_wake(uffd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
    let mut argument = [address, 4096];
    // SAFETY: uffdio_range is two u64; the array lives for the time of the call.
    check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_WAKE, argument.as_mut_ptr()) }).map(drop)
}

/// A page of this process that nobody can read: what is asked for to be copied from it never is.
#[derive(Debug)]
pub struct Unreadable(*mut libc::c_void);

// SAFETY: an address that is never read or written.
unsafe impl Send for Unreadable {}

impl Unreadable {
    /// Makes it.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping where the kernel likes it touches nothing that exists.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(page)) }
    }

    /// Whether memory of this userfaultfd is at an address of the other process; `None` while it changes its memory and has not told, or has not heard that it was heard.
    /// A copy that fails: the kernel looks for changes first, then for the memory, and then reads what is to be copied (`userfaultfd_copy`, `mfill_atomic`).
    pub fn occupied(&self, uffd: BorrowedFd<'_>, address: u64) -> io::Result<Option<bool>> {
        let mut argument = [address, self.0 as u64, 4096, 0, 0];
        // SAFETY: as in `uffd_copy`; `src` is a mapping of ours that cannot be read, so nothing is put anywhere.
        let result = check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_COPY, argument.as_mut_ptr()) });
        match answered(result, argument[4].cast_signed()) {
            Ok(_) => Err(io::Error::other("a page that cannot be read was copied")),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(None),
                Some(libc::EFAULT | libc::EEXIST) => Ok(Some(true)),
                Some(libc::ENOENT | libc::EINVAL) => Ok(Some(false)),
                _ => Err(error),
            },
        }
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

/// The kernel says in the argument what was done, or a negative error number; a partial copy ends with EAGAIN and a positive count.
fn answered(result: io::Result<libc::c_int>, done: i64) -> io::Result<u64> {
    match (result, u64::try_from(done)) {
        (Ok(_), Ok(done)) => Ok(done),
        (Err(_), Ok(done)) if done > 0 => Ok(done),
        (Err(error), _) => Err(error),
        (Ok(_), Err(_)) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One `struct uffd_msg` (include/uapi/linux/userfaultfd.h): 32 bytes. `None`: there is none now.
pub fn uffd_message(uffd: BorrowedFd<'_>) -> io::Result<Option<[u8; 32]>> {
    let mut message = [0u8; 32];
    // SAFETY: reads into a buffer of that length.
    let read = unsafe { libc::read(uffd.as_raw_fd(), message.as_mut_ptr().cast(), message.len()) };
    if read == 32 {
        return Ok(Some(message));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        _ if read >= 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

/// Takes over a descriptor that a message brought along.
pub fn take_descriptor(number: i32) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel has just made this descriptor for us (a fork event, SCM_RIGHTS); nobody else in this process knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A file in memory, as long as the object lives.
#[derive(Debug)]
struct Mapping {
    start: *const u8,
    length: usize,
}

impl Mapping {
    /// Maps a whole file. Whoever truncates it meanwhile makes reading it a SIGBUS, which ends this process.
    fn of(file: &std::fs::File, protection: i32) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        if length == 0 {
            return Ok(Self { start: std::ptr::null(), length });
        }
        // SAFETY: a new mapping where the kernel likes it touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start: start.cast(), length }) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.start.is_null() {
            // SAFETY: the mapping made in `of`; no slice of it outlives the object.
            unsafe { libc::munmap(self.start.cast_mut().cast(), self.length) };
        }
    }
}

/// A file that nobody else changes any more.
#[derive(Debug)]
pub struct Mapped {
    mapping: Mapping,
    file: std::fs::File,
}

// SAFETY: a read-only shared mapping that lives as long as the object; nothing in it depends on a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps a whole file, which must be open for writing if something is to be given back.
    pub fn of(file: std::fs::File) -> io::Result<Self> {
        Mapping::of(&file, libc::PROT_READ).map(|mapping| Self { mapping, file })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        if self.mapping.start.is_null() {
            return &[];
        }
        // SAFETY: `length` bytes are mapped at `start` until drop. Nobody else writes to the file any more when it is mapped (the store is complete), and
        // `give_back` cannot be called while this is borrowed.
        unsafe { std::slice::from_raw_parts(self.mapping.start, self.mapping.length) }
    }

    /// Gives the memory of a part back: it holds zeros from now on.
    pub fn give_back(&mut self, offset: u64, length: u64) -> io::Result<()> {
        punch(&self.file, offset, length)
    }
}

/// Makes a hole in a file, fallocate(2).
pub fn punch(file: &std::fs::File, offset: u64, length: u64) -> io::Result<()> {
    let part = |number: u64| libc::off_t::try_from(number).map_err(|_| io::ErrorKind::InvalidInput);
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, how, part(offset)?, part(length)?)?)
}

/// A file whose bytes several processes read and change at once.
#[derive(Debug)]
pub struct Shared(Mapping);

// SAFETY: a shared mapping that lives as long as the object, of bytes that are only touched atomically.
unsafe impl Send for Shared {}
// SAFETY: the same.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps a whole file, which must be open for writing.
    pub fn of(file: &std::fs::File) -> io::Result<Self> {
        Mapping::of(file, libc::PROT_READ | libc::PROT_WRITE).map(Self)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[AtomicU8] {
        if self.0.start.is_null() {
            return &[];
        }
        // SAFETY: `length` bytes are mapped at `start` until drop, and an atomic byte is as large as a byte and may be changed by others.
        unsafe { std::slice::from_raw_parts(self.0.start.cast(), self.0.length) }
    }
}
