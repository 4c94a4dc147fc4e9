//! What differs from run to run and tells nobody anything: names that Kubernetes draws, ids, the namespace. On a page they are always the same ones, so that
//! printing it again changes only what has changed.

use std::collections::BTreeMap;

/// Letters of which Kubernetes draws names.
const DRAWN: &str = "bcdfghjklmnpqrstvwxz2456789";
/// Length of such a name's end.
const LENGTH: usize = 5;
/// What stands on the pages instead.
const NAMES: [&str; 8] = ["x7k2p", "q4v9d", "h5m8c", "w2t6n", "b9z4f", "k8s5r", "d6p2v", "n4j7x"];
/// The shortest id, in digits of base 16: what runtimes print of a container.
const SHORT: usize = 12;
/// Digits by which ids are told from each other.
const KEY: usize = 8;

/// Replaces names and ids; what was replaced once is replaced by the same again.
#[derive(Debug, Default)]
pub struct Normal {
    names: BTreeMap<String, String>,
    ids: BTreeMap<String, usize>,
}

impl Normal {
    /// A text as it is to stand on the page.
    pub fn apply(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut word = String::new();
        for char in text.chars().chain(['\n']) {
            if char.is_ascii_alphanumeric() || char == '-' {
                word.push(char);
                continue;
            }
            out.push_str(&self.word(&word));
            word.clear();
            out.push(char);
        }
        out.pop();
        out
    }

    fn word(&mut self, word: &str) -> String {
        if is_uuid(word) {
            return self.uuid(word);
        }
        let parts: Vec<String> = word.split('-').enumerate().map(|(index, part)| self.part(part, index > 0)).collect();
        parts.join("-")
    }

    fn part(&mut self, part: &str, end: bool) -> String {
        if end && part.len() == LENGTH && part.chars().all(|char| DRAWN.contains(char)) {
            let next = self.names.len();
            let made = || NAMES.get(next).map_or_else(|| part.to_owned(), |name| (*name).to_owned());
            return self.names.entry(part.to_owned()).or_insert_with(made).clone();
        }
        let hex = part.len() >= SHORT && part.chars().all(|char| char.is_ascii_digit() || ('a'..='f').contains(&char));
        if hex && part.chars().any(|char| char.is_ascii_alphabetic()) && part.chars().any(|char| char.is_ascii_digit()) {
            self.id(part)
        } else {
            part.to_owned()
        }
    }

    fn uuid(&mut self, uuid: &str) -> String {
        let made = self.id(&uuid.replace('-', ""));
        let mut digits = made.chars();
        uuid.chars().map(|char| if char == '-' { '-' } else { digits.next().unwrap_or('0') }).collect()
    }

    /// Digits of the same number, made from how many ids there were before.
    fn id(&mut self, id: &str) -> String {
        let next = self.ids.len();
        let index = *self.ids.entry(id[..KEY].to_owned()).or_insert(next);
        let mut state = (index as u32).wrapping_add(1).wrapping_mul(0x9e37_79b1);
        let mut made = String::new();
        while made.len() < id.len() {
            made.push_str(&format!("{state:08x}"));
            state = state.wrapping_mul(0x85eb_ca6b).wrapping_add(0xc2b2_ae35);
        }
        made.truncate(id.len());
        made
    }
}

fn is_uuid(word: &str) -> bool {
    let lengths: Vec<usize> = word.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && word.chars().all(|char| char == '-' || char.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_names_are_always_the_same() {
        let mut normal = Normal::default();
        assert_eq!(normal.apply("web-0-c6rfc and web-0-m7dph, web-0-c6rfc"), "web-0-x7k2p and web-0-q4v9d, web-0-x7k2p");
        assert_eq!(normal.apply("stop-and-copy web-0-m1 pre-copy node-a"), "stop-and-copy web-0-m1 pre-copy node-a");
    }

    #[test]
    fn ids_and_what_is_shown_of_them_stay_the_same_id() {
        let (mut one, mut other) = (Normal::default(), Normal::default());
        let long = one.apply("074455cf10824b390031d509f385ca80");
        assert_eq!(one.apply("(074455cf1082)"), format!("({})", &long[..12]));
        assert_eq!(long, other.apply("f1824b39aaaaaaaaaaaaaaaaaaaaaaa9"));
        assert_eq!(one.apply("1795729146000000 deadbeefdead"), "1795729146000000 deadbeefdead", "numbers and words are no ids");
        let uuid = one.apply("94b36815-dfdc-4c46-9068-4b6f8ca6293b");
        assert!(is_uuid(&uuid) && !uuid.starts_with("94b36815"), "{uuid}");
    }
}
