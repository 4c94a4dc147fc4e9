//! klog, as the kubelet writes it.
//!
//! ```text
//!   I1126 19:30:21.200993      81 kubelet.go:2776] "SyncLoop DELETE" source="api" pods=["shop/web-0"]
//!   Lmmdd hh:mm:ss.uuuuuu threadid file:line] msg        (k8s.io/klog/v2, klog.go: header formats)
//!   {"ts":1764185421200.993,"caller":"kubelet/kubelet.go:2776","msg":"SyncLoop DELETE","v":2,"source":"api"}      (logging.format: json)
//! ```

use jiff::civil::DateTime;
use serde_json::Value;

use super::Scene;
use crate::line::{Level, Line, Source};

/// One line.
#[must_use]
pub fn line(source: Source, text: &str, scene: &Scene) -> Option<Line> {
    if text.starts_with('{') {
        return json(source, text);
    }
    let (head, said) = text.split_once("] ")?;
    let level = match head.get(..1)? {
        "I" => Level::Info,
        "W" => Level::Warning,
        "E" | "F" => Level::Error,
        _ => return None,
    };
    let mut words = head.get(1..)?.split_ascii_whitespace();
    let (date, time) = (words.next()?, words.next()?);
    let level = if level == Level::Info && words.nth(1).is_some_and(is_chatty) { Level::Debug } else { level };
    Some(Line::new(moment(date, time, scene)?, source, level, said))
}

/// Where the kubelet tells, for every pod and all the time, what is of no use here.
const CHATTY: [&str; 7] =
    ["server.go", "reconciler_common.go", "operation_generator.go", "kubelet_volumes.go", "pod_startup_latency", "reflector.go", "flags.go"];

fn is_chatty(caller: &str) -> bool {
    CHATTY.iter().any(|file| caller.starts_with(file))
}

/// Microseconds since the epoch of `mmdd` and `hh:mm:ss.uuuuuu`: in the year that does not put it into the future.
fn moment(date: &str, time: &str, scene: &Scene) -> Option<i64> {
    if date.len() != 4 || !date.is_ascii() {
        return None;
    }
    let now = jiff::Timestamp::from_microsecond(scene.now_us).ok()?.to_zoned(scene.zone.clone());
    [now.year(), now.year() - 1].into_iter().find_map(|year| {
        let written: DateTime = format!("{year:04}-{}-{}T{time}", &date[..2], &date[2..]).parse().ok()?;
        let at = written.to_zoned(scene.zone.clone()).ok()?.timestamp().as_microsecond();
        // A day of grace: clocks and time zones.
        (at < scene.now_us + 86_400_000_000).then_some(at)
    })
}

fn json(source: Source, text: &str) -> Option<Line> {
    let value: Value = serde_json::from_str(text).ok()?;
    // Milliseconds with a fraction (k8s.io/component-base/logs/json).
    #[allow(clippy::cast_possible_truncation)]
    let at_us = (value.get("ts")?.as_f64()? * 1000.0) as i64;
    let level = if value.get("err").is_some() { Level::Error } else { Level::Info };
    let mut said = value.get("msg")?.as_str()?.to_owned();
    for (key, value) in value.as_object()?.iter().filter(|(key, _)| !matches!(key.as_str(), "ts" | "msg" | "v" | "caller")) {
        said.push_str(&format!(" {key}={value}"));
    }
    Some(Line::new(at_us, source, level, &said))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scene(now: &str) -> Scene {
        Scene { now_us: now.parse::<jiff::Timestamp>().unwrap().as_microsecond(), zone: jiff::tz::TimeZone::UTC }
    }

    #[test]
    fn a_line_of_a_kubelet() {
        let text = r#"I1126 19:30:21.200993      81 kubelet.go:2776] "SyncLoop DELETE" source="api" pods=["godwit-bench/small-m20"]"#;
        let line = line(Source::Kubelet, text, &scene("2026-11-26T19:40:00Z")).unwrap();
        assert_eq!(line.at_us, "2026-11-26T19:30:21.200993Z".parse::<jiff::Timestamp>().unwrap().as_microsecond());
        assert_eq!((line.level, line.text.as_str()), (Level::Info, r#""SyncLoop DELETE" source="api" pods=["godwit-bench/small-m20"]"#));
    }

    #[test]
    fn what_the_kubelet_says_all_the_time_is_for_v() {
        let text = r#"I1126 19:31:10.339640     106 server.go:177] "Pod update broadcasted" podUID="84abe4ca" type="MODIFIED""#;
        assert_eq!(line(Source::Kubelet, text, &scene("2026-11-26T19:40:00Z")).unwrap().level, Level::Debug);
    }

    #[test]
    fn december_is_last_year_in_january_and_local_time_is_local() {
        let mut scene = scene("2027-01-01T00:10:00Z");
        let old = line(Source::Kubelet, "E1231 23:59:59.000001 81 x.go:1] bad", &scene).unwrap();
        assert_eq!(old.at_us, "2026-12-31T23:59:59.000001Z".parse::<jiff::Timestamp>().unwrap().as_microsecond());
        assert_eq!(old.level, Level::Error);
        scene.zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        let east = line(Source::Kubelet, "I0101 02:00:00.000000 81 x.go:1] on", &scene).unwrap();
        assert_eq!(east.at_us, "2027-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond());
    }

    #[test]
    fn json_is_understood_and_anything_else_is_not() {
        let scene = scene("2026-11-26T19:40:00Z");
        let text = r#"{"ts":1764185421200.993,"caller":"kubelet/kubelet.go:2776","msg":"SyncLoop DELETE","v":2,"source":"api"}"#;
        let found = line(Source::Kubelet, text, &scene).unwrap();
        assert_eq!((found.at_us, found.text.as_str()), (1_764_185_421_200_993, "SyncLoop DELETE source=\"api\""));
        for text in ["", "goroutine 1 [running]:", "Flag --x has been deprecated", "I1126] x", "{}"] {
            assert_eq!(line(Source::Kubelet, text, &scene), None, "{text}");
        }
    }
}
