//! Whose egress policy holds where: from hand-over on, on connections that are open, after restarts, over servers.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{A, B, BEYOND, NEEDS, Party, World, allowed, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::asking::{Received, ask, get_at};
use crate::scenarios::common::rooms::{mark, put_mark};
use crate::scenarios::common::trail;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-001",
        "A workspace of the pool has its own tenant's egress policy from hand-over on, and no other tenant's",
        "a warm workspace gets its owner's policy at hand-over; which rule of whose policy decided is in the trail",
        body!(own_policy),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-002",
        "A change of policy holds for the next request, also on a connection that is open, and can end tunnels",
        "a change holds for the next request on every open listener, on kept-alive connections; close ends tunnels",
        body!(changed_policy),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-003",
        "Neither a tenant nor a conversation can widen what the level above it allows",
        "the operator's list is the ceiling; a document that goes beyond it is 422 with the place, nothing is stored",
        body!(no_widening),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-004",
        "Rules for methods and paths hold for every spelling of a path, and no tunnel gets past them",
        "path rules against encodings: %2e, //, ;, case, absolute and authority forms; method overrides",
        body!(spellings),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "TEN-005",
        "A workspace that a server adopts after it was killed keeps its conversation's policy",
        "after adoption the policy is that of the conversation",
        body!(adopted_policy),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
];

fn only(host: &str) -> Value {
    json!({"egress": {"allow": [{"host": host}]}})
}

/// The last entry of the audit trail about a request to this host.
fn decided(world: &World, host: &str) -> Result<Value, Failure> {
    last_entry(world, &format!("a request to {host}"), |line| line["event"] == "egress" && line["host"] == host)
}

fn last_entry(world: &World, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    let entries = trail::entries(&world.trail)?;
    entries.into_iter().rfind(fits).ok_or_else(|| Failure::assertion(format!("no entry about {what} in the trail")))
}

/// Checks that an entry of the trail is this conversation's.
fn is_of(entry: &Value, party: &Party) -> Result<(), Failure> {
    let Party { conversation, .. } = party;
    check_eq(format!("conversation in {entry}"), entry["conversation"].as_str(), Some(conversation.id.as_str()))?;
    check_eq(format!("tenant in {entry}"), entry["tenant"].as_str(), Some(conversation.tenant.as_str()))
}

/// A line of bash that asks for A on one connection of a workspace of the pool, and once more when its owner has written `mark`.
fn before_and_after(mark: &str) -> String {
    let ask = |last: &str| format!("printf 'GET http://{A}/kept HTTP/1.1\\r\\nHost: {A}\\r\\n{last}\\r\\n' >&3");
    format!(
        "exec 3<>/dev/tcp/127.0.0.1/8080; {}; head -n 1 <&3 > /tmp/before; \
         until ls /workspace/{mark}* >/dev/null 2>&1; do sleep 0.02; done; {}; cat <&3 > /tmp/after",
        ask(""),
        ask("Connection: close\\r\\n")
    )
}

/// Whose a request is, is looked up for each, also on a connection that a workspace of the pool has opened before it had an owner.
async fn whose_on_a_kept_connection(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, crate::target::launch::Launch::without_model).await?;
    let conversation = world.deployment.conversation(context).await?;
    let room = world.deployment.only_room().await?;
    let party = Party { conversation, room };
    let mark = mark(&party.conversation);
    in_background(&party, &before_and_after(&mark)).await?;
    let until = async |file: &str| {
        let line = format!("for n in $(seq 500); do [ -s /tmp/{file} ] && exit 0; sleep 0.02; done; exit 1");
        check_eq(format!("whether /tmp/{file} is there in time"), party.room.shell(&line).await?.status, 0)
    };
    until("before").await?;
    put_mark(&world.deployment, &party.conversation).await?;
    until("after").await?;
    let entries = eventually(Duration::from_secs(10), "two entries about the connection's requests", async || {
        let mut entries = trail::entries(&world.trail)?;
        entries.retain(|entry| entry["event"] == "egress" && entry["host"] == A);
        if entries.len() == 2 { Ok(entries) } else { Err(Failure::assertion(format!("{entries:?}"))) }
    })
    .await?;
    check(entries[0]["conversation"].is_null(), format!("before it had an owner: {}", entries[0]))?;
    is_of(&entries[1], &party)
}

async fn own_policy(context: &Context) -> Result<(), Failure> {
    whose_on_a_kept_connection(context).await?;
    let world = World::start(context, 2, crate::target::launch::Launch::without_model).await?;
    let (first, second) =
        (world.deployment.conversation(context).await?, world.deployment.conversation(context).await?);
    world.configure(&first.tenant, &only(A)).await?;
    world.configure(&second.tenant, &only(B)).await?;
    let parties = world.settle(vec![first, second]).await?;
    let [first, second] = &parties[..] else { return Err(Failure::harness("not two workspaces")) };
    let (to_a, to_b) = (format!("http://{A}/facts"), format!("http://{B}/facts"));
    // The control: both hosts answer.
    first.statuses("the first tenant's", &[(&to_a, 200), (&to_b, 403)]).await?;
    second.statuses("the second tenant's", &[(&to_a, 403), (&to_b, 200)]).await?;
    let explained = format!("/api/tenants/{}/egress/explain?url=http://{B}/facts", first.conversation.tenant);
    let explained = world.deployment.api.get(&explained).await?.expect(200)?.json()?;
    check_eq(format!("allowed in {explained}"), explained["allowed"].as_bool(), Some(false))?;
    check_eq(format!("layer in {explained}"), explained["layer"].as_str(), Some("tenant"))?;
    // A conversation narrows its tenant's policy for itself alone.
    let deny = json!({"egress": {"deny": [A]}});
    write(&world.deployment, &first.conversation.path(""), &deny).await?.expect(200)?;
    first.statuses("the first tenant's", &[(&to_a, 403)]).await?;
    for (query, allowed) in [(String::new(), true), (format!("&conversation_id={}", first.conversation.id), false)] {
        let path = format!("/api/tenants/{}/egress/explain?url=http://{A}/facts{query}", first.conversation.tenant);
        let explained = world.deployment.api.get(&path).await?.expect(200)?.json()?;
        check_eq(
            format!("allowed in {explained}, which {path} answers"),
            explained["allowed"].as_bool(),
            Some(allowed),
        )?;
    }
    let entry = decided(&world, A)?;
    check_eq(format!("whose rule decided, in {entry}"), entry["layer"].as_str(), Some("conversation"))?;
    let name = entry["policy"].as_str();
    check_eq(format!("name of the policy in {entry}"), name, Some(first.conversation.tenant.as_str()))?;
    // Another conversation of the tenant, and a change that concerns both.
    let model = &first.conversation.model;
    let other = world.deployment.another_conversation(context, &first.conversation.tenant, model).await?;
    let other = world.settle(vec![other]).await?.remove(0);
    let faster = json!({"egress": {"allow": [{"host": A}], "requests_per_second": 1000}});
    world.configure(&first.conversation.tenant, &faster).await?;
    first.statuses("the first conversation's", &[(&to_a, 403), (&to_b, 403)]).await?;
    other.statuses("the other conversation's", &[(&to_a, 200), (&to_b, 403)]).await?;
    // Two tenants to which the same applies, whose policies are renewed together.
    let twin = context.unique("twin");
    world.deployment.api.post("/api/tenants", &json!({"tenant_id": twin, "model_id": model})).await?.expect(201)?;
    let twin = world.deployment.another_conversation(context, &twin, model).await?;
    let twin = world.settle(vec![twin]).await?.remove(0);
    for tenant in [&first.conversation.tenant, &twin.conversation.tenant] {
        world.configure(tenant, &only(B)).await?;
    }
    let model = format!("/api/models/{model}");
    world.deployment.api.put(&model, &json!({"display_name": "Renamed"})).await?.expect(200)?;
    for party in [&other, &twin] {
        party.statuses("one of two tenants'", &[(&to_b, 200)]).await?;
        let tenant = party.conversation.tenant.as_str();
        let entry = eventually(Duration::from_secs(5), "the request in the trail", async || {
            let allowed = |line: &Value| line["host"] == B && line["decision"] == "allowed";
            last_entry(&world, "what was allowed", |line| allowed(line) && line["tenant"] == tenant)
        })
        .await?;
        check_eq(format!("name of the policy in {entry}"), entry["policy"].as_str(), Some(tenant))?;
    }
    Ok(())
}

/// Runs a line of bash in the workspace without waiting for it.
async fn in_background(party: &Party, line: &str) -> Result<(), Failure> {
    let started = party.room.exec(["bash", "-c", "bash -c \"$1\" >/dev/null 2>&1 &", "bash", line]).await?;
    check_eq("status of a program that is started", started.status, 0)
}

async fn changed_policy(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, crate::target::launch::Launch::without_model).await?;
    let parties = world.parties(context, 2).await?;
    let [party, stranger] = &parties[..] else { return Err(Failure::harness("not two parties")) };
    let tenant = &party.conversation.tenant;
    let second = world.deployment.another_conversation(context, tenant, &party.conversation.model).await?;
    let second = world.settle(vec![second]).await?.pop().ok_or_else(|| Failure::harness("no second workspace"))?;
    // The control: without a configuration, the operator's list holds, and a connection serves two requests.
    let twice = [vec![get_at(A, "/facts"), get_at(A, "/facts")]];
    let answers = ask(&party.room, 1, &twice).await?;
    check_eq(
        "statuses before the change",
        answers.iter().map(Received::status).collect::<Vec<_>>(),
        vec![Some(200); 2],
    )?;
    // One connection, on which a request is made before the change and one after it; a tunnel that is open meanwhile.
    let waiting = format!(
        "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET http://{A}/facts HTTP/1.1\\r\\nHost: {A}\\r\\n\\r\\n' >&3; head -n 1 <&3 > /workspace/before; \
         until [ -e /workspace/go ]; do sleep 0.02; done; printf 'GET http://{A}/facts HTTP/1.1\\r\\nHost: {A}\\r\\nConnection: close\\r\\n\\r\\n' >&3; \
         cat <&3 > /workspace/after; touch /workspace/done"
    );
    in_background(party, &waiting).await?;
    let tunnel = format!(
        "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'CONNECT {A}:443 HTTP/1.1\\r\\nHost: {A}\\r\\n\\r\\n' >&3; \
         head -n 1 <&3 > /workspace/tunnel; cat <&3 >/dev/null; touch /workspace/closed"
    );
    // The tenant's other workspace has one, too, and so has another tenant's.
    for of in [party, &second, stranger] {
        in_background(of, &tunnel).await?;
    }
    let there = async |of: &Party, file: &str| {
        let line = format!("for n in $(seq 500); do [ -s /workspace/{file} ] && exit 0; sleep 0.02; done; exit 1");
        let done = of.room.shell(&line).await?;
        check_eq(format!("whether /workspace/{file} is there in time"), done.status, 0)
    };
    let until = async |file: &str| there(party, file).await;
    until("before").await?;
    for of in [party, &second, stranger] {
        there(of, "tunnel").await?;
    }
    world.configure(tenant, &only(B)).await?;
    party.room.shell("echo now > /workspace/go").await?;
    until("after").await?;
    let after = party.room.shell("cat /workspace/after").await?.printed;
    check(after.contains("HTTP/1.1 403"), format!("on the open connection, after the change: {after:?}"))?;
    party.statuses("the", &[(&format!("http://{A}/facts"), 403), (&format!("http://{B}/facts"), 200)]).await?;
    second.statuses("the other", &[(&format!("http://{A}/facts"), 403), (&format!("http://{B}/facts"), 200)]).await?;
    stranger.statuses("the stranger's", &[(&format!("http://{A}/facts"), 200)]).await?;
    // A tunnel goes on until it is asked to end.
    let goes_on = async |of: &Party| {
        let closed = of.room.shell("[ -e /workspace/closed ]").await?;
        check(closed.status != 0, "the tunnel ended although nobody asked for that")
    };
    goes_on(party).await?;
    goes_on(&second).await?;
    // Nor does another model end it.
    let other = json!({"model_id": stranger.conversation.model});
    world.deployment.api.put(&party.conversation.path(""), &other).await?.expect(200)?;
    goes_on(party).await?;
    let path = format!("/api/tenants/{tenant}/configuration");
    let version = world.deployment.api.get(&path).await?.json()?["version"].clone();
    let close = json!({"version": version, "configuration": only(B)});
    world.deployment.api.put(&format!("{path}?close=true"), &close).await?.expect(200)?;
    let line = "for n in $(seq 500); do [ -e /workspace/closed ] && exit 0; sleep 0.02; done; exit 1";
    for of in [party, &second] {
        check_eq("whether the tunnel has ended", of.room.shell(line).await?.status, 0)?;
    }
    goes_on(stranger).await
}

async fn no_widening(context: &Context) -> Result<(), Failure> {
    let mut world = World::start(context, 1, crate::target::launch::Launch::without_model).await?;
    let parties = world.parties(context, 1).await?;
    let party = &parties[0];
    let tenant = format!("/api/tenants/{}", party.conversation.tenant);
    let conversation = party.conversation.path("");
    world.configure(&party.conversation.tenant, &only(A)).await?;
    for (of, host) in [(&tenant, BEYOND), (&conversation, B), (&conversation, BEYOND), (&tenant, "*.example.com")] {
        let before = world.deployment.api.get(&format!("{of}/configuration")).await?.json()?;
        let wider = json!({"egress": {"allow": [{"host": A}, {"host": host}]}});
        let reply = write(&world.deployment, of, &wider).await?.expect(422)?.json()?;
        let place = reply["error"]["details"][0]["field"].as_str();
        check_eq(format!("place in {reply}"), place, Some("egress.allow[1].host"))?;
        let after = world.deployment.api.get(&format!("{of}/configuration")).await?.json()?;
        check_eq("the configuration after a refused change", after, before)?;
    }
    let expected = [
        (format!("http://{A}/facts"), 200),
        (format!("http://{B}/facts"), 403),
        (format!("http://{BEYOND}/facts"), 403),
    ];
    let expected: Vec<(&str, u16)> = expected.iter().map(|(url, status)| (url.as_str(), *status)).collect();
    party.statuses("the", &expected).await?;
    // What was within the tenant's configuration when it was written has no effect once the tenant's no longer has it.
    write(&world.deployment, &conversation, &only(A)).await?.expect(200)?;
    world.configure(&party.conversation.tenant, &only(B)).await?;
    let (to_a, to_b) = (format!("http://{A}/facts"), format!("http://{B}/facts"));
    party.statuses("the", &[(&to_a, 403), (&to_b, 403)]).await?;
    // Nor has what the operator takes back, though tenant and conversation still list it.
    let (of, tenant) = (conversation, party.conversation.tenant.clone());
    world.configure(&tenant, &json!({"egress": {"allow": [{"host": A}, {"host": B}]}})).await?;
    write(&world.deployment, &of, &json!({"egress": {"allow": [{"host": A}, {"host": B}]}})).await?.expect(200)?;
    party.statuses("the", &[(&to_a, 200), (&to_b, 200)]).await?;
    let narrower = allowed().replace(&format!(",{A}"), "");
    let server = world.deployment.server.as_mut();
    server.map(|server| server.program.env.insert("PROXY_ALLOWED_DOMAINS".into(), narrower));
    world.deployment.kill().await?;
    world.deployment.restart(context).await?;
    party.adopted(B).await?;
    party.statuses("the adopted", &[(&to_a, 403)]).await
}

async fn spellings(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, crate::target::launch::Launch::without_model).await?;
    let parties = world.parties(context, 1).await?;
    let party = &parties[0];
    let rule = json!({"egress": {"allow": [{"host": A, "methods": ["GET"], "paths": ["/facts", "/open"]}]}});
    world.configure(&party.conversation.tenant, &rule).await?;
    // The control.
    party.statuses("the", &[(&format!("http://{A}/facts"), 200), (&format!("'http://{A}/facts?x=1'"), 200)]).await?;
    let spelled = [
        "/open/../secret",
        "/open/%2e%2e/secret",
        "/open/%2E%2E/secret",
        "/open/.%2e/secret",
        "/open/..%2fsecret",
        "/open/..%5csecret",
        "/open/..\\\\secret",
        "/open/%252e%252e/secret",
        "//secret",
        "/open//../secret",
        "/open;/../secret",
        "/open/..;/secret",
        "/OPEN/../secret",
        "/Open",
        "/opening",
        "/secret",
        "/%6fpen/../secret",
        "/./secret",
        "/open/%00/secret",
    ];
    for path in spelled {
        let status = party.status(&format!("'http://{A}{path}'")).await?;
        check(matches!(status, 400 | 403), format!("{path} was answered with {status}"))?;
    }
    let secrets = world.services.requests().await?;
    let reached = secrets.iter().find(|seen| seen.path.contains("secret") || seen.path.contains("pening"));
    check(reached.is_none(), format!("a request that had to be refused reached its target: {reached:?}"))?;
    let facts = format!("http://{A}/facts");
    let methods = [
        (format!("-X POST {facts}"), 403),
        (format!("-X DELETE {facts}"), 403),
        (format!("-X get {facts}"), 403),
        (format!("-H 'X-HTTP-Method-Override: DELETE' {facts}"), 403),
        (format!("-H 'X-Method-Override: PUT' {facts}"), 403),
        (format!("-H 'X-HTTP-Method: PUT' {facts}"), 403),
        (format!("http://{A}:8080/facts"), 403),
    ];
    let methods: Vec<(&str, u16)> = methods.iter().map(|(args, status)| (args.as_str(), *status)).collect();
    party.statuses("the", &methods).await?;
    // The proxy cannot see into a tunnel.
    let tunnel = party.answer(&format!("-k -o /dev/null -w '%{{http_connect}}' https://{A}/facts")).await?;
    check_eq("status of a tunnel to a host with rules for paths", tunnel.trim(), "403")
}

async fn adopted_policy(context: &Context) -> Result<(), Failure> {
    let mut world = World::start(context, 1, crate::target::launch::Launch::without_model).await?;
    let mut parties = world.parties(context, 1).await?;
    let party = &mut parties[0];
    world.configure(&party.conversation.tenant, &only(A)).await?;
    let (to_a, to_b) = (format!("http://{A}/facts"), format!("http://{B}/facts"));
    party.statuses("the", &[(&to_a, 200), (&to_b, 403)]).await?;
    world.deployment.kill().await?;
    world.deployment.restart(context).await?;
    world.deployment.ready(crate::target::deployment::READY_LIMIT).await?;
    party.adopted(A).await?;
    party.statuses("the adopted", &[(&to_a, 200), (&to_b, 403)]).await?;
    party.moved(&world.deployment).await?;
    party.statuses("the adopted", &[(&to_a, 200), (&to_b, 403)]).await?;
    // Workspaces of the pool are adopted as well, in any order.
    let own = |line: &Value| line["conversation"] == *party.conversation.id;
    let adopted = last_entry(&world, "the adoption", |line| line["event"] == "room_adopted" && own(line))?;
    is_of(&adopted, party)?;
    for host in [A, B] {
        is_of(&decided(&world, host)?, party)?;
    }
    Ok(())
}
