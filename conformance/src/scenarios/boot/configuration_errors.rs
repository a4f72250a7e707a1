//! Configurations with errors: what `serve` and `doctor` report.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile};
use crate::target::contained::on_path;
use crate::target::image;
use crate::target::launch::Launch;
use crate::target::process::Program;
use crate::target::small_disk::with_state_of;

/// How long a command other than `serve` may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Exit status for an invalid configuration, and for a missing dependency (sysexits.h).
const EX_USAGE: i32 = 64;
const EX_UNAVAILABLE: i32 = 69;
/// An unprivileged user.
const NOBODY: &str = "65534";
/// A password that must not be printed.
const SECRET: &str = "wrong-hunter2";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BOOT-010",
        "A server that cannot start reports which setting is wrong and what to do, and leaves nothing behind",
        "cause and cure in one or two lines each; nothing half-started stays",
        body!(failed_start),
    )
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Postgres])
    .limit(120),
    Scenario::new(
        "BOOT-011",
        "`doctor` finds what would prevent a start, says what to do, and changes nothing",
        "cause and cure in one or two lines each; nothing half-started stays",
        body!(doctor),
    )
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Postgres,
        Capability::Redis,
        Capability::Mount,
    ])
    .limit(120),
    Scenario::new(
        "BOOT-012",
        "All errors of a configuration are reported at once, each with its setting, its value and what is accepted",
        "a bad value: exit 64, one line per fault with the variable, the value (never a secret's) and what is accepted",
        body!(all_errors_at_once),
    )
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker])
    .limit(120),
];

/// How many commands run at the same time.
const AT_ONCE: usize = 4;

/// The command with valid settings, overridden by these.
fn command(context: &Context, what: Act, sockets: &Path, settings: &[(&str, String)]) -> Result<Program, Failure> {
    let mut program = context.program(what)?;
    let own = |name: &str, value: String| (name.to_owned(), value);
    program.env.extend(BTreeMap::from([
        own("BIND_ADDR", "127.0.0.1:0".to_owned()),
        own("STATE_DIR", context.dir().join(context.unique("state")).display().to_string()),
        own("WORKSPACE_SOCKET_BASE_PATH", sockets.display().to_string()),
        own("DOCKER_SOCKET_PATH", context.engine()?.socket().display().to_string()),
        own("CONTAINER_IMAGE", context.run.capabilities.image.clone()),
        own("WARM_POOL_MIN_SIZE", "0".to_owned()),
        own("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        own("AWS_SECRET_ACCESS_KEY", "not-a-real-one".to_owned()),
    ]));
    program.env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Ok(program)
}

/// Runs it to its end, checks its status and that it prints no secret, and returns its output.
async fn ended(context: &Context, program: &Program, status: i32, what: &str) -> Result<String, Failure> {
    let output = program.output(&context.run.id, LIMIT).await.map_err(|failure| failure.during(what))?;
    let report = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = context.description().settings.in_contract_words(&report);
    check_eq(format!("status with {what} ({report})"), output.status.code(), Some(status))?;
    check(!report.contains(SECRET), format!("with {what} a password is printed: {report}"))?;
    Ok(report)
}

/// Checks that one line, or two adjacent lines, contain all of these words.
fn says(report: &str, words: &[&str], what: &str) -> Result<(), Failure> {
    let lines: Vec<&str> = report.lines().collect();
    let found = (0..lines.len()).any(|at| {
        let two = lines[at..lines.len().min(at + 2)].join(" ");
        words.iter().all(|word| two.contains(word))
    });
    check(found, format!("with {what} no two adjacent lines contain {words:?}: {report}"))
}

fn wrong_password(url: &str) -> Result<String, Failure> {
    let (user, rest) = url.split_once("://").and_then(|(_, rest)| rest.split_once(':')).unwrap_or_default();
    let place = rest.split_once('@').map(|(_, place)| place);
    place
        .map(|place| format!("postgres://{user}:{SECRET}@{place}"))
        .ok_or_else(|| Failure::harness(format!("no password in {url}")))
}

async fn all_errors_at_once(context: &Context) -> Result<(), Failure> {
    let sockets = context.socket_dir()?;
    let secret = format!("mysql://user:{SECRET}@127.0.0.1/none");
    let faults = [
        ("APP_ENV", "staging"),
        ("BIND_ADDR", "nowhere"),
        ("API_KEYS", "short"),
        ("DATABASE_URL", secret.as_str()),
        ("DOCKER_SOCKET_PATH", "ftp://somewhere"),
        ("CONTAINER_TTL", "-5"),
        ("CONTAINER_MEMORY", "plenty"),
        ("WARM_POOL_MIN_SIZE", "lots"),
        ("SHUTDOWN_WORKSPACES", "burn"),
        ("LOG_FORMAT", "xml"),
    ];
    let settings: Vec<(&str, String)> = faults.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    for what in [Act::Serve, Act::Config, Act::Doctor] {
        let program = command(context, what, &sockets, &settings)?;
        let report = ended(context, &program, EX_USAGE, &format!("ten faults for {what:?}")).await?;
        for (name, value) in faults {
            let secret = ["API_KEYS", "DATABASE_URL"].contains(&name);
            let fits = |line: &&str| line.contains(name) && (secret || line.contains(value));
            check_eq(
                format!("lines about {name}={value} that {what:?} printed ({report})"),
                report.lines().filter(fits).count(),
                1,
            )?;
        }
    }
    Ok(())
}

async fn failed_start(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let other = context.launch(Launch::new().without_model()).await?;
    let theirs = other.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let long = format!("/tmp/{}", "x".repeat(100));
    let rows: [(&str, &str, String, i32, &[&str]); 7] = [
        ("production without keys", "APP_ENV", "production".into(), EX_USAGE, &["API_KEYS"]),
        (
            "a socket path that is too long",
            "WORKSPACE_SOCKET_BASE_PATH",
            long,
            EX_USAGE,
            &["WORKSPACE_SOCKET_BASE_PATH", "107"],
        ),
        (
            "a wrong password",
            "DATABASE_URL",
            wrong_password(&postgres.url().await?)?,
            EX_UNAVAILABLE,
            &["password", "DATABASE_URL"],
        ),
        (
            "a port that is taken",
            "BIND_ADDR",
            taken.local_addr()?.to_string(),
            EX_UNAVAILABLE,
            &["BIND_ADDR", "in use", "another"],
        ),
        (
            "a state directory that cannot be made",
            "STATE_DIR",
            "/proc/nowhere".into(),
            EX_UNAVAILABLE,
            &["STATE_DIR", "may write"],
        ),
        ("another server's state directory", "STATE_DIR", theirs, EX_UNAVAILABLE, &["STATE_DIR", "another server"]),
        ("an audit trail that cannot be written", "AUDIT_LOG", "/proc/nowhere".into(), EX_UNAVAILABLE, &["AUDIT_LOG"]),
    ];
    let sockets = context.socket_dir()?;
    for (what, name, value, status, words) in rows {
        let deployment = context.unique("d");
        context.register_rooms(&deployment, Some(context.engine()?))?;
        let settings = [("DEPLOYMENT_ID", deployment), (name, value)];
        let program = command(context, Act::Serve, &sockets, &settings)?;
        says(&ended(context, &program, status, what).await?, words, what)?;
        check_eq(format!("entries of the socket directory after {what}"), std::fs::read_dir(&sockets)?.count(), 0)?;
    }
    // The other server was not disturbed.
    other.api.get("/health/ready").await?.expect(200).map(drop)
}

async fn doctor(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let url = postgres.url().await?;
    let redis = context.redis().await?;
    let sockets = context.socket_dir()?;
    // The control: with a valid configuration nothing is reported and nothing is created.
    let well = [("DATABASE_URL", url.clone()), ("REDIS_URL", redis.url())];
    let program = command(context, Act::Doctor, &sockets, &well)?;
    let report = ended(context, &program, 0, "all well").await?;
    check(!report.contains("BAD"), format!("nothing is wrong, and `doctor` prints: {report}"))?;
    check(
        report.contains("PostgreSQL") || report.contains("postgres"),
        format!("`doctor` did not check the database: {report}"),
    )?;
    let state = program.env.get("STATE_DIR").cloned().unwrap_or_default();
    check(!Path::new(&state).exists(), "`doctor` created the state directory")?;

    let exits = image_that_exits(context).await?;
    let rows: [Finding<'_>; 11] = [
        ("an image that exits at once", "CONTAINER_IMAGE", exits.clone(), &["BAD", &exits, "code 7", "no agent here"]),
        (
            "a variable that is not set",
            "PROXY_CREDENTIALS",
            "a.example=header:X-Key:env:NOT_SET_ANYWHERE".into(),
            &["BAD", "PROXY_CREDENTIALS", "NOT_SET_ANYWHERE"],
        ),
        (
            "a file without certificates",
            "PROXY_EXTRA_CA_FILE",
            "/etc/hostname".into(),
            &["BAD", "PROXY_EXTRA_CA_FILE", "no certificate"],
        ),
        ("no engine", "DOCKER_SOCKET_PATH", "/nowhere.sock".into(), &["BAD", "Start Docker"]),
        ("no image", "CONTAINER_IMAGE", "no-such-image:nowhere".into(), &["BAD", "make image"]),
        (
            "a further image that is missing",
            "CONTAINER_IMAGES",
            "a=no-such-image:nowhere".into(),
            &["BAD", "no-such-image", "CONTAINER_IMAGES"],
        ),
        ("a wrong password", "DATABASE_URL", wrong_password(&url)?, &["BAD", "password", "DATABASE_URL"]),
        (
            "a database that is not there",
            "DATABASE_URL",
            format!("postgres://u:{SECRET}@127.0.0.1:1/d"),
            &["BAD", "start it"],
        ),
        ("a Redis that is not there", "REDIS_URL", format!("redis://:{SECRET}@127.0.0.1:1"), &["BAD", "Start Redis"]),
        ("a state directory that cannot be made", "STATE_DIR", "/dev/null/state".into(), &["BAD", "STATE_DIR"]),
        (
            "a socket directory that cannot be made",
            "WORKSPACE_SOCKET_BASE_PATH",
            "/dev/null/ws".into(),
            &["BAD", "WORKSPACE_SOCKET_BASE_PATH"],
        ),
    ];
    // Most of them start a workspace, and wait for it.
    for some in rows.chunks(AT_ONCE) {
        futures::future::try_join_all(some.iter().map(|row| finds(context, &sockets, row))).await?;
    }
    // A port in use may belong to the running server itself.
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let program = command(context, Act::Doctor, &sockets, &[("BIND_ADDR", taken.local_addr()?.to_string())])?;
    says(&ended(context, &program, 0, "a port that is taken").await?, &["note", "BIND_ADDR"], "a port that is taken")?;

    // A pool's size that was set by the API is shown, since it outlives restarts.
    let deployment = context.launch(Launch::new().without_model().set("WARM_POOL_MIN_SIZE", 0)).await?;
    let size = serde_json::json!({"min_size": 0, "max_size": 3});
    deployment.api.put("/api/admin/pool", &size).await?.expect(200)?;
    for what in [Act::Config, Act::Doctor] {
        let report = ended(context, &deployment.server()?.command(what)?, 0, "a size set by the API").await?;
        says(&report, &["PUT /api/admin/pool", "0 to 3"], &format!("{what:?} with a size set by the API"))?;
    }

    let small = with_state_of(4, command(context, Act::Doctor, &sockets, &[])?)?;
    says(&ended(context, &small, EX_UNAVAILABLE, "a full disk").await?, &["BAD", "STATE_DIR", "free"], "a full disk")?;
    as_nobody(context, &sockets).await
}

/// Something that is wrong: what it is, the setting with its value, and what `doctor` says of it.
type Finding<'a> = (&'a str, &'a str, String, &'a [&'a str]);

/// Checks that `doctor` finds what is wrong.
async fn finds(context: &Context, sockets: &Path, (what, name, value, words): &Finding<'_>) -> Result<(), Failure> {
    let program = command(context, Act::Doctor, sockets, &[(name, value.clone())])?;
    says(&ended(context, &program, EX_UNAVAILABLE, what).await?, words, what)
}

/// An image whose first process says something and exits with status 7.
async fn image_that_exits(context: &Context) -> Result<String, Failure> {
    let engine = context.engine()?.clone();
    let tag = context.new_image_tag("exits", &engine)?;
    let exits = r#"ENTRYPOINT ["/bin/sh", "-c", "echo no agent here; exit 7"]"#;
    let (base, name) = (&context.run.capabilities.image, context.unique("exits"));
    image::derive(&engine, &context.run, &tag, base, &name, "true", exits).await?;
    Ok(tag)
}

/// A user without access to the engine's socket and to the directories.
async fn as_nobody(context: &Context, sockets: &Path) -> Result<(), Failure> {
    let setpriv = on_path("setpriv").ok_or_else(|| Failure::could_not_run("setpriv is not on the search path"))?;
    // Other users may not have access to the original's directory.
    let copy = context.dir().join("server-for-everybody");
    std::fs::copy(&context.run.capabilities.server, &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    let program = command(context, Act::Doctor, sockets, &[])?;
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
    let args = user.into_iter().map(Into::into).chain([copy.into_os_string()]).chain(program.args).collect();
    let program = Program { path: setpriv, args, ..program };
    let report = ended(context, &program, EX_UNAVAILABLE, "a user who may do nothing").await?;
    says(&report, &["BAD", "container engine", "group"], "a user who may do nothing")?;
    says(&report, &["BAD", "socket directory", "WORKSPACE_SOCKET_BASE_PATH"], "a user who may do nothing")
}
