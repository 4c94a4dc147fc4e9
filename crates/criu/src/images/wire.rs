//! Single fields of protobuf messages, by number (encoding: protobuf.dev/programming-guides/encoding).

/// A value on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint, or a fixed 32- or 64-bit word.
    Number(u64),
    /// A string, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// All fields of a message in order; `None` if it is not a message.
pub fn fields(mut rest: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Number(u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?))),
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push((key >> 3, value));
    }
    Some(fields)
}

/// Where the bytes of a field's last value are in a message, and these bytes: of a number its own encoding, of a string or message without its length.
pub fn place(message: &[u8], field: u64) -> Option<(usize, &[u8])> {
    let mut rest = message;
    let mut found = None;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let before = rest;
        let value = match key & 7 {
            0 => {
                varint(&mut rest)?;
                before.get(..before.len() - rest.len())?
            }
            1 => take(&mut rest, 8)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                take(&mut rest, length)?
            }
            5 => take(&mut rest, 4)?,
            _ => return None,
        };
        if key >> 3 == field {
            found = Some((message.len() - rest.len() - value.len(), value));
        }
    }
    found
}

/// The last value of a number field.
pub fn number(message: &[u8], field: u64) -> Option<u64> {
    fields(message)?.into_iter().rev().find_map(|(number, value)| match value {
        Value::Number(value) if number == field => Some(value),
        _ => None,
    })
}

/// The last value of a string or message field.
pub fn bytes(message: &[u8], field: u64) -> Option<&[u8]> {
    fields(message)?.into_iter().rev().find_map(|(number, value)| match value {
        Value::Bytes(value) if number == field => Some(value),
        _ => None,
    })
}

/// All values of a repeated number field, packed or not.
pub fn numbers(message: &[u8], field: u64) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    for (_, value) in fields(message)?.into_iter().filter(|(number, _)| *number == field) {
        match value {
            Value::Number(value) => numbers.push(value),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    numbers.push(varint(&mut packed)?);
                }
            }
        }
    }
    Some(numbers)
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

    #[test]
    fn reads_numbers_strings_and_lists() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x18, 1, 0x18, 2, 0x22, 2, 3, 4];
        assert_eq!(number(&message, 1), Some(150));
        assert_eq!(bytes(&message, 2), Some(b"hi".as_slice()));
        assert_eq!(numbers(&message, 3), Some(vec![1, 2]));
        assert_eq!(numbers(&message, 4), Some(vec![3, 4]));
        assert_eq!(number(&message, 9), None);
    }

    #[test]
    fn values_are_found_in_place() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x18, 1, 0x18, 2];
        assert_eq!(place(&message, 1), Some((1, [0x96, 0x01].as_slice())));
        assert_eq!(place(&message, 2), Some((5, b"hi".as_slice())));
        assert_eq!(place(&message, 3), Some((10, [2].as_slice())));
        assert_eq!(place(&message, 4), None);
        assert_eq!(place(&message[..2], 1), None);
    }

    #[test]
    fn what_ends_too_early_is_no_message() {
        for length in [1, 2, 4, 5, 6] {
            assert_eq!(fields(&[0x08, 0x96, 0x01, 0x12, 2, b'h', b'i'][..length]), None, "{length}");
        }
        assert_eq!(fields(&[0xff; 12]), None);
    }
}
