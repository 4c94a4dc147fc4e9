//! CRIU's own definitions of its images, and messages read through them.
//!
//! ```text
//!   proto/criu/*.proto ─ build.rs ─▶ descriptors ─┐
//!   bytes of an entry ────────────────────────────┴─▶ View: fields by name, nothing copied, nothing lost
//! ```
//! A message is never taken apart and put together again: what is not described (a newer CRIU's fields) stays where it is.

use std::sync::LazyLock;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use super::wire::{self, Value};

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/images.descriptors")).as_ref()).unwrap_or_default());

/// Deepest nesting of messages; CRIU's own is at most seven, but for directories of cgroups.
const DEEPEST: u32 = 64;

/// Makes the definitions ready, which takes some milliseconds, once: where time matters it should be done before.
pub fn ready() {
    LazyLock::force(&POOL);
}

/// The definition of a message; `None` if CRIU has none of that name.
#[must_use]
pub fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(name)
}

/// The name of a value of an enumeration; `None` if CRIU's definitions have neither.
#[must_use]
pub fn value(enumeration: &str, number: u64) -> Option<String> {
    Some(POOL.get_enum_by_name(enumeration)?.get_value(i32::try_from(number).ok()?)?.name().to_owned())
}

/// A message and what it means.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Its definition.
    pub descriptor: MessageDescriptor,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// The message of that name. What it holds has been checked when its image was read.
    #[must_use]
    pub fn new(descriptor: MessageDescriptor, bytes: &'a [u8]) -> Self {
        Self { descriptor, bytes }
    }

    /// The values of a field in order, as they are on the wire; packed numbers are one value.
    fn values(&self, name: &str) -> impl Iterator<Item = (FieldDescriptor, Value<'a>)> + use<'a> {
        let field = self.descriptor.get_field_by_name(name);
        debug_assert!(field.is_some(), "{} has no {name}", self.descriptor.name());
        let bytes = self.bytes;
        field.into_iter().flat_map(move |field| {
            let number = u64::from(field.number());
            wire::Fields(bytes).filter(move |found| found.number == number).map(move |found| (field.clone(), found.value))
        })
    }

    /// A number or boolean, the last one if there are several. Numbers with a sign are sign-extended: `as i64` gives them back.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let last = self.values(name).last();
        last.and_then(|(field, value)| match value {
            Value::Number(value) => Some(plain(&field, value)),
            Value::Bytes(packed) => unpack(&field, packed)?.pop(),
        })
    }

    /// A number that fits 32 bits.
    #[must_use]
    pub fn word(&self, name: &str) -> Option<u32> {
        self.number(name).and_then(|value| u32::try_from(value).ok())
    }

    /// A number with a sign.
    #[must_use]
    pub fn signed(&self, name: &str) -> Option<i64> {
        self.number(name).map(u64::cast_signed)
    }

    /// Whether a boolean is set.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.number(name).is_some_and(|value| value != 0)
    }

    /// All numbers of a field, packed or not.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (field, value) in self.values(name) {
            match value {
                Value::Number(value) => numbers.push(plain(&field, value)),
                Value::Bytes(packed) => numbers.extend(unpack(&field, packed).unwrap_or_default()),
            }
        }
        numbers
    }

    /// Bytes or text, the last one if there are several.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.values(name).filter_map(|(_, value)| if let Value::Bytes(bytes) = value { Some(bytes) } else { None }).last()
    }

    /// All values of bytes or text.
    #[must_use]
    pub fn all_bytes(&self, name: &str) -> Vec<&'a [u8]> {
        self.values(name).filter_map(|(_, value)| if let Value::Bytes(bytes) = value { Some(bytes) } else { None }).collect()
    }

    /// A text. CRIU does not care for UTF-8: names of files are what the kernel says; what is none is replaced here.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.bytes(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A message inside.
    #[must_use]
    pub fn view(&self, name: &str) -> Option<View<'a>> {
        self.views(name).pop()
    }

    /// All messages of a field.
    #[must_use]
    pub fn views(&self, name: &str) -> Vec<View<'a>> {
        self.values(name)
            .filter_map(|(field, value)| match (field.kind(), value) {
                (Kind::Message(descriptor), Value::Bytes(bytes)) => Some(View { descriptor, bytes }),
                _ => None,
            })
            .collect()
    }

    /// The name of an enumeration's value, or the number where CRIU's definition has none.
    #[must_use]
    pub fn word_of(&self, name: &str) -> Option<String> {
        let number = self.number(name)?;
        let Kind::Enum(values) = self.descriptor.get_field_by_name(name)?.kind() else { return Some(number.to_string()) };
        let value = i32::try_from(number).ok().and_then(|number| values.get_value(number));
        Some(value.map_or_else(|| number.to_string(), |value| value.name().to_owned()))
    }
}

/// Some numbers of many messages of one kind: their fields are looked up once. The last value of each counts.
#[derive(Clone, Debug)]
pub struct Columns<const N: usize>([Option<FieldDescriptor>; N]);

impl<const N: usize> Columns<N> {
    /// These fields of the message of that name.
    #[must_use]
    pub fn of(name: &str, fields: [&str; N]) -> Self {
        let descriptor = message(name);
        Self(fields.map(|field| descriptor.as_ref().and_then(|descriptor| descriptor.get_field_by_name(field))))
    }

    /// Reads them.
    #[must_use]
    pub fn read(&self, bytes: &[u8]) -> [Option<u64>; N] {
        let mut values = [None; N];
        for found in wire::Fields(bytes) {
            let Value::Number(value) = found.value else { continue };
            for (field, slot) in self.0.iter().zip(&mut values) {
                if let Some(field) = field.as_ref().filter(|field| u64::from(field.number()) == found.number) {
                    *slot = Some(plain(field, value));
                }
            }
        }
        values
    }
}

/// Checks that bytes are such a message: every field well formed and of its type, nothing missing that is required. Gives the number of fields that the
/// definition does not have.
///
/// # Errors
/// What is wrong, in words.
pub fn check(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<u32, String> {
    inside(descriptor, bytes, 0)
}

fn inside(descriptor: &MessageDescriptor, bytes: &[u8], depth: u32) -> Result<u32, String> {
    if depth > DEEPEST {
        return Err(format!("{} is nested too deeply", descriptor.name()));
    }
    let mut fields = wire::Fields(bytes);
    let mut unknown = 0;
    // No message of CRIU's has fields above 64 that are required.
    let mut seen = 0_u64;
    for found in &mut fields {
        let Some(field) = u32::try_from(found.number).ok().and_then(|number| descriptor.get_field(number)) else {
            unknown += 1;
            continue;
        };
        seen |= 1_u64.checked_shl(field.number()).unwrap_or(0);
        let wrong = || format!("{}.{} is of another type", descriptor.name(), field.name());
        match (field.kind(), found.value, found.fixed) {
            (Kind::Message(inner), Value::Bytes(bytes), _) => unknown += inside(&inner, bytes, depth + 1)?,
            (Kind::String | Kind::Bytes, Value::Bytes(_), _) => {}
            (Kind::Message(_) | Kind::String | Kind::Bytes, Value::Number(_), _) => return Err(wrong()),
            (_, Value::Bytes(packed), _) if field.is_list() => drop(unpack(&field, packed).ok_or_else(wrong)?),
            (_, Value::Bytes(_), _) => return Err(wrong()),
            (kind, Value::Number(value), fixed) => {
                if fixed != width(&kind) || (matches!(kind, Kind::Bool) && value > 1) || (is_word(&kind) && u32::try_from(value).is_err()) {
                    return Err(wrong());
                }
            }
        }
    }
    if !fields.0.is_empty() {
        return Err(format!("{} is not well formed", descriptor.name()));
    }
    let missing = descriptor.fields().find(|field| field.cardinality() == Cardinality::Required && seen >> field.number().min(63) & 1 == 0);
    missing.map_or(Ok(unknown), |field| Err(format!("{}.{} is missing", descriptor.name(), field.name())))
}

/// Bytes of a number of fixed width; `None` for variable ones.
fn width(kind: &Kind) -> Option<u8> {
    match kind {
        Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => Some(4),
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => Some(8),
        _ => None,
    }
}

fn is_word(kind: &Kind) -> bool {
    matches!(kind, Kind::Uint32 | Kind::Sint32 | Kind::Fixed32)
}

/// A number without the encoding of its sign.
pub(super) fn plain(field: &FieldDescriptor, value: u64) -> u64 {
    match field.kind() {
        Kind::Sint32 | Kind::Sint64 => (value >> 1) ^ (value & 1).wrapping_neg(),
        _ => value,
    }
}

pub(super) fn unpack(field: &FieldDescriptor, packed: &[u8]) -> Option<Vec<u64>> {
    Some(wire::unpack(packed, width(&field.kind()))?.into_iter().map(|value| plain(field, value)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_are_read_by_name() {
        let entry = message("pstree_entry").unwrap();
        let bytes = [0x08, 0x96, 0x01, 0x10, 1, 0x18, 2, 0x20, 3, 0x28, 7, 0x28, 8];
        assert_eq!(check(&entry, &bytes), Ok(0));
        let view = View::new(entry, &bytes);
        assert_eq!((view.number("pid"), view.word("ppid"), view.numbers("threads")), (Some(150), Some(1), vec![7, 8]));
    }

    #[test]
    fn what_is_required_must_be_there_and_of_its_type() {
        let entry = message("pstree_entry").unwrap();
        assert_eq!(check(&entry, &[0x08, 1, 0x10, 1, 0x18, 2]).unwrap_err(), "pstree_entry.sid is missing");
        assert_eq!(check(&entry, &[0x0a, 1, 0, 0x10, 1, 0x18, 2, 0x20, 3]).unwrap_err(), "pstree_entry.pid is of another type");
        assert_eq!(check(&entry, &[0x0d, 1, 0, 0, 0, 0x10, 1, 0x18, 2, 0x20, 3]).unwrap_err(), "pstree_entry.pid is of another type");
        assert_eq!(check(&entry, &[0x08, 1, 0x10, 1, 0x18, 2, 0x20]).unwrap_err(), "pstree_entry is not well formed");
        assert_eq!(check(&entry, &[0x08, 1, 0x10, 1, 0x18, 2, 0x20, 3, 0xf8, 1, 9]), Ok(1), "a newer field is counted");
    }

    #[test]
    fn signs_are_kept() {
        let file = message("reg_file_entry").unwrap();
        assert_eq!(View::new(file.clone(), &[0x38, 1]).signed("mnt_id"), Some(-1));
        assert_eq!(View::new(file, &[0x38, 14]).signed("mnt_id"), Some(7));
        let lock = message("file_lock_entry").unwrap();
        assert_eq!(View::new(lock, &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).signed("pid"), Some(-1));
    }
}
