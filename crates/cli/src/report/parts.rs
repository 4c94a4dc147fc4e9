//! Parts of the page that are text: diagnosis, the freeze as one bar, what was kept, facts, folded logs and tables.

use std::fmt::Write;

use godwit_api::PodMigration;
use godwit_api::migration::{Phase, PodMigrationStatus};

use super::escape;
use crate::explain::Explanation;
use crate::text::{count, precise, since};
use crate::timeline::{self, Timeline};

/// Why it failed; nothing when it did not.
#[must_use]
pub fn diagnosis(said: &Explanation) -> String {
    if said.reason.is_empty() {
        return String::new();
    }
    let mut html = format!("<section class=\"diagnosis\">\n<h2>{}</h2>\n<dl>\n", escape(&said.reason));
    for (label, text) in [("seen", &said.seen), ("cause", &said.cause), ("what to do", &said.remedy)] {
        if !text.is_empty() {
            let _ = writeln!(html, "<dt>{label}</dt><dd>{}</dd>", escape(text));
        }
    }
    if !said.link.is_empty() {
        let _ = writeln!(html, "<dt>read more</dt><dd><a href=\"{0}\">{0}</a></dd>", escape(&said.link));
    }
    html.push_str("</dl>\n");
    if !said.collect.is_empty() {
        html.push_str("<p>This error is not known. A report needs:</p>\n<ul>\n");
        html.extend(said.collect.iter().map(|line| format!("<li>{}</li>\n", escape(line))));
        html.push_str("</ul>\n");
    }
    html.push_str("</section>\n");
    html
}

/// The critical path as one bar with its parts, and the same as a list.
#[must_use]
pub fn bar(timeline: &Timeline, total: i64) -> String {
    let mut parts: Vec<(String, String, i64)> = Vec::new();
    for stretch in &timeline.path {
        let row = stretch.step.and_then(|step| timeline.rows.get(step));
        let (name, who) = row.map_or(("not explained".to_owned(), "gap"), |row| {
            if row.step == "offer" {
                ("on the way".to_owned(), "gap")
            } else {
                (row.step.clone(), if matches!(row.who.as_str(), "target" | "wrapper") { "target" } else { "source" })
            }
        });
        match parts.iter_mut().find(|part| part.0 == name && part.1 == who) {
            Some(part) => part.2 += stretch.length_us(),
            None => parts.push((name, who.to_owned(), stretch.length_us())),
        }
    }
    let mut html =
        String::from("<p>What the time was really spent on, in order. What ran beside it and was ready sooner is not in it.</p>\n<div class=\"stack\">\n");
    for (name, who, us) in &parts {
        let _ = writeln!(html, "<span class=\"{who}\" style=\"flex-grow:{}\" title=\"{} {}\"></span>", (*us).max(1), escape(name), precise(*us));
    }
    html.push_str("</div>\n<ul class=\"parts\">\n");
    for (name, who, us) in &parts {
        let percent = us.saturating_mul(100) / total.max(1);
        let _ = writeln!(html, "<li><i class=\"{who}\"></i>{} <b>{}</b> <span>{percent} %</span></li>", escape(name), precise(*us));
    }
    html.push_str("</ul>\n");
    html
}

/// Connections, and what is different afterwards.
#[must_use]
pub fn kept(status: &PodMigrationStatus) -> String {
    let Some(plan) = &status.plan else { return String::new() };
    let moved = matches!(status.phase, Phase::Succeeded | Phase::Settling);
    let mut lines = vec![match (plan.network.as_str(), plan.connections) {
        (_, 0) => "No connection to outside the pod was open.".to_owned(),
        ("Close", number) if moved => format!("{} closed; clients reconnect.", count(number, "connection was", "connections were")),
        ("Close", number) => format!("{} would be closed by a move.", count(number, "connection", "connections")),
        (way, number) => format!("{} kept ({way}).", count(number, "connection", "connections")),
    }];
    if let (true, Some(name)) = (moved, &status.target_pod) {
        lines.push(format!("The pod's name is {name} now."));
    }
    lines.extend(plan.warnings.iter().cloned());
    let lines: String = lines.iter().map(|line| format!("<li>{}</li>\n", escape(line))).collect();
    format!("<section>\n<h2>Connections, and what was adapted</h2>\n<ul>\n{lines}</ul>\n</section>\n")
}

/// What else is worth knowing.
#[must_use]
pub fn facts(said: &Explanation) -> String {
    let told: Vec<&String> = said.facts.iter().filter(|fact| !fact.starts_with("different afterwards")).collect();
    if told.is_empty() {
        return String::new();
    }
    let lines: String = told.iter().map(|line| format!("<li>{}</li>\n", escape(line))).collect();
    format!("<section>\n<h2>Also</h2>\n<ul>\n{lines}</ul>\n</section>\n")
}

/// Tables and logs that most readers do not need.
#[must_use]
pub fn folded(object: &PodMigration, said: &Explanation, timeline: &Timeline) -> String {
    let mut html = String::from("<section>\n<h2>In full</h2>\n");
    if !timeline.rows.is_empty() {
        let begin = timeline.begin_us();
        html.push_str("<details>\n<summary>Every step</summary>\n<div class=\"scroll\"><table>\n<tr><th>start</th><th>time</th><th>who</th><th>step</th><th>what</th><th>waited for</th></tr>\n");
        for row in &timeline.rows {
            let (does, waits) = row.meaning();
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}{} {}</td><td>{}</td><td>{}</td></tr>",
                since(row.start_us - begin),
                precise(row.duration_us),
                escape(&row.who),
                if row.critical_us > 0 { "● " } else { "" },
                escape(&row.step),
                escape(&row.about()),
                escape(does),
                escape(waits)
            );
        }
        html.push_str("</table></div>\n</details>\n");
    }
    let fold = |title: &str, text: &str| format!("<details>\n<summary>{title}</summary>\n<pre>{}</pre>\n</details>\n", escape(text));
    if !said.log.is_empty() {
        html.push_str(&fold("Lines of the log that say why", &said.log.join("\n")));
    }
    html.push_str(&fold("Timeline as text", &timeline::text(object).join("\n")));
    html.push_str(&fold("The record", &serde_json::to_string_pretty(object).unwrap_or_default()));
    html.push_str("</section>\n");
    html
}
