//! logrus, as CRI-O, containerd, the shims and runc write it.
//!
//! ```text
//!   time="2026-11-26T19:31:10.297304123Z" level=info msg="Ran pod sandbox …" id=a4968877-… name=/runtime.v1.RuntimeService/RunPodSandbox
//!   {"level":"warning","msg":"…","time":"2026-11-26T19:31:10Z"}
//! ```

use serde_json::Value;

use crate::line::{Level, Line, Source};

/// One line. What a shim of containerd says, or is said of one, stands in containerd's log and is told as the shim's.
#[must_use]
pub fn line(source: Source, text: &str) -> Option<Line> {
    let found = if text.starts_with('{') { json(source, text) } else { plain(source, text) }?;
    // Of containers that went long ago.
    let found = if found.text.starts_with("container event discarded") { Line { level: Level::Debug, ..found } } else { found };
    Some(if found.source == Source::Runtime && is_of_shim(&found.text) { Line { source: Source::Shim, ..found } } else { found })
}

fn is_of_shim(text: &str) -> bool {
    text.contains("shim") || text.contains("conmon") || text.contains("runtime=io.containerd.")
}

fn plain(source: Source, text: &str) -> Option<Line> {
    let (at, rest) = value(text.strip_prefix("time=")?)?;
    let (level, rest) = value(rest.strip_prefix("level=")?)?;
    let (said, fields) = value(rest.strip_prefix("msg=")?)?;
    let at_us = at.parse::<jiff::Timestamp>().ok()?.as_microsecond();
    let text = if fields.is_empty() { said } else { format!("{said} {fields}") };
    Some(Line::new(at_us, source, Level::of(&level), &text))
}

/// A value, quoted as Go does it or bare, and what comes behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        return Some((text[..end].to_owned(), text[end..].trim_start()));
    };
    let mut found = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((found, quoted[at + 1..].trim_start())),
            '\\' => match characters.next()?.1 {
                'n' | 'r' | 't' => found.push(' '),
                other => found.push(other),
            },
            other => found.push(other),
        }
    }
    None
}

fn json(source: Source, text: &str) -> Option<Line> {
    let value: Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| value.get(key).and_then(Value::as_str);
    let at_us = word("time")?.parse::<jiff::Timestamp>().ok()?.as_microsecond();
    let mut said = word("msg")?.to_owned();
    for (key, value) in value.as_object()?.iter().filter(|(key, _)| !matches!(key.as_str(), "time" | "level" | "msg")) {
        said.push_str(&format!(" {key}={value}"));
    }
    Some(Line::new(at_us, source, Level::of(word("level").unwrap_or("info")), &said))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_the_runtimes() {
        let crio = r#"time="2026-11-26T19:31:10.297304123Z" level=info msg="Ran pod sandbox 7c25 with infra container: godwit-bench/small-m12/POD" id=a4968877 name=/runtime.v1.RuntimeService/RunPodSandbox"#;
        let found = line(Source::Runtime, crio).unwrap();
        assert_eq!(found.at_us, "2026-11-26T19:31:10.297304Z".parse::<jiff::Timestamp>().unwrap().as_microsecond());
        assert_eq!(
            found.text,
            "Ran pod sandbox 7c25 with infra container: godwit-bench/small-m12/POD id=a4968877 name=/runtime.v1.RuntimeService/RunPodSandbox"
        );
        let containerd = r#"time="2026-11-26T19:30:13.619358294Z" level=warning msg="RunPodSandbox returns sandbox id \"9b28\"""#;
        let found = line(Source::Runtime, containerd).unwrap();
        assert_eq!((found.level, found.text.as_str()), (Level::Warning, r#"RunPodSandbox returns sandbox id "9b28""#));
    }

    #[test]
    fn what_is_of_the_shim_is_the_shims() {
        let text = r#"time="2026-11-26T19:30:20.733010Z" level=info msg="shim disconnected" id=fe51 namespace=k8s.io"#;
        assert_eq!(line(Source::Runtime, text).unwrap().source, Source::Shim);
        assert_eq!(line(Source::Oci, text).unwrap().source, Source::Oci);
    }

    #[test]
    fn json_of_runc_and_anything_else() {
        let runc = r#"{"level":"error","msg":"criu failed: type RESTORE errno 0","time":"2026-11-26T19:31:10Z"}"#;
        let found = line(Source::Oci, runc).unwrap();
        assert_eq!((found.level, found.text.as_str()), (Level::Error, "criu failed: type RESTORE errno 0"));
        for text in ["", "time=\"x", "time=\"2026-11-26T19:31:10Z\" level=info", "W1126 x", "{\"a\":1}", "time=\"2026-11-26T19:31:10Z\" level=info msg=\"a\\"] {
            assert_eq!(line(Source::Runtime, text), None, "{text}");
        }
    }
}
