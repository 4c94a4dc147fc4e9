//! journald, as `journalctl -o json` gives it: one object a line, numbers as strings (systemd.journal-fields(7)).
//!
//! The units and identifiers tell the source; the kubelet's and the runtimes' own headers are taken off, because journald has noted time and priority itself.

use serde_json::Value;

use super::{Scene, klog, logrus};
use crate::line::{Level, Line, Source};

/// One line.
#[must_use]
pub fn line(text: &str, scene: &Scene) -> Option<Line> {
    let value: Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let said = message(value.get("MESSAGE")?)?;
    let at_us: i64 = word("__REALTIME_TIMESTAMP").parse().ok()?;
    let source = source(word("SYSLOG_IDENTIFIER"), word("_SYSTEMD_UNIT"), word("_TRANSPORT"))?;
    let inner = match source {
        Source::Kubelet => klog::line(source, &said, scene),
        Source::Runtime | Source::Shim | Source::Oci => logrus::line(source, &said),
        _ => None,
    };
    // The program's own time is the more exact one.
    Some(inner.unwrap_or_else(|| Line::new(at_us, source, Level::of(word("PRIORITY")), &said)))
}

/// A text, or an array of bytes where it is not UTF-8.
fn message(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => None,
    }
}

fn source(identifier: &str, unit: &str, transport: &str) -> Option<Source> {
    let unit = unit.trim_end_matches(".service");
    match (identifier, unit) {
        ("conmon", _) => Some(Source::Shim),
        ("runc" | "crun", _) => Some(Source::Oci),
        ("kubelet", _) | (_, "kubelet" | "k3s" | "k3s-agent" | "rke2-agent" | "rke2-server" | "snap.microk8s.daemon-kubelite") => Some(Source::Kubelet),
        ("crio" | "containerd", _) | (_, "crio" | "containerd") => Some(Source::Runtime),
        _ if transport == "kernel" => Some(Source::Kernel),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scene() -> Scene {
        Scene { now_us: 1_795_000_000_000_000, zone: jiff::tz::TimeZone::UTC }
    }

    #[test]
    fn units_and_identifiers_tell_the_source() {
        let of = |identifier: &str, unit: &str, said: &str| {
            let text = serde_json::json!({
                "__REALTIME_TIMESTAMP": "1764185421200993", "SYSLOG_IDENTIFIER": identifier, "_SYSTEMD_UNIT": unit, "PRIORITY": "6", "MESSAGE": said,
            });
            line(&text.to_string(), &scene()).map(|line| (line.source, line.text))
        };
        assert_eq!(of("kubelet", "kubelet.service", "E1126 19:30:21.200993 81 x.go:1] bad"), Some((Source::Kubelet, "bad".into())));
        assert_eq!(of("crio", "crio.service", r#"time="2026-11-26T19:31:10Z" level=info msg="Ran""#), Some((Source::Runtime, "Ran".into())));
        assert_eq!(of("conmon", "crio-conmon-1.scope", "conmon da33 <ninfo>: exited"), Some((Source::Shim, "conmon da33 <ninfo>: exited".into())));
        assert_eq!(of("sshd", "ssh.service", "x"), None);
    }

    #[test]
    fn bytes_and_the_kernel() {
        let text = r#"{"__REALTIME_TIMESTAMP":"5","_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","PRIORITY":"3","MESSAGE":[97,255]}"#;
        let found = line(text, &scene()).unwrap();
        assert_eq!((found.source, found.level, found.at_us), (Source::Kernel, Level::Error, 5));
        assert!(found.text.starts_with('a'));
        assert_eq!(line("-- cursor", &scene()), None);
    }
}
