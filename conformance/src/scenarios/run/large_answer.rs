//! An answer of one MiB.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;

/// A text with characters of one, three and four bytes, and how often it is repeated: one MiB in total.
const PIECE: &str = "\u{9577}\u{5c4b}\u{1f3e0}x";
const TIMES: usize = 96_000;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-005",
    "An answer of one MiB of multi-byte characters is whole in deltas, in one event, in the result and in messages",
    "1 MiB event; UTF-8 split across chunks",
    body!(large_answer),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)];

async fn large_answer(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let whole = PIECE.repeat(TIMES);
    let events = deployment.run_well(&conversation, &format!("@chunk 997\n@repeat {TIMES} {PIECE}")).await?;
    // Without `check_eq`, which would print a MiB twice.
    let same = |text: &str, what: &str| {
        let at = text.bytes().zip(whole.bytes()).take_while(|(one, other)| one == other).count();
        check(text == whole, format!("{what}: {} bytes of {}, the same up to byte {at}", text.len(), whole.len()))
    };
    let pieces: Vec<&str> =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check(pieces.len() > 100, format!("it came in {} pieces", pieces.len()))?;
    same(&pieces.concat(), "the pieces, put together")?;
    let assistant: String = events
        .iter()
        .filter(|event| event.name == "assistant")
        .flat_map(|event| event.data["content_blocks"].as_array().cloned().unwrap_or_default())
        .filter_map(|block| block["text"].as_str().map(str::to_owned))
        .collect();
    same(&assistant, "assistant")?;
    let done = events.last().map_or("", |done| done.text("result"));
    same(done, "result in done")?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let kept = messages.as_array().into_iter().flatten().find(|message| message["message_type"] == "assistant");
    let kept = kept.map(|message| message["content"].to_string()).unwrap_or_default();
    check(kept.contains(&whole), format!("the messages do not have the whole text, but {} bytes", kept.len()))
}
