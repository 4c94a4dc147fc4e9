//! What this agent did last, kept so that it can be told afterwards too: its own events, the steps of its sessions, what keepers asked, and CRIU's logs, whose files
//! go with the images.
//!
//! Bounded in bytes; the oldest goes first. It does not survive the agent: what must, is in the PodMigration.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, PoisonError};

use godwit_trace::{Level, Line, Source};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::Listener;
use crate::clock::now_us;

/// Most that is kept, in bytes.
const ROOM: usize = 4 << 20;
/// What one line takes besides its texts.
const HEAD: usize = 64;
/// New lines that a slow listener may be behind.
const NEWS: usize = 8192;

/// What is kept.
pub static MEMORY: LazyLock<Memory> = LazyLock::new(Memory::default);

/// A line, and the names (UIDs, ids) that it is about besides those in its text.
#[derive(Clone, Debug)]
pub struct Kept {
    number: u64,
    line: Line,
    about: String,
}

impl Kept {
    fn size(&self) -> usize {
        self.line.text.len() + self.about.len() + HEAD
    }
}

/// See the module.
pub struct Memory {
    kept: Mutex<Store>,
    news: broadcast::Sender<Kept>,
}

#[derive(Default)]
struct Store {
    lines: VecDeque<Kept>,
    bytes: usize,
    next: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { kept: Mutex::default(), news: broadcast::channel(NEWS).0 }
    }
}

impl Memory {
    /// Keeps a line.
    pub fn put(&self, line: Line, about: &str) {
        let mut store = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        store.next += 1;
        let kept = Kept { number: store.next, line, about: about.to_owned() };
        // Nobody may listen.
        let _ = self.news.send(kept.clone());
        store.bytes += kept.size();
        store.lines.push_back(kept);
        while store.bytes > ROOM {
            let Some(oldest) = store.lines.pop_front() else { break };
            store.bytes = store.bytes.saturating_sub(oldest.size());
        }
    }

    /// What comes from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Kept> {
        self.news.subscribe()
    }

    fn all(&self) -> Vec<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect()
    }
}

/// Notes something that happened now, about these names.
pub fn note(source: Source, level: Level, about: &str, text: &str) {
    MEMORY.put(Line::new(now_us(), source, level, text), about);
}

/// Tells what is kept; gives the number of the last line.
pub async fn past(listener: &Listener) -> u64 {
    let all = MEMORY.all();
    // Twice: what was asked first may have been about a container whose pod is named only later.
    for kept in &all {
        concerned(listener, kept);
    }
    let last = all.last().map_or(0, |kept| kept.number);
    for kept in all {
        if concerned(listener, &kept) {
            listener.tell(kept.line).await;
        }
    }
    last
}

/// Tells what comes after the line of that number, until nobody listens.
pub async fn follow(mut news: broadcast::Receiver<Kept>, last: u64, listener: &Listener) {
    loop {
        let next = tokio::select! {
            next = news.recv() => next,
            () = listener.out.closed() => return,
        };
        match next {
            Ok(kept) => {
                if kept.number > last && concerned(listener, &kept) {
                    listener.tell(kept.line).await;
                }
            }
            Err(broadcast::error::RecvError::Lagged(lost)) => listener.explain(&format!("{lost} lines of the agent came too fast and were left out")).await,
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn concerned(listener: &Listener, kept: &Kept) -> bool {
    listener.concerns(&kept.about) || listener.concerns(&kept.line.text)
}

/// Events of Godwit's own crates, at every level.
pub struct Ear;

/// What a span says that its lines are about.
struct About(String);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ear {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, id: &tracing::span::Id, context: Context<'_, S>) {
        let mut words = Words::default();
        attributes.record(&mut words);
        if let Some(span) = context.span(id).filter(|_| !words.about.is_empty()) {
            span.extensions_mut().insert(About(words.about));
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        // What is asked there is told in plain words, see `asked`.
        if metadata.target().starts_with("godwit_agent::socket") {
            return;
        }
        let mut words = Words::default();
        event.record(&mut words);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(About(about)) = span.extensions().get() {
                words.about.push_str(about);
            }
        }
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let network = ["godwit_network", "godwit_agent::anchor"].iter().any(|target| metadata.target().starts_with(target));
        let source = if network { Source::Network } else { Source::Agent };
        MEMORY.put(Line::new(now_us(), source, level, &words.text), &words.about);
    }
}

/// The message and the fields of an event; names that a reader knows anyway are kept apart.
#[derive(Default)]
struct Words {
    text: String,
    about: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => {
                let message = format!("{value:?}");
                self.text.insert_str(0, &message);
                Ok(())
            }
            "migration" => write!(self.about, " {value:?} "),
            name => write!(self.text, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_is_logged_about_a_migration_names_it() {
        let seen = tracing_subscriber::registry().with(Ear);
        tracing::subscriber::with_default(seen, || {
            godwit_rpc::logs::about("uid-of-the-test", "shop", "web-0-x").in_scope(|| tracing::warn!(target: "godwit_agent::x", attempt = 3, "only here"));
        });
        let kept = MEMORY.all().into_iter().find(|kept| kept.line.text.starts_with("only here")).unwrap();
        assert_eq!(kept.line.text, "only here attempt=3");
        assert!(kept.about.contains("uid-of-the-test"));
    }

    #[test]
    fn the_oldest_goes_first() {
        let memory = Memory::default();
        let text = "x".repeat(900);
        for number in 0..6000 {
            memory.put(Line::new(number, Source::Agent, Level::Info, &text), "uid");
        }
        let all = memory.all();
        assert!(all.len() < 6000 && all.len() > 4000, "{}", all.len());
        assert_eq!(all.last().map(|kept| kept.line.at_us), Some(5999));
        assert!(all.iter().map(Kept::size).sum::<usize>() <= ROOM);
    }
}
