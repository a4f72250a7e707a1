//! A model that refuses, fails or stalls.

use std::time::Duration;

use crate::client::stream::{RunEvent, names};
use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::broken_run::ended_badly;
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

/// The shortest limit of a stalled answer that is accepted, in seconds.
const IDLE_SECONDS: u64 = 10;

/// Time limit of the server's `doctor`, which waits for the credential chain.
const DOCTOR_LIMIT: Duration = Duration::from_secs(30);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-040",
        "Without AWS credentials a run ends without a retry, and its error, /health and `doctor` name them",
        "a server that cannot sign says so, instead of minutes of silence",
        body!(no_credentials),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "RUN-041",
        "A model that is overloaded or refuses is asked a few times, each is told, and the workspace is kept",
        "retries are told and few; model_error names the status; the workspace is kept",
        body!(refusals),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "RUN-042",
        "An answer of the model that stalls ends the run with model_error, and the workspace keeps its files",
        "MODEL_IDLE_TIMEOUT; no text twice; the workspace is kept",
        body!(stalled),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "RUN-048",
        "A model that refuses, and an answer that is cut off, end the run with an error that says so, and why",
        "stop reasons: refusal and max_tokens are no success; done has the stop reason",
        body!(no_answer),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

/// The message of a run's model_error.
fn model_error(events: &[RunEvent]) -> Result<&str, Failure> {
    ended_badly(events)?;
    let error = events.iter().find(|event| event.name == "error");
    check_eq(
        format!("error_type among {}", names(events)),
        error.map(|event| event.text("error_type")),
        Some("model_error"),
    )?;
    Ok(error.map_or("", |event| event.text("message")))
}

/// The messages of the events that tell of a retry.
fn retries(events: &[RunEvent]) -> Vec<&str> {
    let told = events.iter().filter(|event| event.name == "progress" && event.text("type") == "retry");
    told.map(|event| event.text("message")).collect()
}

async fn no_credentials(context: &Context) -> Result<(), Failure> {
    let launch = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        .into_iter()
        .fold(Launch::new(), |launch, name| launch.set(name, ""));
    let deployment = context.launch(launch.set("AWS_EC2_METADATA_DISABLED", "true")).await?;
    let conversation = deployment.conversation(context).await?;
    let events = deployment.run(&conversation, "@say never").await?;
    let message = model_error(&events)?;
    check(message.contains("AWS_ACCESS_KEY_ID"), format!("the error does not name the setting: {message}"))?;
    check_eq("retries", retries(&events), Vec::<&str>::new())?;
    eventually(Duration::from_secs(15), "model_credentials in /health", async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        let (status, credentials) = (&health["status"], &health["checks"]["model_credentials"]);
        check(
            status == "degraded" && credentials["status"] == "degraded",
            format!("{status}, model_credentials: {credentials}"),
        )
    })
    .await?;
    let output = deployment.server()?.command(Act::Doctor)?.output(&context.run.id, DOCTOR_LIMIT).await?;
    let doctor = String::from_utf8_lossy(&output.stdout).into_owned();
    check(!output.status.success(), format!("doctor has status 0: {doctor}"))?;
    check(
        doctor.contains("BAD   model credentials") && doctor.contains("AWS_ACCESS_KEY_ID"),
        format!("doctor: {doctor}"),
    )
}

/// A run that comes to `trouble` in a workspace with a file. The next run must find the same workspace with that file.
async fn trouble(
    deployment: &Deployment,
    conversation: &Conversation,
    trouble: &str,
) -> Result<Vec<RunEvent>, Failure> {
    let write = "@tool Bash {\"command\": \"printf here > kept.txt\", \"description\": \"Write\"}";
    deployment.run_well(conversation, write).await?;
    let events = deployment.run(conversation, trouble).await?;
    let room = deployment.only_room().await?;
    let kept = room.shell("cat /workspace/kept.txt").await?;
    check_eq(format!("the file after {trouble:?}"), kept.printed.trim(), "here")?;
    deployment.run_well(conversation, "@say well again").await?;
    check_eq("the workspace afterwards", deployment.only_room().await?.id, room.id)?;
    Ok(events)
}

async fn refusals(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let events = trouble(&deployment, &conversation, "@status 529").await?;
    let message = model_error(&events)?;
    check(message.contains("529"), format!("the status is not in: {message}"))?;
    let told = retries(&events);
    check(
        (1..=5).contains(&told.len()) && told.iter().all(|line| line.contains("529")),
        format!("retries of a 529: {told:?}"),
    )?;

    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let events = deployment.run(&other, "@status 403").await?;
    let message = model_error(&events)?;
    check(message.contains("AWS_ACCESS_KEY_ID"), format!("the settings are not in: {message}"))?;
    check(retries(&events).len() <= 1, format!("retries of a 403: {:?}", retries(&events)))
}

async fn stalled(context: &Context) -> Result<(), Failure> {
    // A run that the stall does not end is ended by its time limit, with another error.
    let launch = Launch::new().set("MODEL_IDLE_TIMEOUT", IDLE_SECONDS).set("CONTAINER_EXECUTION_TIMEOUT", 40);
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let events = trouble(&deployment, &conversation, "@stall begun").await?;
    let message = model_error(&events)?;
    check(message.contains("idle") || message.contains("stall"), format!("the stall is not in: {message}"))?;
    let text: String =
        events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check_eq("the text that was streamed", text.as_str(), "begun")
}

async fn no_answer(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    // The driver asks a few times for the rest of an answer that is cut off, and once more after a refusal.
    for (prompt, kind, reason) in [
        ("@say half of it\n@stop max_tokens\n@stop max_tokens", "answer_cut_off", "max_tokens"),
        ("@stop max_tokens", "answer_cut_off", "max_tokens"),
        ("@say I begin\n@stop refusal\n@stop refusal", "model_refused", "refusal"),
    ] {
        let events = deployment.run(&conversation, prompt).await?;
        let done = ended_badly(&events)?;
        let errors: Vec<&str> =
            events.iter().filter(|event| event.name == "error").map(|event| event.text("error_type")).collect();
        check_eq(format!("errors of {prompt:?}"), errors, vec![kind])?;
        check_eq(format!("stop_reason of {prompt:?} in {done}"), done["stop_reason"].as_str(), Some(reason))?;
        let said: String =
            events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
        let begun = prompt.strip_prefix("@say ").and_then(|rest| rest.lines().next()).unwrap_or_default();
        check(said.contains(begun), format!("what the model had said by then: {said:?}"))?;
        // The next run answers, and is not taken for that one.
        let events = deployment.run_well(&conversation, "@say well again").await?;
        let reason = events.last().map_or("", |done| done.text("stop_reason"));
        check_eq("stop_reason of an answer that is whole", reason, "end_turn")?;
    }
    // An answer that was cut off and went on is whole.
    let events = deployment.run_well(&conversation, "@say half\n@stop max_tokens\n@say and the rest").await?;
    let ended = events.last().map(|done| (done.text("result"), done.text("stop_reason")));
    check_eq("result and stop_reason of an answer that went on", ended, Some(("and the rest", "end_turn")))
}
