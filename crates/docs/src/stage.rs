//! What the commands of the pages find in their folder: examples, the chart, checkpoints.

use std::path::Path;

use anyhow::{Context, Result};

use crate::book;
use crate::run::replace;

/// Folder of the examples, seen from the root.
const EXAMPLES: &str = "docs/examples";

/// Puts docs/examples into a folder, with these words replaced, and the chart beside it.
///
/// # Errors
/// When a file cannot be read or written.
pub fn examples(folder: &Path, words: &[(String, String)]) -> Result<()> {
    let root = book::root();
    std::fs::create_dir_all(folder.join(EXAMPLES))?;
    for entry in std::fs::read_dir(root.join(EXAMPLES)).context(EXAMPLES)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let text = replace(&text, words.iter().map(|(page, here)| (page.as_str(), here.as_str())));
        std::fs::write(folder.join(EXAMPLES).join(path.file_name().unwrap_or_default()), text)?;
    }
    std::os::unix::fs::symlink(root.join("deploy"), folder.join("deploy"))?;
    Ok(())
}
