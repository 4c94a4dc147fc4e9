//! A BPF iterator that tells a task's mappings: the program is in this file, instruction by instruction (Documentation/bpf/standardization/instruction-set.rst).
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

use super::Flagged;
use super::btf::Places;
use crate::range::Range;

/// Commands of bpf(2), its types of programs and attachments, and a helper (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const ITER_CREATE: libc::c_int = 33;
const TRACING: u32 = 26;
const TRACE_ITER: u32 = 28;
const SEQ_WRITE: i32 = 127;
/// Only programs that say so may call that helper; what it says is that these few instructions may be used by everybody.
const LICENCE: &std::ffi::CStr = c"Dual MIT/GPL";
/// Bytes that the program tells of each mapping: three 64-bit words.
const TOLD: usize = 24;
/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// The lower four bits: where to; the upper ones: where from.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The members of `union bpf_attr` that PROG_LOAD looks at.
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    /// Debugging information, which there is none of.
    information: [u32; 9],
    attach_to: u32,
}

/// Those that LINK_CREATE looks at.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    information: u64,
    length: u32,
    padding: u32,
}

/// `union bpf_iter_link_info` for tasks: one thread, since every thread would tell the same mappings again.
#[repr(C)]
struct Task {
    thread: u32,
    process: u32,
    process_file: u32,
}

/// The loaded program.
#[derive(Debug)]
pub struct Mappings {
    program: OwnedFd,
}

/// bpf(2).
fn bpf<T>(command: libc::c_int, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is live and of the size that is said; the kernel only reads it, and what it points to lives in the callers' frames.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    match libc::c_int::try_from(result) {
        // SAFETY: each of the three commands answers with a fresh descriptor that nobody else owns.
        Ok(file) if file >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number(file: &OwnedFd) -> u32 {
    file.as_raw_fd().cast_unsigned()
}

/// `int tell(struct bpf_iter__task_vma *context)`: writes vm_start, vm_end and vm_flags of `context->vma`, if there is one, to `context->meta->seq`.
fn program(places: &Places) -> [Instruction; 17] {
    const LOAD: u8 = 0x79; // to = *(u64 *)(from + offset)
    const STORE: u8 = 0x7b; // *(u64 *)(to + offset) = from
    const COPY: u8 = 0xbf;
    const SET: u8 = 0xb7;
    const ADD: u8 = 0x07;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const FRAME: u8 = 10;
    let one = |code, to: u8, from: u8, offset, immediate| Instruction { code, registers: from << 4 | to, offset, immediate };
    [
        one(COPY, 6, 1, 0, 0),
        one(LOAD, 7, 6, 16, 0),
        one(JUMP_IF_EQUAL, 7, 0, 12, 0),
        one(LOAD, 1, 7, places.start, 0),
        one(STORE, FRAME, 1, -24, 0),
        one(LOAD, 1, 7, places.end, 0),
        one(STORE, FRAME, 1, -16, 0),
        one(LOAD, 1, 7, places.flags, 0),
        one(STORE, FRAME, 1, -8, 0),
        one(LOAD, 1, 6, 0, 0),
        one(LOAD, 1, 1, 0, 0),
        one(COPY, 2, FRAME, 0, 0),
        one(ADD, 2, 0, 0, -24),
        one(SET, 3, 0, 0, 24),
        one(CALL, 0, 0, 0, SEQ_WRITE),
        one(SET, 0, 0, 0, 0),
        one(EXIT, 0, 0, 0, 0),
    ]
}

impl Mappings {
    /// Gives the program to the kernel.
    ///
    /// # Errors
    /// When it does not take it, or this process may not.
    pub fn load(places: &Places) -> io::Result<Self> {
        let program = program(places);
        let load = Load {
            program_type: TRACING,
            count: u32::try_from(program.len()).unwrap_or(0),
            instructions: program.as_ptr() as u64,
            licence: LICENCE.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"godwit_mappings\0",
            interface: 0,
            attach_type: TRACE_ITER,
            information: [0; 9],
            attach_to: places.function,
        };
        bpf(PROG_LOAD, &load).map(|program| Self { program }).map_err(|error| io::Error::new(error.kind(), format!("an iterator of mappings: {error}")))
    }

    /// The mappings of a process in order of their addresses.
    ///
    /// # Errors
    /// When it has ended.
    pub fn read(&self, pid: i32) -> io::Result<Vec<Flagged>> {
        let task = Task { thread: pid.cast_unsigned(), process: 0, process_file: 0 };
        let link = Link {
            program: number(&self.program),
            target: 0,
            attach_type: TRACE_ITER,
            flags: 0,
            information: std::ptr::from_ref(&task) as u64,
            length: u32::try_from(size_of::<Task>()).unwrap_or(0),
            padding: 0,
        };
        let link = bpf(LINK_CREATE, &link)?;
        let mut file = File::from(bpf(ITER_CREATE, &[number(&link), 0])?);
        let (mut told, mut rest, mut piece) = (Vec::<Flagged>::new(), Vec::new(), vec![0; PIECE]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => rest.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            let whole = rest.len() - rest.len() % TOLD;
            for one in rest.drain(..whole).collect::<Vec<u8>>().chunks_exact(TOLD).map(flagged) {
                // Where it told more than the kernel's buffer holds, or had to wait for the mappings' lock, it does not know that it has come to the end, and tells the last
                // buffer again and again (kernel/bpf/task_iter.c, `task_vma_seq_get_next` of a single thread).
                if told.last().is_some_and(|last| one.range.start < last.range.end) {
                    return Ok(told);
                }
                told.push(one);
            }
        }
        if told.is_empty() || !rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has no mappings")));
        }
        Ok(told)
    }
}

/// What the program wrote of one mapping.
fn flagged(told: &[u8]) -> Flagged {
    let word = |at: usize| told.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
    Flagged { range: Range { start: word(0), end: word(8) }, bits: word(16) }
}
