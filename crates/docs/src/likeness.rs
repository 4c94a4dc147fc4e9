//! Whether two outputs are alike: the same words in the same lines, whatever the numbers, names and times in them are.

use std::collections::BTreeSet;

/// How many lines of ten must be found again.
const OF_TEN: usize = 5;

/// What of a line does not change from run to run: numbers, units of time and size, drawn bars, ids and spaces are left out.
fn skeleton(line: &str) -> String {
    let word = |word: &str| {
        let letters: String = word.chars().filter(|char| char.is_alphabetic() || "/=:".contains(*char)).collect();
        let digits = word.chars().any(|char| char.is_ascii_digit());
        // What has digits in it is a number, an id, a version or an address.
        if digits || ["ms", "s", "µs", "min", "h", "B", "KiB", "MiB", "GiB"].contains(&letters.as_str()) { String::new() } else { letters }
    };
    line.split_whitespace().map(word).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Lines of `documented` that have no like in `printed`, if they are too many for the outputs to be the same command's.
///
/// # Errors
/// Those lines.
pub fn compare(documented: &str, printed: &str) -> Result<(), Vec<String>> {
    let there: BTreeSet<String> = printed.lines().map(skeleton).collect();
    let wanted: Vec<&str> = documented.lines().filter(|line| !skeleton(line).is_empty()).collect();
    let missing: Vec<String> = wanted.iter().filter(|line| !there.contains(&skeleton(line))).map(|line| (*line).to_owned()).collect();
    if (wanted.len() - missing.len()) * 10 < wanted.len() * OF_TEN { Err(missing) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ids_do_not_matter() {
        assert_eq!(skeleton("●  +0.750 s   0.64 ms  source   freeze"), "source freeze");
        assert_eq!(compare("  ✔ kernel  there\nmoved in 3 ms: web-0\n", "✔ kernel   there\nmoved in 1.2 s: web-17\n"), Ok(()));
    }

    #[test]
    fn other_words_do() {
        assert_eq!(compare("moved to node\n", "cannot be moved\n"), Err(vec!["moved to node".to_owned()]));
        assert_eq!(compare("a\nb\n", "a\nc\n"), Ok(()), "half of it is enough");
        assert_eq!(compare("…\n\n", ""), Ok(()));
    }
}
