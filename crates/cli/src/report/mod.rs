//! `kubectl migrate report NAME`: everything about one migration as one page that needs nothing but itself.
//!
//! ```text
//!   record ─┬─▶ summary, what was kept and adapted
//!           ├─▶ Timeline ──▶ waterfall (SVG), the freeze broken down, rounds of memory, table
//!           └─▶ Explanation ─▶ diagnosis, lines of logs, events
//! ```
//!
//! The page carries its own rule that nothing may be fetched (Content-Security-Policy), has no script, follows the reader's theme and fits narrow screens.

mod parts;
mod rounds;
mod waterfall;

use std::fmt::Write;

use godwit_api::PodMigration;
use godwit_api::migration::{Phase, PodMigrationStatus};
use kube::ResourceExt;

use crate::explain::Explanation;
use crate::text::{bytes, precise};
use crate::timeline::Timeline;
use crate::view;

const STYLE: &str = include_str!("style.css");

/// Text as it may stand in HTML.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, char| {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

/// The page.
#[must_use]
pub fn page(object: &PodMigration, said: &Explanation) -> String {
    let status = object.status.clone().unwrap_or_default();
    let timeline = Timeline::of(&status);
    let title = format!("{} · {}", object.spec.pod_name, object.name_any());
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&title)
    );
    html.push_str(&header(object, &status, &timeline));
    html.push_str(&summary(&status, &timeline));
    html.push_str(&parts::diagnosis(said));
    if let Some((from, to)) = timeline.freeze {
        html.push_str("<section>\n<h2>The freeze</h2>\n");
        html.push_str(&parts::bar(&timeline, to - from));
        // A little before and after, so that one sees what led to it.
        let margin = (to - from) / 12;
        html.push_str(&waterfall::svg(&timeline, from - margin, to + margin, "Steps of the freeze"));
        html.push_str("</section>\n");
    }
    if !timeline.rows.is_empty() {
        html.push_str("<section>\n<h2>From order to end</h2>\n");
        html.push_str(&waterfall::legend());
        html.push_str(&waterfall::svg(&timeline, timeline.begin_us(), timeline.end_us(), "All steps"));
        html.push_str("</section>\n");
    }
    html.push_str(&rounds::plot(&timeline));
    html.push_str(&parts::kept(&status));
    html.push_str(&parts::facts(said));
    html.push_str(&parts::folded(object, said, &timeline));
    let _ = write!(
        html,
        "<footer>kubectl migrate {} · namespace {}</footer>\n</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        escape(&object.namespace().unwrap_or_default())
    );
    html
}

fn header(object: &PodMigration, status: &PodMigrationStatus, timeline: &Timeline) -> String {
    let class = match status.phase {
        Phase::Succeeded => "good",
        Phase::RolledBack | Phase::Failed => "bad",
        _ => "open",
    };
    let node = |node: &Option<String>| escape(node.as_deref().unwrap_or("?"));
    let when = jiff::Timestamp::from_microsecond(timeline.begin_us()).map(|time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default();
    let last = view::last(object).unwrap_or_else(|| "It is under way.".to_owned());
    format!(
        "<header>\n<p class=\"crumb\">{name} · {when}</p>\n<h1>{pod} <span class=\"road\">{from} → {to}</span> <span class=\"badge {class}\">{phase:?}</span></h1>\n<p class=\"last\">{last}</p>\n</header>\n",
        name = escape(&object.name_any()),
        pod = escape(&object.spec.pod_name),
        from = node(&status.source_node),
        to = node(&status.target_node),
        phase = status.phase,
        last = escape(&last),
        when = if timeline.rows.is_empty() { String::new() } else { when },
    )
}

fn summary(status: &PodMigrationStatus, timeline: &Timeline) -> String {
    let plan = status.plan.clone().unwrap_or_default();
    let mut cards: Vec<(String, String)> = Vec::new();
    if let Some(freeze) = status.freeze.as_ref().filter(|freeze| freeze.total_ms > 0) {
        cards.push(("stood still".into(), format!("{} ms", freeze.total_ms)));
    }
    if !timeline.rows.is_empty() {
        cards.push(("from order to end".into(), precise(timeline.end_us() - timeline.begin_us())));
    }
    if let Some(progress) = status.progress.as_ref().filter(|progress| progress.bytes > 0) {
        cards.push(("sent".into(), bytes(progress.bytes)));
    }
    if status.plan.is_some() {
        cards.push(("memory".into(), bytes(plan.bytes)));
        cards.push(("containers, processes".into(), format!("{}, {}", plan.containers, plan.processes)));
        cards.push(("descriptors, connections".into(), format!("{}, {}", plan.fds, plan.connections)));
    }
    let cards: String =
        cards.iter().map(|(label, value)| format!("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", escape(value), escape(label))).collect();
    format!("<section class=\"cards\">\n{cards}</section>\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn migration() -> PodMigration {
        let step = |step: &str, who: &str, start: i64, took: i64| json!({"phase": "Switching", "step": step, "who": who, "startUs": start, "durationUs": took});
        serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "web-0-x", "namespace": "shop"},
            "spec": {"podName": "web-0"},
            "status": {
                "phase": "RolledBack", "sourceNode": "node-a", "targetNode": "node-b", "freeze": {"totalMs": 80, "dumpMs": 30, "deltaMs": 0, "restoreMs": 0, "verifyMs": 0, "commitMs": 0},
                "plan": {"engine": "Live", "memory": "StopAndCopy", "network": "Close", "containers": 1, "processes": 2, "fds": 14, "connections": 3, "bytes": 1_000_000,
                    "warnings": ["3 connection(s) <close>"]},
                "timeline": [step("freeze", "source", 1_000_000, 1_000), step("dump", "source", 1_001_000, 70_000), step("thaw", "source", 1_071_000, 9_000)],
                "failure": {"reason": "Inotify", "message": "<script>alert(1)</script>", "remedy": "r", "log": "1 Error <b>"},
            },
        }))
        .unwrap()
    }

    #[test]
    fn it_holds_everything_and_fetches_nothing() {
        let object = migration();
        let page = page(&object, &crate::explain::of_migration(&object, &[]));
        for words in [
            "web-0",
            "node-a → node-b",
            "RolledBack",
            "80 ms",
            "<svg",
            "prefers-color-scheme",
            "failures.html#inotify",
            "3 connection(s) &lt;close&gt;",
            "1 Error &lt;b&gt;",
        ] {
            assert!(page.contains(words), "{words}");
        }
        for never in ["<script", "src=", "url(", "@import", "<link"] {
            assert!(!page.contains(never), "{never}");
        }
        assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
        assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    }

    #[test]
    fn one_that_has_not_begun() {
        let object: PodMigration = serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "x"}, "spec": {"podName": "p"},
        }))
        .unwrap();
        assert!(page(&object, &Explanation::default()).contains("It is under way."));
    }
}
