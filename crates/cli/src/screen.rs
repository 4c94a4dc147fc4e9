//! Shows the view as it grows: on a terminal the open line is redrawn with a spinner, elsewhere each line is printed once, when it is done.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::Error;
use crate::view::Line;

/// Where the view goes: standard error while standard output carries JSON.
pub struct Screen {
    printed: usize,
    quiet: bool,
    open: Option<ProgressBar>,
}

impl Screen {
    /// An empty one; `quiet` shows nothing at all.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let open = (!quiet && std::io::stdout().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg} {spinner}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { printed: 0, quiet, open }
    }

    /// Shows what is new in `lines`.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn show(&mut self, lines: &[Line]) -> Result<(), Error> {
        while let Some(line) = lines.get(self.printed).filter(|line| line.done) {
            self.print(&line.to_string())?;
            self.printed += 1;
        }
        if let (Some(bar), Some(line)) = (&self.open, lines.get(self.printed)) {
            bar.set_message(line.to_string());
        }
        Ok(())
    }

    /// Prints a line that stays.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print(&self, text: &str) -> Result<(), Error> {
        if self.quiet {
            return Ok(());
        }
        match &self.open {
            Some(bar) => bar.println(text),
            None => writeln!(std::io::stdout(), "{text}")?,
        }
        Ok(())
    }

    /// The last line: the spinner goes, lines that were open are printed as they are.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn end(&mut self, lines: &[Line], last: Option<&str>) -> Result<(), Error> {
        if let Some(bar) = self.open.take() {
            bar.finish_and_clear();
        }
        for line in lines.iter().skip(self.printed) {
            self.print(&line.to_string())?;
        }
        self.printed = lines.len();
        last.map_or(Ok(()), |last| self.print(last))
    }
}
