//! Links of pages: every one that stays in the repository has its file, and its heading there.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// A link in a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Line, counted from 1.
    pub line: usize,
    /// Where it leads.
    pub target: String,
}

/// Links of a page outside of code.
#[must_use]
pub fn of(page: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for (line, text) in prose(page) {
        let mut rest = text.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            links.push(Link { line, target: rest[..end].to_owned() });
        }
    }
    links
}

/// Names of a page's headings, as GitHub and mdbook make them.
#[must_use]
pub fn headings(page: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (_, line) in prose(page) {
        let Some(title) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')).and_then(|rest| rest.strip_prefix(' ')) else { continue };
        let name: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|char| match char {
                ' ' => Some('-'),
                '-' | '_' => Some(char),
                other => other.is_alphanumeric().then_some(other),
            })
            .collect();
        let mut number = 1;
        let mut unique = name.clone();
        while !all.insert(unique.clone()) {
            unique = format!("{name}-{number}");
            number += 1;
        }
    }
    all
}

/// Lines that are no code, with their numbers; code within a line is left out, except in headings.
fn prose(page: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    page.lines().enumerate().filter_map(move |(index, line)| {
        if line.starts_with("```") {
            fenced = !fenced;
            return None;
        }
        let text = if line.starts_with('#') { line.to_owned() } else { line.split('`').step_by(2).collect::<Vec<_>>().join("`") };
        (!fenced).then_some((index + 1, text))
    })
}

/// A path without `.` and `..`.
#[must_use]
pub fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Splits a link into the file, seen from the repository's root, and the heading. Nothing for a link that leads out of the repository.
#[must_use]
pub fn resolve(page: &Path, target: &str) -> Option<(PathBuf, Option<String>)> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading.to_owned())));
    let path = if file.is_empty() { page.to_owned() } else { tidy(&page.parent().unwrap_or(Path::new("")).join(file)) };
    Some((path, heading))
}

/// What is wrong with the links of these pages, whose paths are seen from `root`.
///
/// # Errors
/// When a page cannot be read.
pub fn dead(root: &Path, pages: &[PathBuf]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(root.join(page)).with_context(|| format!("{}", page.display()))?;
        for link in of(&text) {
            let Some((path, heading)) = resolve(page, &link.target) else { continue };
            let there = root.join(&path);
            if !there.exists() {
                wrong.push(format!("{}:{}: there is no {}", page.display(), link.line, path.display()));
            } else if let Some(heading) = heading
                && !headings(&std::fs::read_to_string(&there).unwrap_or_default()).contains(&heading)
            {
                wrong.push(format!("{}:{}: {} has no heading {heading}", page.display(), link.line, path.display()));
            }
        }
    }
    Ok(wrong)
}

/// What is wrong with the links of a folder of HTML pages: those that lead to no file of it, or to no place in the page.
///
/// # Errors
/// When a page cannot be read.
pub fn dead_in_book(folder: &Path) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    html(folder, Path::new(""), &mut pages)?;
    let mut wrong = Vec::new();
    // What mdbook makes beside the pages: its own links are not ours.
    for page in pages.iter().filter(|page| !["404.html", "toc.html", "print.html"].contains(&page.to_string_lossy().as_ref())) {
        let text = std::fs::read_to_string(folder.join(page))?;
        for target in attributes(&text, "href") {
            let Some((path, heading)) = resolve(page, target) else { continue };
            let there = folder.join(&path);
            if !there.exists() {
                wrong.push(format!("{}: there is no {}", page.display(), path.display()));
            } else if let Some(heading) = heading.filter(|heading| !heading.is_empty())
                && !attributes(&std::fs::read_to_string(&there)?, "id").any(|id| id == heading)
            {
                wrong.push(format!("{}: {} has no place {heading}", page.display(), path.display()));
            }
        }
    }
    Ok(wrong)
}

/// All pages below a folder, seen from `root`.
fn html(root: &Path, folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(folder))? {
        let path = folder.join(entry?.file_name());
        if root.join(&path).is_dir() {
            html(root, &path, pages)?;
        } else if path.extension().is_some_and(|end| end == "html") {
            pages.push(path);
        }
    }
    Ok(())
}

/// Values of an attribute in a page.
fn attributes<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let opening = format!(" {name}=\"");
    let length = opening.len();
    text.match_indices(&opening).map(|(at, _)| at).collect::<Vec<_>>().into_iter().filter_map(move |at| {
        let rest = &text[at + length..];
        rest.find('"').map(|end| &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code_only() {
        let page = "a [b](c.md#d) [e](https://x) `[no](no)`\n```\n[no](no)\n```\n[f](#g)\n";
        let found: Vec<String> = of(page).into_iter().map(|link| format!("{} {}", link.line, link.target)).collect();
        assert_eq!(found, ["1 c.md#d", "1 https://x", "5 #g"]);
        assert_eq!(resolve(Path::new("docs/p.md"), "../A.md#b"), Some(("A.md".into(), Some("b".into()))));
        assert_eq!(resolve(Path::new("docs/p.md"), "https://x/y.md"), None);
    }

    #[test]
    fn a_book_with_a_dead_link_is_told() -> Result<()> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("docs"))?;
        std::fs::write(folder.path().join("index.html"), r#"<a href="docs/a.html#b">b</a> <a href="docs/a.html#c">c</a> <a href="https://x/">x</a>"#)?;
        std::fs::write(folder.path().join("docs/a.html"), r#"<h1 id="b">b</h1> <a class="x" href="../no.html">n</a>"#)?;
        let mut wrong = dead_in_book(folder.path())?;
        wrong.sort();
        assert_eq!(wrong, ["docs/a.html: there is no no.html", "index.html: docs/a.html has no place c"]);
        Ok(())
    }

    #[test]
    fn headings_are_named_as_github_does() {
        let found: Vec<String> = headings("# When are images whole?\n## `a` & b-c\n## x\n## x\n```\n# no\n```\n").into_iter().collect();
        assert_eq!(found, ["a--b-c", "when-are-images-whole", "x", "x-1"]);
    }
}
