//! The steps of a random sequence.

use std::time::Duration;

use nagaya_workspace::engine::memory::{Call, Fault};
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A run begins.
    Acquire(u8),
    /// The run ends.
    Finish(u8),
    /// The run gives up its room.
    Abandon(u8),
    /// The conversation is deleted, after its run has ended.
    Delete(u8),
    /// An operator releases a room, also during a run.
    Release(u8),
    Collect,
    /// The clock advances.
    Age,
    Pool(u8, u8),
    /// A container stops.
    Crash(u8),
    /// A container's agent stops answering.
    Silence(u8),
    /// A container is removed from outside.
    Vanish(u8),
    /// A container or a directory of the deployment appears that the server does not know.
    Stray {
        container: bool,
    },
    Once(Call, Fault),
    Always(Call, Fault),
    LoseImages,
    Heal,
    /// SIGTERM, then a new start.
    Restart,
    /// SIGKILL, then a new start.
    Kill,
    /// SIGKILL during a step, after it has been polled this many times.
    KillDuring(Box<Step>, u16),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let conversation = 0..4u8;
    let call =
        prop_oneof![Just(Call::Run), Just(Call::Remove), Just(Call::List), Just(Call::Condition), Just(Call::Ping)];
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
