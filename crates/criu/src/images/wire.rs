//! Protobuf's encoding (protobuf.dev/programming-guides/encoding): fields of a message, in place.

/// A value on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint, or a fixed 32- or 64-bit word.
    Number(u64),
    /// A string, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number in the definition.
    pub number: u64,
    /// Its value.
    pub value: Value<'a>,
    /// Bytes of a fixed word.
    pub fixed: Option<u8>,
    /// The whole of it, key and length too.
    pub all: &'a [u8],
}

/// The fields of a message in order. It ends early, with the rest in it, where the bytes are no message.
#[derive(Clone, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let mut rest = self.0;
        if rest.is_empty() {
            return None;
        }
        let key = varint(&mut rest)?;
        let (value, fixed) = match key & 7 {
            0 => (Value::Number(varint(&mut rest)?), None),
            1 => (Value::Number(u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?)), Some(8)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                (Value::Bytes(take(&mut rest, length)?), None)
            }
            5 => (Value::Number(u64::from(u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?))), Some(4)),
            _ => return None,
        };
        let number = key >> 3;
        // The highest number that protobuf allows is 2^29 - 1.
        if number == 0 || number >> 29 != 0 {
            return None;
        }
        let all = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Field { number, value, fixed, all })
    }
}

/// Numbers one after the other, variable or of a fixed width in bytes; `None` if they are none.
pub fn unpack(mut packed: &[u8], width: Option<u8>) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    while !packed.is_empty() {
        numbers.push(match width {
            None => varint(&mut packed)?,
            Some(width) => take(&mut packed, usize::from(width))?.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        });
    }
    Some(numbers)
}

/// Appends a number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field with bytes.
pub fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field with a variable number.
pub fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MESSAGE: [u8; 14] = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x18, 1, 0x1d, 2, 0, 0, 0];

    #[test]
    fn fields_are_read_in_order() {
        let fields: Vec<_> = Fields(&MESSAGE).collect();
        assert_eq!(
            fields.iter().map(|field| (field.number, field.value)).collect::<Vec<_>>(),
            [(1, Value::Number(150)), (2, Value::Bytes(b"hi")), (3, Value::Number(1)), (3, Value::Number(2)),]
        );
        assert_eq!((fields[1].all, fields[3].fixed), ([0x12, 2, b'h', b'i'].as_slice(), Some(4)));
    }

    #[test]
    fn what_ends_too_early_is_no_message() {
        for length in [1, 2, 4, 5, 6, 8, 10, 13] {
            let mut fields = Fields(&MESSAGE[..length]);
            assert!((&mut fields).count() < 4 && !fields.0.is_empty(), "{length}");
        }
        assert_eq!(Fields(&[0xff; 12]).next(), None);
        assert_eq!(Fields(&[0, 0]).next(), None);
    }

    #[test]
    fn what_is_written_is_read() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, 5, value);
            put_bytes(&mut out, 900, b"x");
            let fields: Vec<_> = Fields(&out).map(|field| (field.number, field.value)).collect();
            assert_eq!(fields, [(5, Value::Number(value)), (900, Value::Bytes(b"x"))]);
        }
        assert_eq!(unpack(&[3, 0x96, 1], None), Some(vec![3, 150]));
        assert_eq!(unpack(&[1, 0, 0, 0], Some(4)), Some(vec![1]));
        assert_eq!(unpack(&[1, 0, 0], Some(4)), None);
    }
}
