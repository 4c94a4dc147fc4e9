//! Model check of the hand-over: the very machines of `godwit_migration::handover`, driven as the agents drive them, in a world that does its worst.
//!
//! ```text
//!   source node                     the API server                    target node
//!   ┌─────────────────────┐         (CAS, replies lost,              ┌──────────────────────┐
//!   │ agent: Machine      │◀──────▶  late writes)  ◀────────────────▶│ agent: Machine       │
//!   │   crash, restart    │                                          │   crash, restart     │
//!   │ pod: frozen, sealed,│◀── messages: lost, doubled, reordered ──▶│ containers: keeper,  │
//!   │   fenced            │                                          │   held, going, run   │
//!   │ kubelet: kill, start│                                          │ kubelet: kill, create│
//!   │ reboot              │                                          │ reboot               │
//!   └─────────────────────┘                                          └──────────────────────┘
//! ```
//!
//! Crashes, kills, reboots, failures and orders to stop cost one each of one budget, lost and doubled messages and answers of another; delay and order are free. Checked in every state that can be reached:
//!
//! - *one runner*: never has code of the pod run at the source after the freeze began **and** at the target, in whatever order.
//! - *lawful*: no agent asks the API server for a transition that `may` forbids for its role.
//! - *heals*: from here, without further faults, everything ends: both machines are finished and exactly one node runs the pod.
//!
//! `GODWIT_MODEL=large` runs the larger bounds (minutes, gigabytes).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod act;
mod heal;
mod node;
mod server;
mod world;

use std::time::Duration;

use godwit_migration::handover::{source, target};
use node::At;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};
use world::{Action, Hand, Variant, World};

impl Model for Hand {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(self, &action);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one runner", |_, w: &World| !(w.source_ran && w.target_ran)),
            Property::always("lawful", |_, w: &World| !w.server.unlawful),
            Property::always("heals", |hand: &Hand, w: &World| heal::heals(hand, w)),
            Property::sometimes("the target runs", |_, w: &World| matches!(w.target.machine.state(), target::State::Done)),
            Property::sometimes("retired", |_, w: &World| matches!(w.source.machine.state(), source::State::Retired)),
            Property::sometimes("taken back", |_, w: &World| matches!(w.source.machine.state(), source::State::Released { settled: true, touched: true, .. })),
            Property::sometimes("given back", |_, w: &World| matches!(w.target.machine.state(), target::State::GivingBack { .. })),
            Property::sometimes("thawed on a promise alone", |_, w: &World| {
                matches!(w.source.machine.state(), source::State::Released { settled: false, .. })
                    && matches!(w.target.machine.state(), target::State::Never { .. })
                    && w.source_ran
            }),
            Property::sometimes("afresh at the target", |_, w: &World| w.t.containers.iter().any(|c| c.at == At::Fresh)),
            Property::sometimes("moved although the source was killed under the seal", |_, w: &World| w.target_ran && !w.s.alive && !w.s.deleted),
        ]
    }
}

fn large() -> bool {
    std::env::var("GODWIT_MODEL").is_ok_and(|size| size == "large")
}

/// Explores everything within the bounds and prints what was seen.
fn explore(hand: Hand) {
    let checker = hand.clone().checker().threads(2).spawn_bfs().join();
    println!("{hand:?}: {} states, {} unique, depth {}", checker.state_count(), checker.unique_state_count(), checker.max_depth());
    for (name, path) in checker.discoveries() {
        if ["one runner", "lawful", "heals"].contains(&name) {
            let actions: Vec<_> = path.into_actions();
            panic!("{name} is violated by {actions:#?}");
        }
    }
    assert!(checker.is_done(), "the model was not explored completely");
    if hand.faults > 0 && hand.losses > 0 {
        for property in hand.properties().into_iter().filter(|property| property.expectation == Expectation::Sometimes) {
            assert!(checker.discovery(property.name).is_some(), "never: {}", property.name);
        }
    }
}

/// Looks for the first counterexample of `property`.
fn caught(variant: Variant, containers: usize, faults: u8, losses: u8, property: &'static str) {
    let hand = Hand { variant, ..real(containers, faults, losses) };
    let checker = hand
        .clone()
        .checker()
        .threads(2)
        .timeout(Duration::from_secs(300))
        .finish_when(HasDiscoveries::AnyOf([property].into_iter().collect()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{variant:?} was not caught in {} states", checker.unique_state_count()));
    println!("{variant:?}: {property} is violated by {:?}", path.into_actions());
}

fn real(containers: usize, faults: u8, losses: u8) -> Hand {
    Hand { containers, faults, losses, variant: Variant::Real, interleave: false, calm: false }
}

#[test]
fn one_container() {
    for (faults, losses) in if large() { [(3, 0), (2, 1)] } else { [(2, 0), (1, 1)] } {
        explore(real(1, faults, losses));
    }
}

#[test]
fn two_containers() {
    explore(if large() { real(2, 2, 0) } else { real(2, 1, 0) });
}

/// Others act between two effects of one step, too.
#[test]
fn interleaved() {
    explore(Hand { interleave: true, ..if large() { real(1, 1, 1) } else { real(1, 0, 1) } });
}

/// The target opens without asking the source once more, and nothing but the cgroups keeps a rebooted source from starting.
#[test]
fn teeth_without_asking() {
    caught(Variant::SkipAskSealed, 1, 2, 0, "one runner");
}

/// The source takes silence for a promise.
#[test]
fn teeth_thaw_on_timeout() {
    caught(Variant::ThawOnTimeout, 1, 2, 0, "one runner");
}

/// Nothing durable keeps the kubelet of a rebooted source node from starting the pod: why the fence exists.
#[test]
fn teeth_no_fence() {
    caught(Variant::NoFence, 1, 1, 0, "one runner");
}

/// The source offers the dump without having frozen the pod's own cgroup.
#[test]
fn teeth_no_pod_seal() {
    caught(Variant::NoPodSeal, 1, 1, 0, "one runner");
}

/// The target takes a lost reply for a refusal.
#[test]
fn teeth_guess_after_a_lost_reply() {
    caught(Variant::GuessUnknown, 1, 0, 1, "heals");
}

/// The consumed marker is there before something ran.
#[test]
fn teeth_consume_early() {
    caught(Variant::ConsumeEarly, 1, 2, 0, "one runner");
}

/// The target does not journal.
#[test]
fn teeth_no_journal() {
    caught(Variant::NoJournal, 1, 2, 0, "one runner");
}

/// A failed restore is taken for proof that nothing ran.
#[test]
fn teeth_no_proof() {
    caught(Variant::NoProof, 1, 1, 0, "one runner");
}

/// Partial resume is taken for nothing: the failed container of two makes the target give back.
#[test]
fn teeth_partial_resume() {
    caught(Variant::PartialIsNothing, 2, 1, 0, "one runner");
}
