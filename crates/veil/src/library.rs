//! The library: `ioctl`, `pread` and `openat` for a process that has one thread, as CRIU has. Bare system calls; of the C library only `getenv` and the place of `errno` are used, which are
//! there in every version.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_int, c_ulong};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::table::{Answer, Hidden, SMAPS, blank, look, process};

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: c_ulong = 0xc060_6610;
const PAGEMAP: &[u8] = b"/pagemap";
const PRESENT_OR_SWAPPED: u64 = 1 << 3 | 1 << 4;
const GUARD: u64 = 1 << 8;
/// Largest table, in bytes.
const LARGEST: usize = 64 << 20;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const IOCTL: usize = 16;
    pub const PREAD64: usize = 17;
    pub const OPENAT: usize = 257;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const CLOSE: usize = 3;
    pub const READLINKAT: usize = 267;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const IOCTL: usize = 29;
    pub const PREAD64: usize = 67;
    pub const OPENAT: usize = 56;
    pub const LSEEK: usize = 62;
    pub const MMAP: usize = 222;
    pub const CLOSE: usize = 57;
    pub const READLINKAT: usize = 78;
    pub const EXIT_GROUP: usize = 94;
}

unsafe extern "C" {
    fn getenv(name: *const c_char) -> *const c_char;
    fn __errno_location() -> *mut c_int;
}

/// `struct pm_scan_arg` (include/uapi/linux/fs.h).
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// A system call with up to six arguments; negative results are error numbers.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; the caller answers for what the call does.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number.cast_signed() => result,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2], in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// A system call with up to six arguments; negative results are error numbers.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; the caller answers for what the call does.
    unsafe {
        core::arch::asm!("svc 0", in("x8") number, inlateout("x0") arguments[0].cast_signed() => result,
            in("x1") arguments[1], in("x2") arguments[2], in("x3") arguments[3], in("x4") arguments[4], in("x5") arguments[5]);
    }
    result
}

/// The table: its address once it was there, and its length. CRIU asks about itself when it starts, and then there is none yet.
static TABLE: AtomicPtr<Hidden> = AtomicPtr::new(core::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(usize::MAX);

fn table() -> &'static [Hidden] {
    if LENGTH.load(Ordering::Acquire) == usize::MAX {
        let Some((start, length)) = load() else { return &[] };
        TABLE.store(start, Ordering::Relaxed);
        LENGTH.store(length, Ordering::Release);
    }
    let (start, length) = (TABLE.load(Ordering::Relaxed), LENGTH.load(Ordering::Relaxed));
    if start.is_null() {
        return &[];
    }
    // SAFETY: `load` mapped that many entries at this address, read-only and for ever.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// What [`crate::VARIABLE`] says: a string that ends with 0.
fn path_of_table() -> Option<*const c_char> {
    // SAFETY: a string that ends with 0; CRIU changes its environment in no other thread.
    let path = unsafe { getenv(c"GODWIT_VEIL".as_ptr()) };
    (!path.is_null()).then_some(path)
}

fn load() -> Option<(*mut Hidden, usize)> {
    let path = path_of_table()?;
    // SAFETY: opens, measures, maps read-only and closes a file; no memory of this process is touched.
    unsafe {
        let file = usize::try_from(call(number::OPENAT, [HERE, path as usize, CLOSE_ON_EXEC, 0, 0, 0])).ok()?;
        let size = usize::try_from(call(number::LSEEK, [file, 0, 2, 0, 0, 0])).unwrap_or(0);
        let mapped = if size == 0 || size > LARGEST { -1 } else { call(number::MMAP, [0, size, 1, 2, file, 0]) };
        call(number::CLOSE, [file, 0, 0, 0, 0, 0]);
        let start = usize::try_from(mapped).ok()?;
        Some((start as *mut Hidden, size / size_of::<Hidden>()))
    }
}

/// A path of less than so many bytes that is put together without memory of its own. It always ends with 0.
struct Path<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Path<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Adds to its end, if there is room.
    fn push(&mut self, more: &[u8]) -> Option<()> {
        more.iter().try_for_each(|byte| {
            let place = self.bytes.get_mut(self.length).filter(|_| self.length + 1 < N)?;
            *place = *byte;
            self.length += 1;
            Some(())
        })
    }

    fn number(&mut self, mut number: u64) -> Option<()> {
        let mut digits = [0u8; 20];
        let mut first = digits.len();
        while number > 0 || first == digits.len() {
            first -= 1;
            *digits.get_mut(first)? = b'0' + u8::try_from(number % 10).ok()?;
            number /= 10;
        }
        self.push(digits.get(first..)?)
    }

    fn start(&self) -> usize {
        self.bytes.as_ptr() as usize
    }
}

/// `AT_FDCWD`, as a register holds it.
const HERE: usize = (-100_isize).cast_unsigned();
const CLOSE_ON_EXEC: usize = 0o2_000_000;

/// The process whose file this is: `rest_of_path` is what follows its number in the path, such as `/pagemap`.
fn owner(file: c_int, rest_of_path: &[u8]) -> Option<u64> {
    let mut link = Path::<64>::new();
    link.push(b"/proc/self/fd/")?;
    link.number(u64::try_from(file).ok()?)?;
    let mut path = [0u8; 256];
    const NOWHERE: usize = (-1_isize).cast_unsigned();
    // SAFETY: reads a link into a buffer of that length; `link` ends with 0.
    let length = unsafe { call(number::READLINKAT, [NOWHERE, link.start(), path.as_mut_ptr() as usize, path.len(), 0, 0]) };
    process(path.get(..usize::try_from(length).ok()?)?, rest_of_path)
}

/// Asks the kernel, as the C library does.
unsafe fn kernel(file: c_int, request: c_ulong, argument: *mut ScanArgument) -> c_int {
    let file = usize::try_from(file).unwrap_or(usize::MAX);
    // SAFETY: passes on what the caller said.
    let result = unsafe { call(number::IOCTL, [file, usize::try_from(request).unwrap_or(0), argument as usize, 0, 0, 0]) };
    c_int::try_from(answer(result)).unwrap_or(c_int::MAX)
}

/// What the C library makes of a system call's result.
fn answer(result: isize) -> isize {
    if result < 0 {
        // SAFETY: errno of this thread.
        unsafe { *__errno_location() = c_int::try_from(result.saturating_neg()).unwrap_or(5) };
        return -1;
    }
    result
}

/// `ioctl(2)`. Its third argument travels in the same register as that of a function without `...`.
///
/// # Safety
/// As ioctl.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(file: c_int, request: c_ulong, argument: *mut ScanArgumentOpaque) -> c_int {
    let argument: *mut ScanArgument = argument.cast();
    if request != PAGEMAP_SCAN || argument.is_null() || table().is_empty() {
        // SAFETY: passes on what the caller said.
        return unsafe { kernel(file, request, argument) };
    }
    // SAFETY: the argument of a PAGEMAP_SCAN is a pm_scan_arg that is the caller's and lives for the time of the call.
    let asked = unsafe { &mut *argument };
    // Only questions for pages, and for guard pages and nothing else, for which the kernel would look at every entry of every page table; others go through.
    let for_guards = (asked.category_mask, asked.category_anyof_mask, asked.category_inverted) == (GUARD, 0, 0);
    if asked.category_anyof_mask & PRESENT_OR_SWAPPED == 0 && !for_guards {
        // SAFETY: as above.
        return unsafe { kernel(file, request, argument) };
    }
    let Some(pid) = owner(file, PAGEMAP) else {
        // SAFETY: as above.
        return unsafe { kernel(file, request, argument) };
    };
    let end = asked.end;
    match look(table(), pid, asked.start, end, |one| !for_guards || one.unguarded == 1) {
        Answer::Nothing(upto) => {
            asked.walk_end = upto;
            0
        }
        Answer::Ask(upto) => {
            asked.end = upto;
            // SAFETY: as above, with an earlier end.
            let result = unsafe { kernel(file, request, argument) };
            asked.end = end;
            result
        }
    }
}

/// `pread(2)`. On kernels without PAGEMAP_SCAN (before Linux 6.7) CRIU reads the pagemap itself: hidden mappings have no entries in what it reads.
///
/// # Safety
/// As pread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(file: c_int, buffer: *mut u8, length: usize, offset: i64) -> isize {
    let number = usize::try_from(file).unwrap_or(usize::MAX);
    // SAFETY: passes on what the caller said.
    let done = answer(unsafe { call(number::PREAD64, [number, buffer as usize, length, offset.cast_unsigned() as usize, 0, 0]) });
    if let (Ok(read), Ok(offset)) = (usize::try_from(done), u64::try_from(offset))
        && read > 0
        && !table().is_empty()
        && let Some(pid) = owner(file, PAGEMAP)
    {
        // SAFETY: the kernel has just written that many bytes there.
        blank(table(), pid, offset, unsafe { core::slice::from_raw_parts_mut(buffer, read) });
    }
    done
}

/// `pread64(3)`: the same on 64-bit machines.
///
/// # Safety
/// As pread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(file: c_int, buffer: *mut u8, length: usize, offset: i64) -> isize {
    // SAFETY: as the caller says.
    unsafe { pread(file, buffer, length, offset) }
}

/// Opens what the agent has written in place of a process's `smaps`.
fn shown(directory: c_int) -> Option<usize> {
    let pid = owner(directory, b"")?;
    let mut path = Path::<4096>::new();
    let mut table = path_of_table()?.cast::<u8>();
    loop {
        // SAFETY: a string that ends with 0, of which nothing behind that is read.
        let byte = unsafe { *table };
        if byte == 0 {
            break;
        }
        path.push(&[byte])?;
        // SAFETY: as above: the end has not been reached.
        table = unsafe { table.add(1) };
    }
    path.push(SMAPS.as_bytes())?;
    path.number(pid)?;
    // SAFETY: opens a file for reading; the path ends with 0.
    usize::try_from(unsafe { call(number::OPENAT, [HERE, path.start(), CLOSE_ON_EXEC, 0, 0, 0]) }).ok()
}

/// `openat(2)`. Its last argument travels in the same register as that of a function with `...`.
///
/// # Safety
/// As openat.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int {
    // SAFETY: the caller's path is a string that ends with 0, or null; nothing behind its first other byte is read.
    let is_smaps = || b"smaps\0".iter().enumerate().all(|(at, byte)| unsafe { *path.cast::<u8>().add(at) } == *byte);
    if !path.is_null()
        && is_smaps()
        && let Some(file) = shown(directory)
    {
        return c_int::try_from(file).unwrap_or(-1);
    }
    let [directory, flags] = [directory, flags].map(|number| isize::try_from(number).unwrap_or(-1).cast_unsigned());
    // SAFETY: passes on what the caller said.
    let result = answer(unsafe { call(number::OPENAT, [directory, path as usize, flags, usize::try_from(mode).unwrap_or(0), 0, 0]) });
    c_int::try_from(result).unwrap_or(-1)
}

/// `openat64(3)`: the same on 64-bit machines.
///
/// # Safety
/// As openat.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int {
    // SAFETY: as the caller says.
    unsafe { openat(directory, path, flags, mode) }
}

/// What the C library's headers make of an `openat` without a mode, if it was asked to be strict (`_FORTIFY_SOURCE`).
///
/// # Safety
/// As openat.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat_2(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    const MAKES_A_FILE: c_int = 0o100 | 0o20_000_000; // O_CREAT, and the bit of O_TMPFILE alone
    const INVALID: isize = -22;
    if flags & MAKES_A_FILE != 0 {
        return c_int::try_from(answer(INVALID)).unwrap_or(-1);
    }
    // SAFETY: as the caller says.
    unsafe { openat(directory, path, flags, 0) }
}

/// The same on 64-bit machines.
///
/// # Safety
/// As openat.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat64_2(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as the caller says.
    unsafe { __openat_2(directory, path, flags) }
}

/// What `ioctl` is given: whatever the request says.
#[repr(C)]
pub struct ScanArgumentOpaque {
    _unknown: [u8; 0],
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: ends the process: the dump fails, the processes stay as they are.
        unsafe { call(number::EXIT_GROUP, [134, 0, 0, 0, 0, 0]) };
    }
}
