//! Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst): the kernel marks pages that were written since the marks were last taken away.
//!
//! Marks cannot be read and taken away in one step: what is written in between would be lost. So they are taken away *before* all memory is looked at, and asked only in
//! the end, when the process stands still: what is not marked then is as it was when it was looked at.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::PAGE;
use crate::scan::Patch;

/// In an entry of the pagemap.
pub const MARK: u64 = 1 << 55;

/// Whether this kernel has soft-dirty bits (`CONFIG_MEM_SOFT_DIRTY`), found out by trying once.
#[must_use]
pub fn is_supported() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| works().unwrap_or(false))
}

/// Takes the marks of a process away.
pub fn clear(pid: i32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "4")
}

/// A page is marked once it was written, not marked when the marks were taken away, and marked when it is written again.
fn works() -> io::Result<bool> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let patch = Patch::new()?;
    let marked = || {
        let mut entry = [0u8; 8];
        pagemap.read_exact_at(&mut entry, patch.range().start / PAGE * 8).map(|()| u64::from_ne_bytes(entry) & MARK != 0)
    };
    let at_first = marked()?;
    clear(std::process::id().cast_signed())?;
    let cleared = marked()?;
    patch.write();
    Ok(at_first && !cleared && marked()?)
}
