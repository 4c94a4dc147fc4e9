//! The little that must be known of this kernel's types (Documentation/bpf/btf.rst): where a mapping's fields lie, and the number of the function that an iterator of mappings has.
//! Read in one pass and forgotten: the whole would be some hundred thousand objects.

use std::fs;
use std::io;

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Kinds (include/uapi/linux/btf.h).
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNCTION: u32 = 12;
    pub const PROTOTYPE: u32 = 13;
    pub const VARIABLE: u32 = 14;
    pub const SECTION: u32 = 15;
    pub const TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
}

/// What an iterator of mappings needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Number of the type of `bpf_iter_task_vma`.
    pub function: u32,
    /// Where in a `vm_area_struct` these lie, in bytes.
    pub start: i16,
    /// See `start`.
    pub end: i16,
    /// See `start`.
    pub flags: i16,
}

/// Of the kernel that runs.
///
/// # Errors
/// When it does not tell its types, or has no such iterator, or one that is not safe.
pub fn read() -> io::Result<Places> {
    let bytes = fs::read(PATH).map_err(|error| io::Error::new(error.kind(), format!("{PATH}: {error}")))?;
    Types::of(&bytes)
        .and_then(|types| types.places())
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "this kernel has no iterator of mappings, or an early one (before Linux 6.1.8)"))
}

/// All types, one behind the other.
struct Types<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
}

/// One type.
#[derive(Clone, Copy)]
struct Type<'a> {
    number: u32,
    name: &'a [u8],
    kind: u32,
    /// Whether places of members are bit numbers in their lower three bytes only.
    packed: bool,
    /// What follows the head.
    rest: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn part(bytes: &[u8], head: usize, at: u32, length: u32) -> Option<&[u8]> {
    let start = head.checked_add(usize::try_from(at).ok()?)?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

impl<'a> Types<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let head = usize::try_from(word(bytes, 4)?).ok()?;
        let field = |number: usize| word(bytes, 8 + number * 4);
        Some(Self { bytes: part(bytes, head, field(0)?, field(1)?)?, strings: part(bytes, head, field(2)?, field(3)?)? })
    }

    fn places(&self) -> Option<Places> {
        let function = self.find(|one| one.kind == kind::FUNCTION && one.name == b"bpf_iter_task_vma")?;
        let mapping = self.find(|one| one.kind == kind::STRUCT && one.name == b"vm_area_struct")?;
        // It has come with the repair of a walk that met tasks about to end and could bring the kernel down (Linux 6.2 and 6.1.8).
        let walk = self.find(|one| one.kind == kind::STRUCT && one.name == b"bpf_iter_seq_task_vma_info")?;
        self.member(walk, b"mm")?;
        let place = |name: &str| i16::try_from(self.member(mapping, name.as_bytes())?).ok();
        Some(Places { function: function.number, start: place("vm_start")?, end: place("vm_end")?, flags: place("vm_flags")? })
    }

    fn find(&self, wanted: impl Fn(&Type<'a>) -> bool) -> Option<Type<'a>> {
        let (mut at, mut number) = (0, 1);
        while let Some((one, next)) = self.one(at, number) {
            if wanted(&one) {
                return Some(one);
            }
            (at, number) = (next, number + 1);
        }
        None
    }

    /// The type at a place, and the place of the next one.
    fn one(&self, at: usize, number: u32) -> Option<(Type<'a>, usize)> {
        let (name, information) = (word(self.bytes, at)?, word(self.bytes, at + 4)?);
        let (kind, count) = (information >> 24 & 31, usize::try_from(information & 0xffff).ok()?);
        let length = match kind {
            kind::INT | kind::VARIABLE | kind::TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => 12 * count,
            kind::ENUM | kind::PROTOTYPE => 8 * count,
            _ => 0,
        };
        let start = at + 12;
        let rest = self.bytes.get(start..start + length)?;
        Some((Type { number, name: self.name(name)?, kind, packed: information >> 31 == 1, rest }, start + length))
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(usize::try_from(at).ok()?..)?;
        rest.split(|byte| *byte == 0).next()
    }

    /// Where a member begins, in bytes; also one of a structure without a name within.
    fn member(&self, of: Type<'a>, wanted: &[u8]) -> Option<u32> {
        for member in of.rest.chunks_exact(12) {
            let (name, kind, place) = (self.name(word(member, 0)?)?, word(member, 4)?, word(member, 8)?);
            let place = if of.packed { place & 0x00ff_ffff } else { place } / 8;
            if name == wanted {
                return Some(place);
            }
            if name.is_empty()
                && let Some(inner) = self.find(|one| one.number == kind).filter(|one| matches!(one.kind, kind::STRUCT | kind::UNION))
                && let Some(within) = self.member(inner, wanted)
            {
                return Some(place + within);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Types in the kernel's form.
    fn encode(types: &[&[u32]], strings: &str) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|words| words.iter().flat_map(|word| word.to_ne_bytes())).collect();
        let mut bytes = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
        for word in [24, 0, types.len(), types.len(), strings.len()] {
            bytes.extend(u32::try_from(word).unwrap().to_ne_bytes());
        }
        [bytes, types, strings.as_bytes().to_vec()].concat()
    }

    #[test]
    fn members_are_found_also_in_structures_without_a_name() {
        let strings = "\0vm_area_struct\0vm_start\0vm_end\0vm_flags\0bpf_iter_task_vma\0long\0bpf_iter_seq_task_vma_info\0mm\0";
        let at = |word: &str| u32::try_from(strings.find(&format!("\0{word}\0")).unwrap() + 1).unwrap();
        let long = [at("long"), 1 << 24, 8, 64];
        let bounds = [0, 4 << 24 | 2, 16, at("vm_start"), 1, 0, at("vm_end"), 1, 64];
        let mapping = [at("vm_area_struct"), 1 << 31 | 4 << 24 | 2, 40, 0, 2, 64, at("vm_flags"), 1, 32 << 24 | 256];
        let function = [at("bpf_iter_task_vma"), 12 << 24, 0];
        let walk = [at("bpf_iter_seq_task_vma_info"), 4 << 24 | 1, 8, at("mm"), 1, 0];
        let early = encode(&[&long, &bounds, &mapping, &function], strings);
        assert_eq!(Types::of(&early).unwrap().places(), None);
        let bytes = encode(&[&long, &bounds, &mapping, &function, &walk], strings);
        assert_eq!(Types::of(&bytes).unwrap().places(), Some(Places { function: 4, start: 8, end: 16, flags: 32 }));
        // Cut short anywhere, it is not understood, and that is all.
        for length in 0..bytes.len() {
            assert_eq!(Types::of(&bytes[..length]).and_then(|types| types.places()), None, "{length}");
        }
    }
}
