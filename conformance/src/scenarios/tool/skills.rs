//! Skills of a tenant.

use serde_json::{Value, json};

use super::archive::{Archive, LINK};
use crate::client::form::{Form, content_type};
use crate::client::http::Reply;
use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TOOL-060",
        "A skill that is chosen reaches the model, in the version that is chosen, and no workspace changes it",
        "skills uploaded per tenant, versioned, chosen per conversation; only the stored copy is trusted",
        body!(used),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "TOOL-061",
        "Hostile archives are refused with the reason: paths that lead out, links, many files, bombs, colliding names",
        "zip or multipart, size- and path-checked: hostile zips (`..`, links, 10,000 files, bombs) 422 with reason",
        body!(hostile),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .limit(60),
    Scenario::new(
        "TOOL-062",
        "Only a tenant's own skills can be chosen, within its list; a skill that was deleted ends no run silently",
        "skills belong to a tenant; chosen per conversation in the configuration document",
        body!(bounded),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .limit(60),
];

const ZIP: &str = "application/zip";

fn manifest(word: &str) -> Vec<u8> {
    format!("---\nname: pricing\ndescription: How to price {word}\n---\nSay {word}-instructions.\n").into_bytes()
}

async fn upload(deployment: &Deployment, tenant: &str, kind: &str, body: Vec<u8>) -> Result<Reply, Failure> {
    deployment.api.upload_as(&format!("/api/tenants/{tenant}/skills/pricing"), kind, body.into()).await
}

async fn run(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
    skills: &Value,
) -> Result<Vec<RunEvent>, Failure> {
    let body = json!({"user_input": prompt, "configuration": {"skills": skills}});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await
}

fn results(events: &[RunEvent]) -> String {
    events.iter().filter(|event| event.name == "tool_result").map(|event| event.text("content")).collect()
}

fn done(events: &[RunEvent]) -> (String, String) {
    let of = |field: &str| events.last().map_or_else(String::new, |done| done.text(field).to_owned());
    (of("status"), of("result"))
}

async fn used(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let (one, two) = (context.unique("one"), context.unique("two"));
    let zip =
        Archive::default().file("pricing/SKILL.md", &manifest(&one)).file("pricing/data/list.txt", one.as_bytes());
    let first = upload(&deployment, &conversation.tenant, ZIP, zip.whole()).await?.expect(201)?.json()?;
    check_eq("version and files", (&first["version"], &first["files"]), (&json!(1), &json!(2)))?;
    let form = || Form::default().file("SKILL.md", &manifest(&two)).whole().to_vec();
    let second = upload(&deployment, &conversation.tenant, &content_type(), form()).await?.expect(201)?.json()?;
    check_eq("version of the second upload", &second["version"], &json!(2))?;
    let again = upload(&deployment, &conversation.tenant, &content_type(), form()).await?.expect(200)?.json()?;
    check_eq("version of the same upload again", &again["version"], &json!(2))?;
    let list =
        deployment.api.get(&format!("/api/tenants/{}/skills", conversation.tenant)).await?.expect(200)?.json()?;
    let versions: Vec<i64> =
        list["skills"].as_array().into_iter().flatten().filter_map(|skill| skill["version"].as_i64()).collect();
    check_eq("versions in the list", versions, vec![2, 1])?;

    let use_it = |word: &str| format!("@tool Skill {{\"skill\": \"skills:pricing\"}}\n@recall {word}-instructions");
    for (entry, word) in [("pricing@1", &one), ("pricing", &two)] {
        let events = run(&deployment, &conversation, &use_it(word), &json!([entry])).await?;
        let expected = ("success".to_owned(), format!("{word}-instructions: remembered"));
        check_eq(format!("end of a run with the skill {entry}"), done(&events), expected)?;
    }
    // A list of tools takes none of the skills that are chosen.
    let listed =
        json!({"user_input": use_it(&two), "configuration": {"skills": ["pricing"], "tools": {"allowed": ["Read"]}}});
    let events = deployment.api.open_stream(&conversation.path("/stream"), &listed).await?.finish().await?;
    let failed = events.iter().any(|event| event.name == "tool_result" && event.data["is_error"] == true);
    check(
        !failed && done(&events).0 == "success",
        format!("a run with a list of tools cannot use its skill: {}", results(&events)),
    )?;
    // What the agent has on its disk is not what counts.
    let sockets = deployment.only_room().await?.sockets().to_owned();
    let look = format!(
        "cd {sockets}/skills-*/skills/pricing && cat data/list.txt; echo; for f in SKILL.md data/new ../more; do echo x > $f; done; rm -f SKILL.md; ls"
    );
    let look = json!({"command": look, "description": "Look"});
    let events =
        run(&deployment, &conversation, &format!("@tool Bash {look}\n@say done"), &json!(["pricing@1"])).await?;
    let seen = results(&events);
    check(seen.contains(&one) && seen.contains("Read-only file system"), format!("what a tool sees: {seen}"))?;
    let events = run(&deployment, &conversation, &use_it(&one), &json!(["pricing@1"])).await?;
    check_eq("end of a run after an attack", done(&events).0.as_str(), "success")?;
    let init = events.iter().find(|event| event.name == "init").map(|init| init.data["commands"].to_string());
    check(
        init.as_ref().is_some_and(|list| list.contains("\"/skills:pricing\"")),
        format!("commands in init: {init:?}"),
    )?;
    // It can be asked for as a command, too.
    let body = json!({"command": "/skills:pricing", "configuration": {"skills": ["pricing@1"]}});
    let events = deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await?;
    check_eq("status of the command", done(&events).0.as_str(), "success")?;
    // Another one than was chosen is none of the run's, also if the run has some.
    let other = json!({"command": "/skills:other", "configuration": {"skills": ["pricing@1"]}});
    let refused = deployment.api.post(&conversation.path("/stream"), &other).await?;
    refused.expect_error(422, "VALIDATION_ERROR")?;
    // Without one, there is none.
    let events = deployment.run_well(&conversation, &use_it(&one)).await?;
    let failed = events.iter().any(|event| event.name == "tool_result" && event.data["is_error"] == true);
    check(failed, "a run without the skill can use it")
}

async fn hostile(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation_without_model(context).await?;
    let tenant = &conversation.tenant;
    let good = || Archive::default().file("SKILL.md", &manifest("melons"));
    let many = (0..10_000).fold(good(), |archive, number| archive.file(&format!("{number}.txt"), b""));
    let deep = "a/".repeat(20) + "b";
    let other = Archive::default().file("SKILL.md", b"---\nname: other\ndescription: d\n---\n");
    for (what, archive, reason) in [
        ("..", good().file("../evil", b"x"), "leads out"),
        (".. inside", good().file("a/../../evil", b"x"), "leads out"),
        ("an absolute path", good().file("/etc/evil", b"x"), "leads out"),
        ("a backslash", good().file("..\\evil", b"x"), "leads out"),
        ("a link", good().entry("link", LINK, b"/etc/passwd"), "link"),
        ("a device", good().entry("device", 0o020_666, b""), "special file"),
        ("10,000 files", many, "entries"),
        ("a bomb", good().bomb("bomb", 16 << 20), "unpacked"),
        ("names that differ in case", good().file("Data.txt", b"x").file("data.txt", b"y"), "case"),
        ("a file that is a folder", good().file("data", b"x").file("data/list", b"y"), "folder"),
        ("deep folders", good().file(&deep, b"x"), "deeper"),
        ("no manifest", Archive::default().file("README.md", b"x"), "SKILL.md"),
        ("another name", other, "other"),
        ("no description", Archive::default().file("SKILL.md", b"---\nname: pricing\n---\n"), "description"),
    ] {
        let reply = upload(&deployment, tenant, ZIP, archive.whole()).await?;
        check_eq(format!("status of an archive with {what}: {}", reply.text()), reply.status.as_u16(), 422)?;
        check(
            reply.text().contains(reason),
            format!("the refusal of {what} does not say {reason:?}: {}", reply.text()),
        )?;
    }
    upload(&deployment, tenant, ZIP, b"no archive".to_vec()).await?.expect(422)?;
    upload(&deployment, tenant, ZIP, vec![0; 4 << 20]).await?.expect(413)?;
    upload(&deployment, tenant, "text/plain", good().whole()).await?.expect(422)?;
    let form = Form::default().file("../SKILL.md", &manifest("melons")).whole().to_vec();
    upload(&deployment, tenant, &content_type(), form).await?.expect(422)?;
    let elsewhere = format!("/api/tenants/{tenant}/skills/Pricing");
    deployment.api.upload_as(&elsewhere, ZIP, good().whole().into()).await?.expect(422)?;
    let list = deployment.api.get(&format!("/api/tenants/{tenant}/skills")).await?.expect(200)?.json()?;
    check_eq("skills after the refusals", &list["skills"], &json!([]))?;
    upload(&deployment, tenant, ZIP, good().whole()).await?.expect(201).map(drop)
}

async fn bounded(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation_without_model(context).await?;
    let stranger = deployment.conversation_without_model(context).await?;
    let zip = || Archive::default().file("SKILL.md", &manifest("melons")).whole();
    upload(&deployment, &conversation.tenant, ZIP, zip()).await?.expect(201)?;
    let send = async |conversation: &Conversation, skills: Value| {
        let body = json!({"user_input": "@say no", "configuration": {"skills": skills}});
        deployment.api.post(&conversation.path("/messages"), &body).await
    };
    for (who, skills) in [
        (&stranger, json!(["pricing"])),
        (&conversation, json!(["pricing@2"])),
        (&conversation, json!(["other"])),
        (&conversation, json!(["../pricing"])),
        (&conversation, json!(["pricing", "pricing@1"])),
    ] {
        let reply = send(who, skills.clone()).await?;
        check_eq(format!("status with {skills}: {}", reply.text()), reply.status.as_u16(), 422)?;
        check(reply.text().contains("skills["), format!("the answer does not name the place: {}", reply.text()))?;
    }
    let theirs = format!("/api/tenants/{}/skills/pricing", stranger.tenant);
    deployment.api.delete(&theirs).await?.expect(404)?;
    // The tenant's list bounds its conversations.
    let configuration = format!("/api/tenants/{}/configuration", conversation.tenant);
    let bounds = json!({"version": 0, "configuration": {"skills": ["pricing@1"]}});
    deployment.api.put(&configuration, &bounds).await?.expect(200)?;
    send(&conversation, json!(["pricing"])).await?.expect(422)?;
    send(&conversation, json!(["pricing@1"])).await?.expect(202)?;
    // What was deleted is missed.
    let own = format!("/api/tenants/{}/skills/pricing", conversation.tenant);
    deployment.api.delete(&format!("{own}?version=2")).await?.expect(404)?;
    for none in ["0", "-1", "latest"] {
        deployment.api.delete(&format!("{own}?version={none}")).await?.expect(422)?;
    }
    deployment.api.delete(&own).await?.expect(204)?;
    let reply = deployment.api.post(&conversation.path("/messages"), &json!({"user_input": "@say no"})).await?;
    check_eq(format!("status of a run whose skill was deleted: {}", reply.text()), reply.status.as_u16(), 422)?;
    // What is listed is the first version, not whatever is uploaded after its deletion.
    let other = Archive::default().file("SKILL.md", &manifest("pears")).whole();
    let again = upload(&deployment, &conversation.tenant, ZIP, other).await?.expect(201)?.json()?;
    check_eq("version that is uploaded after the deletion", &again["version"], &json!(2))?;
    let reply = send(&conversation, json!(["pricing@1"])).await?;
    check_eq("status of a run with the version that was deleted", reply.status.as_u16(), 422)
}
