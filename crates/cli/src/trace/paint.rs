//! A line for people, with a colour for each source, or for programs.

use godwit_trace::{Level, Source};
use serde_json::json;

use super::story::Told;

const RESET: &str = "\u{1b}[0m";
const DIM: &str = "\u{1b}[2m";

/// SGR parameters: distinct, and readable on dark and on light.
fn colour(source: Source) -> &'static str {
    match source {
        Source::Controller => "1;35",
        Source::Agent => "35",
        Source::Kubelet => "34",
        Source::Runtime => "36",
        Source::Shim => "2;36",
        Source::Wrapper => "32",
        Source::Oci => "1;32",
        Source::Criu => "33",
        Source::Gate => "1;33",
        Source::Network => "1;34",
        Source::Kernel => "31",
        Source::Exec => "37",
        Source::Signal => "1;31",
        Source::Trace => "2",
    }
}

/// `20:31:10.297304  node-b      kubelet     "SyncLoop ADD" …`; times are UTC, on the controller's clock.
#[must_use]
pub fn text(told: &Told, coloured: bool) -> String {
    let line = &told.line;
    let at = jiff::Timestamp::from_microsecond(line.at_us).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    let time = format!("{}.{:06}", at.strftime("%H:%M:%S"), at.subsec_nanosecond() / 1000);
    let mark = match line.level {
        Level::Error => "✘ ",
        Level::Warning => "! ",
        Level::Debug | Level::Info => "",
    };
    let (node, tag) = (&told.node, line.source.tag());
    if !coloured {
        return format!("{time}  {node:<10}  {tag:<10}  {mark}{}", line.text);
    }
    let said = match line.level {
        Level::Error => format!("\u{1b}[1;31m{mark}{}{RESET}", line.text),
        Level::Warning => format!("\u{1b}[33m{mark}{}{RESET}", line.text),
        Level::Debug => format!("{DIM}{}{RESET}", line.text),
        Level::Info => line.text.clone(),
    };
    format!("{DIM}{time}{RESET}  {node:<10}  \u{1b}[{}m{tag:<10}{RESET}  {said}", colour(line.source))
}

/// One object, one line.
#[must_use]
pub fn json(told: &Told) -> String {
    let line = &told.line;
    let time = jiff::Timestamp::from_microsecond(line.at_us).unwrap_or_default();
    let node = if told.node == "-" { None } else { Some(&told.node) };
    json!({"time": format!("{time:.6}"), "atUs": line.at_us, "node": node, "source": line.source, "level": line.level, "text": line.text}).to_string()
}

#[cfg(test)]
mod tests {
    use godwit_trace::Line;

    use super::*;

    #[test]
    fn people_and_programs() {
        let told = Told { node: "node-b".into(), line: Line::new(1_795_722_270_297_304, Source::Kubelet, Level::Warning, "x") };
        assert_eq!(text(&told, false), "19:44:30.297304  node-b      kubelet     ! x");
        assert!(text(&told, true).contains("\u{1b}[34mkubelet"));
        let value: serde_json::Value = serde_json::from_str(&json(&told)).unwrap_or_default();
        assert_eq!((value["source"].as_str(), value["time"].as_str()), (Some("kubelet"), Some("2026-11-26T19:44:30.297304Z")));
    }

    #[test]
    fn every_source_has_a_colour_of_its_own() {
        let colours: std::collections::HashSet<&str> = Source::ALL.into_iter().map(colour).collect();
        assert_eq!(colours.len(), Source::ALL.len());
    }
}
