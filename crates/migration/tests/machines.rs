//! What the model does not say: the journal survives its serialisation, and no sequence of events, however absurd, breaks a machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use godwit_migration::Failure;
use godwit_migration::handover::{Owner, PeerState, Read, SealFacts, Sealed, Written, source, target};
use proptest::prelude::*;

fn why() -> Failure {
    Failure::new("Reason", "seen", "do")
}

fn read() -> impl Strategy<Value = Read> {
    let owner = prop_oneof![Just(Owner::Source), Just(Owner::Target), Just(Owner::Running), Just(Owner::Aborted)];
    prop_oneof![
        4 => (owner, "[1-3]").prop_map(|(owner, version)| Read::Found { owner, version }),
        1 => Just(Read::NotFound),
        1 => Just(Read::Foreign),
        1 => Just(Read::Away)
    ]
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof!["[1-3]".prop_map(|version| Written::Ok { version }), Just(Written::Conflict), Just(Written::Unknown)]
}

fn facts() -> impl Strategy<Value = SealFacts> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(same_boot, frozen, fenced, died)| SealFacts {
        same_boot,
        frozen,
        fenced,
        died: died.then(|| "a".into()),
        started: None,
    })
}

fn peer() -> impl Strategy<Value = PeerState> {
    prop_oneof![
        Just(PeerState::Prepared),
        Just(PeerState::Restoring),
        Just(PeerState::Swapped),
        Just(PeerState::Withdrawing(why())),
        Just(PeerState::Running),
        Just(PeerState::Never(why()))
    ]
}

fn source_event() -> impl Strategy<Value = source::Event> {
    use source::Event;
    prop_oneof![
        Just(Event::Begin),
        written().prop_map(Event::HandoverCreated),
        Just(Event::Frozen),
        Just(Event::FreezeFailed(why())),
        Just(Event::DumpDone),
        Just(Event::DumpFailed(why())),
        facts().prop_map(Event::PodSealed),
        peer().prop_map(Event::Target),
        Just(Event::TargetSilent),
        read().prop_map(Event::Handover),
        written().prop_map(Event::AbortWritten),
        Just(Event::Cancel(why())),
        Just(Event::DeadlinePassed),
        Just(Event::SealBroken("x".into())),
        facts().prop_map(Event::AskSealed),
        Just(Event::Retry),
        any::<bool>().prop_map(|same_boot| Event::Restarted { same_boot }),
        Just(Event::Retire),
    ]
}

fn target_event() -> impl Strategy<Value = target::Event> {
    use target::Event;
    let container = prop_oneof![Just("a".to_string()), Just("b".to_string()), Just("unheard-of".to_string())];
    prop_oneof![
        2 => Just(Event::ImagesReady),
        1 => container.clone().prop_map(|container| Event::Keeper { container }),
        3 => container.clone().prop_map(|container| Event::AtGate { container }),
        2 => Just(Event::VerifiedOk),
        1 => Just(Event::VerifyFailed(why())),
        1 => (container.clone(), any::<bool>()).prop_map(|(container, ran)| Event::RestoreFailed { container, ran, failure: why() }),
        3 => container.prop_map(|container| Event::Resumed { container }),
        3 => read().prop_map(Event::Handover),
        2 => written().prop_map(Event::SwapWritten),
        1 => written().prop_map(Event::BackWritten),
        1 => written().prop_map(Event::RunningWritten),
        2 => Just(Event::SealedReply(Sealed::Yes)),
        1 => Just(Event::SealedReply(Sealed::No { why: "x".into() })),
        1 => Just(Event::SourceSilent),
        1 => Just(Event::Undo(why())),
        1 => any::<bool>().prop_map(|abandon| Event::AskedByPeer { abandon }),
        1 => Just(Event::Retry),
        1 => any::<bool>().prop_map(|same_boot| Event::Restarted { same_boot }),
    ]
}

/// `Journal` stands first or not at all, so what is durable is what the other effects of the step follow from.
fn journal_first<E: PartialEq>(effects: &[E], journal: &E) -> bool {
    effects.iter().skip(1).all(|effect| effect != journal)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn source_is_total(events in proptest::collection::vec(source_event(), 0..40)) {
        let mut machine = source::Machine::new();
        let mut gone = false;
        for event in events {
            let effects = machine.step(event);
            prop_assert!(journal_first(&effects, &source::Effect::Journal));
            prop_assert!(!(gone && effects.contains(&source::Effect::Thaw)), "thawed after the target ran");
            gone |= *machine.state() == source::State::Gone;
            let journal = serde_json::to_vec(&machine).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<source::Machine>(&journal).unwrap(), &machine);
        }
    }

    #[test]
    fn target_is_total(events in proptest::collection::vec(target_event(), 0..60)) {
        let mut machine = target::Machine::new(["a".to_string(), "b".to_string()]);
        let mut never = false;
        for event in events {
            let effects = machine.step(event);
            prop_assert!(journal_first(&effects, &target::Effect::Journal));
            prop_assert!(!(never && effects.iter().any(|effect| matches!(effect, target::Effect::OpenGate | target::Effect::WriteSwap { .. }))), "broke its promise");
            never |= matches!(machine.state(), target::State::Never { .. });
            let journal = serde_json::to_vec(&machine).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<target::Machine>(&journal).unwrap(), &machine);
        }
    }
}

#[test]
fn the_good_way_of_the_source() {
    use source::{Effect, Event, Outcome};
    let mut machine = source::Machine::new();
    let sealed = SealFacts { same_boot: true, frozen: true, fenced: true, died: None, started: None };
    assert_eq!(machine.step(Event::Begin), [Effect::Journal, Effect::CreateHandover]);
    assert_eq!(
        machine.step(Event::HandoverCreated(Written::Ok { version: "1".into() })),
        [Effect::Journal, Effect::Fence, Effect::ShutTraffic, Effect::Freeze]
    );
    assert_eq!(machine.step(Event::Frozen), [Effect::Dump]);
    assert_eq!(machine.step(Event::DumpDone), [Effect::SealPod]);
    assert_eq!(machine.step(Event::PodSealed(sealed.clone())), [Effect::Journal, Effect::OfferToTarget]);
    assert_eq!(machine.step(Event::AskSealed(sealed)), [Effect::AnswerSealed(Sealed::Yes)]);
    assert_eq!(machine.step(Event::Target(PeerState::Running)), [Effect::Journal, Effect::Report(Outcome::Running)]);
    assert_eq!(machine.step(Event::Retire), [Effect::Journal, Effect::Kill, Effect::Unfence]);
    assert!(machine.finished());
}

#[test]
fn the_good_way_of_the_target() {
    use target::{Effect, Event};
    let at_gate = |name: &str| Event::AtGate { container: name.into() };
    let resumed = |name: &str| Event::Resumed { container: name.into() };
    let mut machine = target::Machine::new(["a".to_string(), "b".to_string()]);
    assert_eq!(machine.step(Event::ImagesReady), [Effect::AnswerImagesGo, Effect::ReadHandover]);
    assert_eq!(machine.step(Event::Handover(Read::Found { owner: Owner::Source, version: "1".into() })), []);
    assert_eq!(machine.step(at_gate("a")), []);
    assert_eq!(machine.step(at_gate("b")), [Effect::Verify]);
    assert_eq!(machine.step(Event::VerifiedOk), [Effect::Journal, Effect::WriteSwap { version: "1".into() }]);
    assert_eq!(machine.step(Event::SwapWritten(Written::Ok { version: "2".into() })), [Effect::AskSealed]);
    assert_eq!(machine.step(Event::SealedReply(Sealed::Yes)), [Effect::Journal, Effect::OpenGate]);
    assert_eq!(machine.create(), target::Create::Refuse);
    assert_eq!(machine.step(resumed("b")), [Effect::Journal, Effect::MarkConsumed, Effect::WriteRunning { version: "2".into() }]);
    assert_eq!(machine.create(), target::Create::Afresh);
    assert_eq!(machine.step(resumed("a")), [Effect::Journal, Effect::Report(PeerState::Running)]);
    assert_eq!(machine.step(Event::RunningWritten(Written::Ok { version: "3".into() })), [Effect::Journal]);
    assert!(machine.finished());
}

/// A refusal that is no conflict must not become a hot loop.
#[test]
fn a_refused_swap_is_withdrawn() {
    use target::{Effect, Event};
    let source = || Event::Handover(Read::Found { owner: Owner::Source, version: "1".into() });
    let mut machine = target::Machine::new(["a".to_string()]);
    machine.step(Event::ImagesReady);
    machine.step(source());
    machine.step(Event::AtGate { container: "a".into() });
    machine.step(Event::VerifiedOk);
    assert_eq!(machine.step(Event::SwapWritten(Written::Conflict)), [Effect::ReadHandover]);
    let effects = machine.step(source());
    assert!(matches!(machine.peer_state(), PeerState::Withdrawing(why) if why.reason == "SwapRefused"), "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::WriteSwap { .. })));
}

#[test]
fn a_seal_holds_or_it_does_not() {
    let good = SealFacts { same_boot: true, frozen: true, fenced: true, died: Some("a".into()), started: None };
    assert_eq!(good.sealed(), Sealed::Yes, "killed under the seal is not a no");
    assert!(matches!(good.closed(), Sealed::No { .. }), "but it is while the seal closes");
    for bad in [
        SealFacts { same_boot: false, ..good.clone() },
        SealFacts { frozen: false, ..good.clone() },
        SealFacts { fenced: false, ..good.clone() },
        SealFacts { started: Some("a".into()), ..good },
    ] {
        assert!(matches!(bad.sealed(), Sealed::No { .. }), "{bad:?}");
    }
}
