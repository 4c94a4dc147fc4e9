//! What proves that a PodCheckpoint is as the controller wrote it: a keyed hash over its UID, the digest of its index and its pod. The key is made of the one in the
//! Secret godwit-ca, so only who may read that Secret can make a seal. Whoever may write `podcheckpoints/status` cannot put another pod or other files there.

use blake3::Hasher;
use k8s_openapi::api::core::v1::Pod;

/// What the key is for.
const CONTEXT: &str = "godwit.dev 2026 checkpoint seal";

/// The seal, in hexadecimal.
#[must_use]
pub fn make(ticket_key: &[u8; 32], uid: &str, digest: &str, pod: &Pod) -> String {
    let mut hash = Hasher::new_keyed(&blake3::derive_key(CONTEXT, ticket_key));
    for part in [uid.as_bytes(), digest.as_bytes(), &serde_json::to_vec(pod).unwrap_or_default()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_hex().to_string()
}

/// Whether it is that.
#[must_use]
pub fn holds(seal: &str, ticket_key: &[u8; 32], uid: &str, digest: &str, pod: &Pod) -> bool {
    // blake3's comparison of hashes takes the same time whatever they are.
    blake3::Hash::from_hex(seal).is_ok_and(|seal| blake3::Hash::from_hex(make(ticket_key, uid, digest, pod)).is_ok_and(|own| own == seal))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn it_covers_everything() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "x"}]}})).unwrap();
        let key = [7; 32];
        let seal = make(&key, "u", "d", &pod);
        assert!(holds(&seal, &key, "u", "d", &pod));
        let mut other = pod.clone();
        other.spec.as_mut().unwrap().containers[0].image = Some("y".into());
        assert!(!holds(&seal, &[8; 32], "u", "d", &pod) && !holds(&seal, &key, "v", "d", &pod) && !holds(&seal, &key, "u", "e", &pod));
        assert!(!holds(&seal, &key, "u", "d", &other) && !holds("", &key, "u", "d", &pod) && !holds("zz", &key, "u", "d", &pod));
        // As it comes back from the API server.
        let back: Pod = serde_json::from_value(serde_json::to_value(&pod).unwrap()).unwrap();
        assert!(holds(&seal, &key, "u", "d", &back));
    }
}
