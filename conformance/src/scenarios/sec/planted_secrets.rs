//! Secrets planted in every setting, searched for in every output.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::lockdown::places_of;
use crate::target::launch::Launch;

/// Unique texts, a different one for each setting, so that a finding identifies its source.
const OPERATOR: &str = "canary-operator-7d1f2a90c3";
const TENANT: &str = "canary-tenant-5be0913fa4";
const ANTHROPIC: &str = "canary-anthropic-84c2d7e61b";
const HEADER: &str = "canary-header-e29a07c5f8";
const FILE: &str = "canary-file-03b6f1d94e";
const REDIS: &str = "canary-redis-c8470fe2a1";
const DATABASE: &str = "canary-database-61d9be3507";
const ALL: [(&str, &str); 7] = [
    (OPERATOR, "an operator's key"),
    (TENANT, "a tenant's key"),
    (ANTHROPIC, "ANTHROPIC_API_KEY"),
    (HEADER, "a header's credential from a variable"),
    (FILE, "a header's credential from a file"),
    (REDIS, "the password in REDIS_URL"),
    (DATABASE, "the password in DATABASE_URL"),
];
const END_LIMIT: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SEC-012",
    "Secrets planted in every setting appear in no log, metric, response, audit trail, state or workspace",
    "canary secrets planted in every setting are found in no output of any kind",
    body!(planted),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Redis,
    Capability::Admin,
])
.limit(120)];

/// The outputs searched, and the secrets found in them.
struct Search {
    secrets: Vec<(String, &'static str)>,
    found: Vec<String>,
    looked_at: usize,
}

impl Search {
    fn new(aws_secret: &str) -> Self {
        let mut secrets: Vec<_> = ALL.iter().map(|(secret, name)| ((*secret).to_owned(), *name)).collect();
        secrets.push((aws_secret.to_owned(), "AWS_SECRET_ACCESS_KEY"));
        Self { secrets, found: Vec::new(), looked_at: 0 }
    }

    fn look(&mut self, place: &str, output: &str) {
        self.looked_at += 1;
        let found = self.secrets.iter().filter(|(secret, _)| output.contains(secret));
        self.found.extend(found.map(|(_, name)| format!("{name} in {place}")));
    }

    fn look_below(&mut self, dir: &Path) -> Result<(), Failure> {
        for entry in std::fs::read_dir(dir)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() {
                self.look_below(&path)?;
            } else if kind.is_file() {
                let bytes = std::fs::read(&path)?;
                self.look(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
            }
        }
        Ok(())
    }
}

async fn planted(context: &Context) -> Result<(), Failure> {
    ALL.iter().for_each(|(secret, _)| context.secrets().add(secret));
    let redis = context.redis().await?;
    redis.command(["CONFIG", "SET", "requirepass", REDIS]).await?;
    let file = context.dir().join("header-credential");
    std::fs::write(&file, FILE)?;
    let tenant = context.unique("ours");
    let rules = format!(
        "variable.example=header:X-Key:env:PLANTED_HEADER,file.example=header:X-Key:file:{},\
         bedrock-runtime.us-east-1.amazonaws.com=sigv4:bedrock:us-east-1",
        file.display()
    );
    let launch = Launch::new()
        .set("LOG_LEVEL", "trace")
        .set("API_KEYS", format!("{OPERATOR},{tenant}:{TENANT}"))
        .set("ANTHROPIC_API_KEY", ANTHROPIC)
        .set("PLANTED_HEADER", HEADER)
        .set("PROXY_CREDENTIALS", rules)
        .set("PROXY_ALLOWED_DOMAINS", "bedrock-runtime.us-east-1.amazonaws.com,variable.example,file.example")
        .set("REDIS_URL", redis.url().replace("redis://", &format!("redis://:{REDIS}@")))
        // Nothing listens there, so its use fails and is reported.
        .pin_address("variable.example", 443, "127.0.0.1:1")
        .pin_address("file.example", 443, "127.0.0.1:1");
    let mut deployment = context.launch(launch).await?;
    deployment.api = deployment.api.with_key(Some(OPERATOR));
    let server = deployment.server()?;
    let mut search = Search::new(&server.credentials.secret);
    let conversation = deployment.conversation(context).await?;

    // All of them are used: API keys by requests, AWS credentials by model calls, header credentials by a workspace's requests.
    let command = "for host in variable file; do curl -s -m 10 http://$host.example/; curl -s -m 10 https://$host.example/; done; env; echo over";
    let tool = json!({"command": command, "description": "Use every credential"});
    let events = deployment.run_well(&conversation, &format!("@tool Bash {tool}\n@say done")).await?;
    let events = events.iter().map(|event| event.data.to_string()).collect::<String>();
    check(events.contains("over"), format!("the workspace did not run the commands: {events}"))?;
    search.look("the run's events", &events);

    let wrong = deployment.api.with_key(Some("wrong-key-0123456789"));
    let ours = deployment.api.with_key(Some(TENANT));
    for (api, path) in [
        (&deployment.api, "/health"),
        (&deployment.api, "/health/ready"),
        (&deployment.api, "/metrics"),
        (&deployment.api, "/api/admin/workspaces"),
        (&deployment.api, "/api/tenants"),
        (&deployment.api, "/api/models?limit=nonsense"),
        (&deployment.api, "/no/such/route"),
        (&wrong, "/api/tenants"),
        (&ours, "/api/tenants"),
        (&ours, "/api/admin/pool"),
    ] {
        let reply = api.get(path).await?;
        let headers = format!("{:?}", reply.headers);
        search.look(path, &format!("{headers}{}", reply.text()));
    }
    let room = deployment.only_room().await?;
    search.look("docker inspect", &room.inspect_json().await?.to_string());
    search.look("the container's log", &room.logs().await?);
    let secrets: Vec<&str> = search.secrets.iter().map(|(secret, _)| secret.as_str()).collect();
    let places = places_of(&room, &secrets).await?;
    check(places.is_empty(), format!("in the workspace: {places:?}"))?;

    for (act, more) in [
        (Act::Config, &[][..]),
        (Act::ConfigJson, &[]),
        (Act::Doctor, &[]),
        (Act::Config, &["--config", "/no/such/file"]),
    ] {
        let mut program = server.command(act)?;
        program.args.extend(more.iter().map(Into::into));
        program.env.insert("DATABASE_URL".to_owned(), format!("postgres://user:{DATABASE}@127.0.0.1:1/none"));
        let output = program.output(&context.run.id, END_LIMIT).await?;
        let output_text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        check(!output_text.trim().is_empty(), format!("{act:?} {more:?} printed nothing"))?;
        search.look(&format!("{act:?} {more:?}"), &output_text);
    }
    refused_starts(context, server.command(Act::Serve)?, &mut search).await?;
    deployment.stop().await?;
    let log = deployment.server()?.log();
    check(
        log.contains("\"TRACE\"") && log.contains(&conversation.id),
        "the log is not at trace level, or not of this run",
    )?;
    search.look("the log", &log);
    search.look_below(&context.dir().join(format!("{}-state", deployment.id.as_deref().unwrap_or_default())))?;

    for host in ["variable.example", "file.example"] {
        let asked =
            |line: &&str| line.contains("\"egress\"") && line.contains(host) && line.contains("\"reason\":\"refused\"");
        check(log.lines().any(|line| asked(&line)), format!("{host} was not asked, so its credential was not used"))?;
    }
    search.look("this very search", OPERATOR);
    check_eq(
        "what the search finds where something is",
        search.found.pop().as_deref(),
        Some("an operator's key in this very search"),
    )?;
    context.note(format!("{} outputs looked at", search.looked_at));
    check(search.found.is_empty(), format!("{:?}", search.found))
}

/// Starts that fail because of an invalid setting that contains a secret.
async fn refused_starts(
    context: &Context,
    program: crate::target::process::Program,
    search: &mut Search,
) -> Result<(), Failure> {
    for (variable, value, status) in [
        ("DATABASE_URL", format!("mysql://user:{DATABASE}@127.0.0.1:1/none"), 64),
        ("REDIS_URL", format!("http://:{REDIS}@127.0.0.1:1"), 64),
        ("API_KEYS", format!("{OPERATOR},not a tenant:{TENANT}"), 64),
        ("PROXY_CREDENTIALS", format!("variable.example=nonsense:{HEADER}"), 64),
    ] {
        let mut program = program.clone();
        program.env.insert(variable.to_owned(), value);
        program.env.insert("STATE_DIR".to_owned(), context.dir().join("refused-state").display().to_string());
        let output = program.output(&context.run.id, END_LIMIT).await?;
        let output_text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        check_eq(
            format!("status of a start with a bad {variable}: {output_text}"),
            output.status.code(),
            Some(status),
        )?;
        search.look(&format!("a start with a bad {variable}"), &output_text);
    }
    Ok(())
}
