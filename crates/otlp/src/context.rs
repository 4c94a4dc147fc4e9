//! Which trace a migration belongs to, and the ids of its spans.
//!
//! The id of the trace is the migration's UID without its dashes, unless who ordered it named a trace of theirs (annotation `godwit.dev/traceparent`, as in
//! W3C Trace Context, version 00: `00-<trace: 32 hex>-<parent span: 16 hex>-<flags: 2 hex>`). Ids of spans follow from the UID and what a span is about, so that
//! whoever exports a migration again exports the same spans.

use godwit_api::{PodMigration, names};
use kube::ResourceExt;

/// Bit of the flags: who began the trace records it.
const SAMPLED: u8 = 1;

/// Where the spans of a migration hang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace; never all zeros.
    pub trace: [u8; 16],
    /// The span of somebody else that the migration is a part of.
    pub parent: Option<[u8; 8]>,
    /// Whether the trace is recorded at all.
    pub sampled: bool,
}

impl Context {
    /// That of a migration.
    #[must_use]
    pub fn of(object: &PodMigration) -> Self {
        let given = object.annotations().get(names::ANNOTATION_TRACEPARENT).and_then(|text| parse(text));
        given.unwrap_or_else(|| Self { trace: own(&object.uid().unwrap_or_default()), parent: None, sampled: true })
    }

    /// The trace's id as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The span of a migration that is called so. The words are what tells it from the others of the same migration.
#[must_use]
pub fn span_id(uid: &str, words: &[&str]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for word in [uid].iter().chain(words) {
        hasher.update(word.as_bytes()).update(&[0]);
    }
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    // All zeros would be no id.
    id[7] |= u8::from(id == [0; 8]);
    id
}

/// A UID as the API server gives them is 16 bytes; any other text is digested.
fn own(uid: &str) -> [u8; 16] {
    let mut id = [0; 16];
    match bytes::<16>(&uid.replace('-', "")) {
        Some(uid) if uid != id => uid,
        _ => {
            blake3::Hasher::new().update(uid.as_bytes()).finalize_xof().fill(&mut id);
            id
        }
    }
}

/// A `traceparent`; `None` if it is none.
fn parse(text: &str) -> Option<Context> {
    let mut parts = text.trim().split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may have more parts; ff is forbidden.
    if bytes::<1>(version)? == [0xff] || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, parent, [flags]) = (bytes::<16>(trace)?, bytes::<8>(parent)?, bytes::<1>(flags)?);
    (trace != [0; 16] && parent != [0; 8]).then_some(Context { trace, parent: Some(parent), sampled: flags & SAMPLED != 0 })
}

/// Lower-case hexadecimal digits, as many as fit.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    let mut all = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in all.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn migration(traceparent: Option<&str>) -> PodMigration {
        let annotations: serde_json::Value = traceparent.map_or(serde_json::json!({}), |text| serde_json::json!({names::ANNOTATION_TRACEPARENT: text}));
        serde_json::from_value(serde_json::json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "spec": {"podName": "web-0"},
            "metadata": {"name": "x", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e", "annotations": annotations},
        }))
        .unwrap()
    }

    #[test]
    fn a_trace_of_its_own_is_named_by_the_uid() {
        let context = Context::of(&migration(None));
        assert_eq!((context.trace_id().as_str(), context.parent, context.sampled), ("0f8fad5bd9cb469fa16570867728950e", None, true));
        assert_ne!(own(""), [0; 16]);
        assert_ne!(own("00000000-0000-0000-0000-000000000000"), [0; 16]);
    }

    #[test]
    fn a_trace_of_somebody_else_is_joined() {
        let context = Context::of(&migration(Some(GIVEN)));
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent.map(u64::from_be_bytes), Some(0x00f0_67aa_0ba9_02b7));
        assert!(!Context::of(&migration(Some(&GIVEN.replace("-01", "-00")))).sampled);
    }

    #[test]
    fn what_is_no_traceparent_is_passed_over() {
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = GIVEN.to_uppercase();
        let longer = format!("{GIVEN}-x");
        for text in ["", "00-12-34-01", zeros, &upper, &longer, &GIVEN.replacen("00", "ff", 1)] {
            assert_eq!(Context::of(&migration(Some(text))).parent, None, "{text}");
        }
    }

    #[test]
    fn ids_of_spans_follow_from_what_they_are_about() {
        assert_eq!(span_id("u", &["a", "b"]), span_id("u", &["a", "b"]));
        assert_ne!(span_id("u", &["a", "b"]), span_id("u", &["ab"]));
        assert_ne!(span_id("u", &["a"]), span_id("v", &["a"]));
    }
}
