//! A step of the timeline as a line of the stream: told when it ends, because only then is known how long it took.

use crate::line::{Level, Line, Source};

/// A step by its name, what it does, what it was about, start and duration in microseconds.
#[must_use]
pub fn line(name: &str, who: &str, does: &str, detail: &str, start_us: i64, duration_us: i64) -> Line {
    let source = match (name, who) {
        (_, "controller") => Source::Controller,
        ("gate", _) => Source::Network,
        ("restore" | "runc-restore", _) => Source::Oci,
        ("criu-dump" | "criu-restore", _) => Source::Criu,
        ("open" | "held" | "resume", _) => Source::Gate,
        (_, "wrapper") => Source::Wrapper,
        _ => Source::Agent,
    };
    let mut text = name.to_owned();
    for word in [detail, "took"].into_iter().filter(|word| !word.is_empty()) {
        text.push(' ');
        text.push_str(word);
    }
    text.push_str(&format!(" {}.{:02} ms", duration_us / 1000, duration_us % 1000 / 10));
    if !does.is_empty() {
        text.push_str(&format!(": {does}"));
    }
    Line::new(start_us.saturating_add(duration_us), source, Level::Info, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_at_its_end() {
        let told = line("criu-dump", "source", "criu dump writes the images", "main", 1000, 42_190);
        assert_eq!((told.at_us, told.source, told.text.as_str()), (43_190, Source::Criu, "criu-dump main took 42.19 ms: criu dump writes the images"));
        assert_eq!(line("x", "controller", "", "", 0, 5).text, "x took 0.00 ms");
    }
}
