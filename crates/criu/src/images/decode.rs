//! A message as JSON, with the names of CRIU's own definitions: for people and for other programs, not to be written back.

use std::fmt::Write;

use prost_reflect::Kind;
use serde_json::{Map, Value, json};

use super::Image;
use super::schema::{self, View};
use super::wire;

/// Every entry of an image: its message, and the length of what follows it.
#[must_use]
pub fn entries(image: &Image) -> Vec<Value> {
    image
        .with_payloads()
        .map(|(view, payload)| {
            let mut value = message(&view);
            if payload.length > 0
                && let Some(object) = value.as_object_mut()
            {
                object.insert("#payload".into(), json!({"at": payload.at, "length": payload.length}));
            }
            value
        })
        .collect()
}

/// One message. Fields that CRIU's definition does not have are called by their number, `#17`; bytes are in hexadecimal.
#[must_use]
pub fn message(view: &View<'_>) -> Value {
    let mut object = Map::new();
    for found in wire::Fields(view.bytes) {
        let field = u32::try_from(found.number).ok().and_then(|number| view.descriptor.get_field(number));
        let Some(field) = field else {
            let value = match found.value {
                wire::Value::Number(number) => json!(number),
                wire::Value::Bytes(bytes) => json!(hexadecimal(bytes)),
            };
            object.insert(format!("#{}", found.number), value);
            continue;
        };
        let values: Vec<Value> = match (field.kind(), found.value) {
            (Kind::Message(descriptor), wire::Value::Bytes(bytes)) => vec![message(&View::new(descriptor, bytes))],
            (Kind::String, wire::Value::Bytes(bytes)) => vec![json!(String::from_utf8_lossy(bytes))],
            (Kind::Bytes, wire::Value::Bytes(bytes)) => vec![json!(hexadecimal(bytes))],
            (kind, wire::Value::Bytes(packed)) => schema::unpack(&field, packed).unwrap_or_default().into_iter().map(|number| scalar(&kind, number)).collect(),
            (kind, wire::Value::Number(number)) => vec![scalar(&kind, schema::plain(&field, number))],
        };
        if field.is_list() {
            let list = object.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = list.as_array_mut() {
                list.extend(values);
            }
        } else if let Some(value) = values.into_iter().next_back() {
            object.insert(field.name().to_owned(), value);
        }
    }
    Value::Object(object)
}

fn scalar(kind: &Kind, number: u64) -> Value {
    match kind {
        Kind::Bool => json!(number != 0),
        Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 | Kind::Sfixed32 | Kind::Sfixed64 => json!(number.cast_signed()),
        Kind::Enum(values) => match i32::try_from(number).ok().and_then(|number| values.get_value(number)) {
            Some(value) => json!(value.name()),
            None => json!(number),
        },
        _ => json!(number),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_known_is_shown_too() {
        let bytes = [0x08, 1, 0x10, 0, 0x18, 2, 0x20, 3, 0x2a, 2, 7, 8, 0xf8, 1, 9, 0xfa, 1, 2, 0xca, 0xfe];
        let view = View::new(schema::message("pstree_entry").unwrap(), &bytes);
        assert_eq!(message(&view), json!({"pid": 1, "ppid": 0, "pgid": 2, "sid": 3, "threads": [7, 8], "#31": "cafe"}));
    }
}
