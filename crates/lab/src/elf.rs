//! Whether a program needs a dynamic linker. Source of the layout: elf(5), 64-bit.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Type of the program header that names the dynamic linker.
const PT_INTERP: u32 = 3;

/// Whether the file is a 64-bit little-endian ELF program that names no dynamic linker.
pub fn is_static(path: &Path) -> bool {
    interpreter(path) == Some(false)
}

/// Whether a program header PT_INTERP is there; none if the file is no such program.
fn interpreter(path: &Path) -> Option<bool> {
    let file = File::open(path).ok()?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let word = |at: usize| {
        let bytes = header.get(at..at + 2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    };
    let table = u64::from_le_bytes(header.get(0x20..0x28)?.try_into().ok()?);
    let (size, count) = (u64::from(word(0x36)?), u64::from(word(0x38)?));
    for number in 0..count {
        let mut kind = [0; 4];
        let at = table.checked_add(number * size)?;
        file.read_exact_at(&mut kind, at).ok()?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_shell_is_dynamic_and_a_text_is_no_program() {
        assert_eq!(interpreter(Path::new("/bin/sh")), Some(true));
        assert_eq!(interpreter(Path::new("/etc/passwd")), None);
        assert!(!is_static(Path::new("/nonexistent")));
    }
}
