//! The fair future: no more faults, everybody is up, everything in flight arrives. It must end, and well.

use std::hash::{DefaultHasher, Hash, Hasher};

use godwit_migration::handover::{Role, source, target};

use crate::world::{Action, Hand, World};

/// Whether the world ends with both machines finished and one runner.
pub fn heals(hand: &Hand, world: &World) -> bool {
    if world.source_ran && world.target_ran {
        return true; // the other property speaks
    }
    let hand = &Hand { calm: true, ..hand.clone() };
    let mut world = world.clone();
    // The first step of the fair future leads to a state that is explored, too; so only where nothing moves by itself the future is played to its end
    // (and in one state of 64, against circles).
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    if !hasher.finish().is_multiple_of(64) && progress(hand, &world).is_some() {
        return true;
    }
    let mut silent = 0;
    for _ in 0..400 {
        if ended(&world) {
            return true;
        }
        if let Some(next) = progress(hand, &world) {
            world = next;
            continue;
        }
        // The controller undoes the target once the source is taken back.
        if matches!(world.source.machine.state(), source::State::Released { .. })
            && matches!(world.target.machine.state(), target::State::Prepared | target::State::Restoring | target::State::Verifying)
        {
            world.faults += 1;
            world.act(hand, &Action::Undo);
            continue;
        }
        silent += 1;
        if silent > 20 {
            return false;
        }
        let mut actions = vec![];
        world.actions(hand, &mut actions);
        for role in [Role::Source, Role::Target] {
            if actions.contains(&Action::Retry(role)) {
                world.act(hand, &Action::Retry(role));
            }
        }
    }
    false
}

/// The first thing that happens by itself, retries apart.
fn progress(hand: &Hand, world: &World) -> Option<World> {
    let mut actions = vec![];
    world.actions(hand, &mut actions);
    actions.iter().filter(|action| !matches!(action, Action::Retry(_))).find_map(|action| {
        let mut next = world.clone();
        next.act(hand, action);
        (next != *world).then_some(next)
    })
}

fn ended(world: &World) -> bool {
    world.source.machine.finished() && world.target.machine.finished() && (world.s.runs() != world.target_ran) && !(world.source_ran && world.target_ran)
}
