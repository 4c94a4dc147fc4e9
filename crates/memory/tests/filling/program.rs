//! The program that is filled.
#![allow(unsafe_code)]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::libc;

use super::{BASE, PAGES, content};

const THREADS: u64 = 3;
const STEPS: usize = 400;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// What a page is expected to hold.
#[derive(Clone, Copy)]
enum Expected {
    Frozen(u64),
    Zero,
    Written(u64),
}

/// Memory of one thread: where it is, and what each page holds.
struct Piece {
    start: u64,
    pages: Vec<Expected>,
}

fn fail(what: &str) -> ! {
    println!("bad {what}: {}", std::io::Error::last_os_error());
    std::process::exit(3);
}

/// Goes on as a restored process with this history.
pub fn run(history: &str, path: &str) -> ! {
    restore(path);
    match history {
        "alone" => {
            check_all();
            println!("good, all of it");
        }
        "parent" => {
            // SAFETY: there is one thread.
            if unsafe { libc::fork() } != 0 {
                // SAFETY: ends the parent, whose child has nothing yet.
                unsafe { libc::_exit(0) };
            }
            check_all();
            println!("good, all of it in the child");
        }
        seed => println!("good {} steps", threads(seed.parse().unwrap())),
    }
    std::process::exit(0);
}

fn check_all() {
    (0..PAGES).for_each(|number| check(BASE + number * 4096, Expected::Frozen(number)));
}

/// As CRIU does: memory is where it was, and whoever listens at the path fills it.
fn restore(path: &str) {
    let length = (PAGES * 4096) as usize;
    // SAFETY: a place far from everything that is mapped.
    let start = unsafe {
        libc::mmap(
            BASE as *mut libc::c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        fail("mmap");
    }
    // SAFETY: flags only.
    let uffd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) } as i32;
    // EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, EVENT_UNMAP, as CRIU asks for.
    let mut api = [0xaau64, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6, 0];
    // MODE_MISSING.
    let mut register = [BASE, length as u64, 1, 0];
    // SAFETY: uffdio_api is three u64, uffdio_register four.
    if unsafe { libc::ioctl(uffd, 0xc018_aa3f, api.as_mut_ptr()) } != 0 || unsafe { libc::ioctl(uffd, 0xc020_aa00, register.as_mut_ptr()) } != 0 {
        fail("userfaultfd");
    }
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(&1i32.to_le_bytes()).unwrap();
    let numbers = [uffd];
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&numbers)];
    nix::sys::socket::sendmsg::<()>(stream.as_raw_fd(), &[std::io::IoSlice::new(&[0])], &rights, nix::sys::socket::MsgFlags::empty(), None).unwrap();
    // SAFETY: the pager has its own.
    unsafe { libc::close(uffd) };
    // A fault before the restore has finished.
    check(BASE + 17 * 4096, Expected::Frozen(17));
    stream.write_all(&0x5253_5446i32.to_le_bytes()).unwrap();
}

fn threads(seed: u64) -> usize {
    // Each thread has every third piece of a hundred pages.
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || {
                let pieces = (0..PAGES / 100).filter(|piece| piece % THREADS == thread);
                let pieces =
                    pieces.map(|piece| Piece { start: BASE + piece * 100 * 4096, pages: (piece * 100..piece * 100 + 100).map(Expected::Frozen).collect() });
                history(Random(seed * 31 + thread + 1), pieces.collect())
            })
        })
        .collect();
    let mut steps = 0;
    for thread in threads {
        steps += thread.join().unwrap_or_else(|_| fail("a thread"));
    }
    steps
}

fn check(address: u64, expected: Expected) {
    // SAFETY: a mapped page of the calling thread's.
    let page = unsafe { std::slice::from_raw_parts(address as *const u8, 4096) };
    let good = match expected {
        Expected::Frozen(number) => page == content(number),
        Expected::Zero => page.iter().all(|byte| *byte == 0),
        Expected::Written(value) => page[..8] == value.to_le_bytes(),
    };
    if !good {
        let (first, wanted) = (
            &page[..8],
            match expected {
                Expected::Frozen(number) => number as i64,
                Expected::Zero => -1,
                Expected::Written(value) => value as i64,
            },
        );
        fail(&format!("page {address:#x}: {first:?}, expected {wanted}"));
    }
}

fn history(mut random: Random, mut pieces: Vec<Piece>) -> usize {
    for step in 0..STEPS {
        let at = random.below(pieces.len());
        let many = pieces.len() > 20;
        let piece = &mut pieces[at];
        let count = piece.pages.len();
        let first = random.below(count);
        let part = random.below(count - first) + 1;
        let address = piece.start + first as u64 * 4096;
        match random.below(12) {
            0 => {
                // SAFETY: inside a piece of this thread's.
                if unsafe { libc::madvise(address as *mut libc::c_void, part * 4096, libc::MADV_DONTNEED) } != 0 {
                    fail("madvise");
                }
                piece.pages[first..first + part].fill(Expected::Zero);
            }
            1 => {
                // SAFETY: a new place, then the whole piece moves there.
                let moved = unsafe {
                    let place = libc::mmap(std::ptr::null_mut(), count * 4096, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
                    libc::mremap(piece.start as *mut libc::c_void, count * 4096, count * 4096, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place)
                };
                if moved == libc::MAP_FAILED {
                    fail("mremap");
                }
                piece.start = moved as u64;
            }
            2 if many => {
                let piece = pieces.swap_remove(at);
                // SAFETY: a piece of this thread's.
                if unsafe { libc::munmap(piece.start as *mut libc::c_void, count * 4096) } != 0 {
                    fail("munmap");
                }
            }
            3 if count > 4 => {
                // The tail goes.
                let rest = count / 2;
                // SAFETY: the second half of a piece of this thread's.
                if unsafe { libc::munmap((piece.start + rest as u64 * 4096) as *mut libc::c_void, (count - rest) * 4096) } != 0 {
                    fail("munmap of a part");
                }
                piece.pages.truncate(rest);
            }
            4 if step % 4 == 0 => {
                // SAFETY: the child only reads and writes memory of its own and ends.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    for (offset, expected) in piece.pages.iter().enumerate() {
                        check(piece.start + offset as u64 * 4096, *expected);
                        write(piece.start + offset as u64 * 4096, 1);
                    }
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) };
                }
                let mut status = 0;
                // SAFETY: waits for the own child.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                if status != 0 {
                    fail("the child");
                }
            }
            5..=7 => {
                let value = (step as u64) << 32 | 0xabc;
                for page in first..first + part.min(10) {
                    write(piece.start + page as u64 * 4096, value);
                    piece.pages[page] = Expected::Written(value);
                }
            }
            _ => {
                for page in first..first + part.min(20) {
                    check(piece.start + page as u64 * 4096, piece.pages[page]);
                }
            }
        }
    }
    for piece in &pieces {
        for (offset, expected) in piece.pages.iter().enumerate() {
            check(piece.start + offset as u64 * 4096, *expected);
        }
    }
    STEPS
}

fn write(address: u64, value: u64) {
    // SAFETY: a mapped page of the calling thread's.
    unsafe { (address as *mut u64).write_volatile(value) };
}
