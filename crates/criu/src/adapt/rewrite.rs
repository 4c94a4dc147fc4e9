//! A message with some fields replaced. All others, known or not, keep their bytes and their order.

use prost_reflect::Kind;

use crate::images::schema::View;
use crate::images::wire::{Fields, Value, put_bytes, put_number};

/// A new value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum New {
    /// A number of variable length.
    Number(u64),
    /// Text, bytes or a message.
    Bytes(Vec<u8>),
}

/// Fields of a message by name, and what is to stand there instead.
pub type Edits = Vec<(&'static str, Vec<New>)>;

/// Asks for every message, the outer before the inner, which fields are to be replaced by which values; `None` if nothing is.
pub fn rewrite(view: &View<'_>, edit: &mut dyn FnMut(&View<'_>) -> Edits) -> Option<Vec<u8>> {
    let edits: Vec<(u64, Vec<New>)> =
        edit(view).into_iter().filter_map(|(name, values)| Some((u64::from(view.descriptor.get_field_by_name(name)?.number()), values))).collect();
    let mut changed = !edits.is_empty();
    let mut out = Vec::with_capacity(view.bytes.len() + 16);
    let mut done = Vec::new();
    for field in Fields(view.bytes) {
        if let Some((number, values)) = edits.iter().find(|(number, _)| *number == field.number) {
            if !done.contains(number) {
                done.push(*number);
                for value in values {
                    match value {
                        New::Number(value) => put_number(&mut out, *number, *value),
                        New::Bytes(bytes) => put_bytes(&mut out, *number, bytes),
                    }
                }
            }
            continue;
        }
        let kind = u32::try_from(field.number).ok().and_then(|number| view.descriptor.get_field(number)).map(|known| known.kind());
        let inner = match (kind, field.value) {
            (Some(Kind::Message(descriptor)), Value::Bytes(bytes)) => rewrite(&View::new(descriptor, bytes), edit),
            _ => None,
        };
        match inner {
            Some(bytes) => {
                changed = true;
                put_bytes(&mut out, field.number, &bytes);
            }
            None => out.extend_from_slice(field.all),
        }
    }
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::images::schema;

    #[test]
    fn what_is_not_replaced_stays_byte_by_byte() {
        // pid in two bytes more than needed, a field of a newer CRIU, threads.
        let bytes = [0x08, 0x81, 0x80, 0x00, 0x10, 0, 0xf8, 1, 9, 0x18, 2, 0x20, 3, 0x28, 7, 0x28, 8];
        let view = View::new(schema::message("pstree_entry").unwrap(), &bytes);
        assert_eq!(rewrite(&view, &mut |_| Vec::new()), None);
        let new = rewrite(&view, &mut |_| vec![("threads", vec![New::Number(300)])]).unwrap();
        assert_eq!(new, [&bytes[..13], &[0x28, 0xac, 2]].concat());
    }
}
