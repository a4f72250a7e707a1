//! What may happen in a life.

use std::time::Duration;

use nagaya_workspace::engine::memory::{Call, Fault};
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A run begins.
    Acquire(u8),
    /// It ends well.
    Finish(u8),
    /// It has lost its room.
    Abandon(u8),
    /// The conversation is deleted, its run ended.
    Delete(u8),
    /// An operator takes a room down, whatever is in it.
    Release(u8),
    Collect,
    /// The clock goes on.
    Age,
    Pool(u8, u8),
    /// A container ends, loses its agent, or is taken away.
    Crash(u8),
    Silence(u8),
    Vanish(u8),
    /// Something of ours that nobody knows.
    Stray {
        container: bool,
    },
    Once(Call, Fault),
    Always(Call, Fault),
    LoseImages,
    Heal,
    /// SIGTERM, and another start.
    Restart,
    /// SIGKILL, and another start.
    Kill,
    /// SIGKILL while something goes on, after so many of its steps.
    KillDuring(Box<Step>, u16),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let conversation = 0..4u8;
    let call =
        prop_oneof![Just(Call::Run), Just(Call::Remove), Just(Call::List), Just(Call::IsRunning), Just(Call::Ping)];
    let fault = prop_oneof![
        Just(Fault::Refuse),
        Just(Fault::Hang(Duration::from_millis(3))),
        Just(Fault::HalfWay),
        Just(Fault::NoAnswer)
    ];
    let cut = prop_oneof![
        4 => conversation.clone().prop_map(Step::Acquire),
        2 => conversation.clone().prop_map(Step::Delete),
        2 => conversation.clone().prop_map(Step::Finish),
        1 => any::<u8>().prop_map(Step::Release),
        2 => Just(Step::Collect),
    ];
    prop_oneof![
        8 => conversation.clone().prop_map(Step::Acquire),
        5 => conversation.clone().prop_map(Step::Finish),
        2 => conversation.clone().prop_map(Step::Abandon),
        3 => conversation.prop_map(Step::Delete),
        1 => any::<u8>().prop_map(Step::Release),
        3 => Just(Step::Collect),
        2 => Just(Step::Age),
        2 => (0..3u8, 0..2u8).prop_map(|(min, more)| Step::Pool(min, min + more)),
        2 => any::<u8>().prop_map(Step::Crash),
        1 => any::<u8>().prop_map(Step::Silence),
        1 => any::<u8>().prop_map(Step::Vanish),
        1 => any::<bool>().prop_map(|container| Step::Stray { container }),
        2 => (call.clone(), fault.clone()).prop_map(|(call, fault)| Step::Once(call, fault)),
        1 => (call, fault).prop_map(|(call, fault)| Step::Always(call, fault)),
        1 => Just(Step::LoseImages),
        3 => Just(Step::Heal),
        2 => Just(Step::Restart),
        2 => Just(Step::Kill),
        3 => (cut, 0..60u16).prop_map(|(step, polls)| Step::KillDuring(Box::new(step), polls)),
    ]
}
