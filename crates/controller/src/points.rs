//! Every named fault point of the controller, in the order of the road.

/// The names; `godwit-controller fault-points` prints them.
pub const ALL: [&str; 32] = [
    "controller.pending.held",
    "controller.pending.taken-up",
    "controller.planning.inspected",
    "controller.planning.decided",
    "controller.planning.written",
    "controller.preparing.named",
    "controller.preparing.pod-created",
    "controller.preparing.pod-known",
    "controller.preparing.placed",
    "controller.copying.announced",
    "controller.copying.ready",
    "controller.copying.written",
    "controller.switching.attached",
    "controller.switching.outcome",
    "controller.switching.written",
    "controller.settling.live",
    "controller.settling.filling",
    "controller.settling.cost",
    "controller.settling.adopted",
    "controller.settling.shared",
    "controller.settling.anchored",
    "controller.settling.emptied",
    "controller.settling.source-deleted",
    "controller.settling.retired",
    "controller.settling.gone",
    "controller.settling.written",
    "controller.anchored.ended",
    "controller.anchored.gone",
    "controller.undo.written",
    "controller.undo.told",
    "controller.undo.pod-deleted",
    "controller.undo.ended",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeSet;

    /// The list is what stands in the sources.
    #[test]
    fn the_list_is_complete() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/phase");
        let mut found = BTreeSet::new();
        for file in std::fs::read_dir(directory).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            found.extend(text.split("point(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
        let listed: BTreeSet<String> = super::ALL.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(found, listed);
    }
}
