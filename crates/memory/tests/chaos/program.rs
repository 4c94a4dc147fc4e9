//! The program that is tracked. It says `ready`, and after that only what it has to complain about.
#![allow(unsafe_code)]

use nix::libc;

/// Mappings of one thread.
const SLOTS: usize = 12;
/// The first of them stay where they are: there before the tracking begins, they are what travels in the end.
const SETTLED: usize = 5;
/// Room behind each of these, into which something is moved now and then.
const ROOM: usize = 64 * 4096;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Runs until it is killed.
pub fn run(seed: u64, huge: bool) -> ! {
    // SAFETY: the only thing asked is to be killed when the test ends.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let threads: Vec<_> = (0..3u64).map(|thread| std::thread::spawn(move || chaos(Random(seed * 1000 + thread * 77 + 1), huge))).collect();
    std::thread::sleep(std::time::Duration::from_millis(150));
    println!("ready");
    for thread in threads {
        let _ = thread.join();
    }
    println!("a thread has ended");
    std::process::exit(1);
}

fn complain(what: &str) {
    println!("{what}: {}", std::io::Error::last_os_error());
}

/// Writes a word into every page.
unsafe fn fill(start: *mut u8, length: usize, random: &mut Random) {
    for offset in (0..length).step_by(4096) {
        let value = random.next();
        // Now and then a page becomes zero again.
        // SAFETY: the caller owns the range.
        unsafe {
            if value.is_multiple_of(31) {
                std::ptr::write_bytes(start.add(offset), 0, 4096);
            } else {
                start.add(offset + (value % 511) as usize * 8).cast::<u64>().write_volatile(value);
            }
        }
    }
}

fn map(at: *mut libc::c_void, length: usize, flags: i32) -> *mut u8 {
    // SAFETY: either a new place, or (MAP_FIXED) one that the caller owns.
    let start = unsafe { libc::mmap(at, length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags, -1, 0) };
    if start == libc::MAP_FAILED { std::ptr::null_mut() } else { start.cast() }
}

/// Something new is moved to the side of a mapping, where the kernel may join the two, and goes again.
unsafe fn brush(start: *mut u8, length: usize, random: &mut Random) {
    let part = (random.below(ROOM / 4096) + 1) * 4096;
    let new = map(std::ptr::null_mut(), part, 0);
    if new.is_null() {
        return;
    }
    // SAFETY: the room behind the mapping is the caller's, and reserved.
    unsafe {
        let room = start.add(length);
        if random.next().is_multiple_of(4) {
            fill(new, part, random);
        }
        std::thread::sleep(std::time::Duration::from_micros(random.next() % 3000));
        if libc::mremap(new.cast(), part, part, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, room) == libc::MAP_FAILED {
            complain("mremap to the side");
        }
        let first = random.below(length / 4096);
        fill(start.add(first * 4096), (length - first * 4096).min(1 << 20), random);
        reserve(room);
    }
}

/// Nothing but room.
unsafe fn reserve(room: *mut u8) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: a range of the caller's.
    if unsafe { libc::mmap(room.cast(), ROOM, libc::PROT_NONE, flags, -1, 0) } == libc::MAP_FAILED {
        complain("room");
    }
}

#[allow(clippy::too_many_lines)]
fn chaos(mut random: Random, huge: bool) {
    let mut places: [(*mut u8, usize); SLOTS] = [(std::ptr::null_mut(), 0); SLOTS];
    // SAFETY: a path of ours, flags only.
    let noise = unsafe { libc::open(c"/dev/urandom".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    for place in places.iter_mut().take(SETTLED) {
        let length = (random.below(1500) + 100) * 4096;
        let start = map(std::ptr::null_mut(), length + ROOM, 0);
        if start.is_null() {
            complain("mmap");
            continue;
        }
        // SAFETY: a mapping of ours.
        unsafe {
            reserve(start.add(length));
            fill(start, length, &mut random);
        }
        *place = (start, length);
    }
    loop {
        let slot = random.below(SLOTS);
        let (start, length) = places[slot];
        if start.is_null() {
            let mut length = (random.below(1500) + 1) * 4096;
            if random.next().is_multiple_of(2) {
                length = length.next_multiple_of(2 << 20);
            }
            let start = map(std::ptr::null_mut(), length, 0);
            if !start.is_null() {
                // SAFETY: a mapping of ours.
                unsafe {
                    if huge {
                        libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE);
                    }
                    fill(start, length, &mut random);
                }
                places[slot] = (start, length);
            }
            continue;
        }
        let pages = length / 4096;
        let first = random.below(pages);
        let part = (random.below(pages - first) + 1) * 4096;
        // SAFETY: inside a mapping of ours, here and below; all pointers are to what this thread has mapped and nobody else knows.
        let inside = unsafe { start.add(first * 4096) };
        unsafe {
            // What is settled stays and stays as large as it is.
            let what = match random.next() % 16 {
                0 | 1 | 4 | 5 if slot < SETTLED => 12,
                12 if slot >= SETTLED => 13,
                what => what,
            };
            match what {
                0 => {
                    libc::munmap(start.cast(), length);
                    places[slot] = (std::ptr::null_mut(), 0);
                }
                1 => {
                    let wanted = (random.below(2000) + 1) * 4096;
                    let moved = libc::mremap(start.cast(), length, wanted, libc::MREMAP_MAYMOVE);
                    if moved == libc::MAP_FAILED {
                        complain("mremap");
                    } else {
                        places[slot] = (moved.cast(), wanted);
                    }
                }
                2 => drop(libc::madvise(inside.cast(), part, libc::MADV_DONTNEED)),
                3 => drop(libc::madvise(inside.cast(), part, libc::MADV_FREE)),
                4 => {
                    if map(start.cast(), length, libc::MAP_FIXED).is_null() {
                        complain("MAP_FIXED");
                    }
                    if random.next().is_multiple_of(2) {
                        fill(start, length / 8192 * 4096, &mut random);
                    }
                }
                5 => {
                    let place = map(std::ptr::null_mut(), length, 0);
                    if place.is_null() {
                        continue;
                    }
                    let moved = libc::mremap(start.cast(), length, length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place);
                    if moved == libc::MAP_FAILED {
                        complain("mremap MREMAP_FIXED");
                        libc::munmap(place.cast(), length);
                    } else {
                        places[slot] = (moved.cast(), length);
                    }
                }
                6 => {
                    for protection in [libc::PROT_READ, libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
                        libc::mprotect(inside.cast(), part, protection);
                    }
                    inside.write_volatile(1);
                }
                7 => drop(libc::read(noise, inside.cast(), part.min(65536))),
                8 => {
                    let child = libc::fork();
                    if child == 0 {
                        fill(start, length, &mut random);
                        libc::_exit(0);
                    }
                    fill(inside, part, &mut random);
                    if child > 0 {
                        libc::waitpid(child, std::ptr::null_mut(), 0);
                    }
                }
                9 => {
                    let place = libc::sbrk(1 << 16);
                    if place as isize != -1 {
                        fill(place.cast(), 1 << 16, &mut random);
                    }
                    let block = libc::malloc(100_000);
                    std::ptr::write_bytes(block.cast::<u8>(), (random.next() % 255) as u8, 100_000);
                    if random.next().is_multiple_of(2) {
                        libc::free(block);
                    }
                }
                10 => drop(libc::madvise(inside.cast(), part, 23)), // MADV_POPULATE_WRITE
                11 => {
                    inside.read_volatile();
                    libc::madvise(inside.cast(), part, 21); // MADV_PAGEOUT
                }
                12 => brush(start, length, &mut random),
                _ => fill(inside, part, &mut random),
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(random.next() % 1500));
    }
}
