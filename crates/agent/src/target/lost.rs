//! Whether a container of a target pod can still come to run: its keeper and its gate may be killed (`kubectl delete --force`, the end of a shim) without a word to the agent, or
//! while there is none to hear it.

use std::{fs, io};

use godwit_node::host::Host;
use godwit_runtime::{fate::Fate, layout::Layout, protocol::CONTAINERS};

/// How a container is that a keeper holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The keeper lives, or has not said yet who it is.
    Yes,
    /// It does not, and nothing of the container will run any more that does not run already.
    Lost {
        /// Whether something may have run.
        ran: bool,
    },
}

/// Looks at the container's directory and at the keeper that it names. What is lost is ended by its fate first: no gate of it opens after that. `opened`: its gate may have been
/// opened by now, for of a container that was deleted nothing else tells.
#[must_use]
pub fn look(host: &Host, id: &str, opened: bool) -> Held {
    let layout = layout(host, id);
    if fs::metadata(&layout.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Held::Lost { ran: opened };
    }
    match layout.keeper() {
        Some(keeper) if !keeper.alive() => match Fate::end(&layout) {
            Ok(Fate::Ended) => Held::Lost { ran: false },
            Ok(Fate::Passed(_)) => Held::Lost { ran: true },
            // Deleted just now, or unreadable: the next look tells.
            Ok(Fate::Open) | Err(_) => Held::Yes,
        },
        _ => Held::Yes,
    }
}

/// Whether its keeper has begun to restore it.
#[must_use]
pub fn restores(host: &Host, id: &str) -> bool {
    layout(host, id).attempt(1).is_dir()
}

fn layout(host: &Host, id: &str) -> Layout {
    Layout { id: id.to_owned(), path: host.path(CONTAINERS).join(id) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use godwit_runtime::process::Process;

    use super::*;

    #[test]
    fn what_has_no_keeper_any_more_is_ended() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        assert_eq!(look(&host, "a", false), Held::Lost { ran: false });
        assert_eq!(look(&host, "a", true), Held::Lost { ran: true });

        let layout = |id: &str| {
            let layout = layout(&host, id);
            fs::create_dir_all(&layout.path).unwrap();
            layout
        };
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let dead = Process { start: me.start + 1, ..me };
        let (alive, waiting, passed) = (layout("alive"), layout("waiting"), layout("passed"));
        assert_eq!(look(&host, "alive", true), Held::Yes, "it has not said who it is");
        alive.write("keeper", &me).unwrap();
        assert_eq!(look(&host, "alive", true), Held::Yes);
        assert!(!restores(&host, "waiting"));
        fs::create_dir(waiting.attempt(1)).unwrap();
        assert!(restores(&host, "waiting"));
        waiting.write("keeper", &dead).unwrap();
        assert_eq!(look(&host, "waiting", true), Held::Lost { ran: false });
        assert_eq!(Fate::pass(&waiting, 1).unwrap(), Fate::Ended, "its gate opens no more");
        passed.write("keeper", &dead).unwrap();
        Fate::pass(&passed, 1).unwrap();
        assert_eq!(look(&host, "passed", true), Held::Lost { ran: true });
    }
}
