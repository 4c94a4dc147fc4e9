//! Which two letters this kernel prints in `VmFlags` for each bit of a mapping's `vm_flags`: it goes through the bits from the lowest on (`show_smap_vma_flags`, fs/proc/task_mmu.c).

use super::Flagged;
use crate::maps::{self, VSYSCALL};

/// See the module.
#[derive(Debug)]
pub struct Letters {
    of: [Option<[u8; 2]>; 64],
    vsyscall: Option<String>,
}

impl Letters {
    /// From a process's smaps and the bits of its mappings at the same time. `None` when the two contradict each other.
    #[must_use]
    pub fn learn(smaps: &str, flagged: &[Flagged]) -> Option<Self> {
        let mut letters = Self { of: [None; 64], vsyscall: None };
        for (mapping, words) in maps::flagged(smaps) {
            if mapping.name == VSYSCALL {
                letters.vsyscall = Some(words.to_owned());
                continue;
            }
            let Some(one) = flagged.iter().find(|one| one.range == mapping.range) else { continue };
            let words: Vec<&str> = words.split_whitespace().collect();
            // A bit that is not printed at all (a protection key's): which of them it is cannot be told.
            if words.len() != usize::try_from(one.bits.count_ones()).ok()? {
                continue;
            }
            let bits = letters.of.iter_mut().enumerate().filter(|(bit, _)| one.bits >> bit & 1 == 1).map(|(_, place)| place);
            for (place, word) in bits.zip(words) {
                let word: [u8; 2] = word.as_bytes().try_into().ok()?;
                if *place.get_or_insert(word) != word {
                    return None;
                }
            }
        }
        Some(letters)
    }

    /// What stands behind `VmFlags: `; `None` when a bit is not known.
    #[must_use]
    pub fn of(&self, bits: u64) -> Option<String> {
        let mut words = String::new();
        for (_, place) in self.of.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1) {
            let [first, second] = (*place)?;
            words.extend([char::from(first), char::from(second), ' ']);
        }
        Some(words)
    }

    /// The same of the kernel's own page.
    #[must_use]
    pub fn vsyscall(&self) -> Option<&str> {
        self.vsyscall.as_deref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::range::Range;

    #[test]
    fn letters_go_with_bits_in_order() {
        let page = |number: u64, bits| Flagged { range: Range { start: number << 12, end: (number + 1) << 12 }, bits };
        let smaps = "00001000-00002000 r--p 00000000 00:00 0 \nRss: 4 kB\nVmFlags: rd mr \n00002000-00003000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr dc \n\
                     00003000-00004000 rw-p 00000000 00:00 0 \nVmFlags: rd \nffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\nVmFlags: ex \n";
        let letters = Letters::learn(smaps, &[page(1, 0b1_0001), page(2, 0b11_0011), page(3, 0b1000_0001)]).unwrap();
        assert_eq!(letters.of(0b10_0010).unwrap(), "wr dc ");
        assert_eq!(letters.of(0).unwrap(), "");
        assert_eq!(letters.vsyscall().unwrap().trim(), "ex");
        // Of the third mapping one bit was not printed.
        assert_eq!(letters.of(0b1000_0001), None);
        assert!(Letters::learn(smaps, &[page(1, 0b11), page(2, 0b11_0011)]).is_none());
    }
}
