//! What the label `migration.source-pod` says: the pod's name, which may be longer than a label's value.

/// Longest value of a label.
const LONGEST: usize = 63;
/// Digits of the digest that keeps shortened names apart.
const DIGITS: usize = 8;

/// The name, or what of it fits and a digest of all of it.
#[must_use]
pub fn of(pod: &str) -> String {
    if pod.len() <= LONGEST {
        return pod.to_owned();
    }
    // Names of pods are ASCII.
    let head: String = pod.chars().take(LONGEST - DIGITS - 1).collect();
    let digest = blake3::hash(pod.as_bytes()).to_hex();
    format!("{}-{}", head.trim_end_matches(['-', '.']), &digest[..DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_fits_and_stays_apart_from_others() {
        assert_eq!(of("web-0"), "web-0");
        let longest = "a".repeat(63);
        assert_eq!(of(&longest), longest);
        let (one, two) = (of(&format!("{}.{}", "a".repeat(53), "b".repeat(20))), of(&format!("{}.{}", "a".repeat(53), "c".repeat(20))));
        assert!(one.len() <= 63 && two.len() <= 63 && one != two, "{one}, {two}");
        assert!(of(&"a".repeat(253)).len() == 63);
        // A separator where the name is cut: two in a row would be allowed, but are ugly.
        let cut = of(&format!("{}-{}", "a".repeat(53), "b".repeat(30)));
        assert!(cut.starts_with(&format!("{}-", "a".repeat(53))) && !cut.contains("--"), "{cut}");
    }
}
