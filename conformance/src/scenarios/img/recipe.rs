//! The workspace image and its Dockerfile.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::bare_container::start;
use crate::scenarios::common::outside::{HOST, Outside};
use crate::target::build::two_steps;
use crate::target::image::print_as_root;

/// Planted files that the search has to find.
const PLANTED: [&str; 2] = ["/opt/planted-program", "/opt/planted-directory"];
/// Lists setuid and setgid programs and world-writable files; directories with the sticky bit are exempt.
const SEARCH: &str = "touch /opt/planted-program && chmod 4755 /opt/planted-program && mkdir -m 0777 /opt/planted-directory\n\
    find / -xdev \\( -path /proc -o -path /sys -o -path /dev \\) -prune -o \\( -type f -perm /6000 -o -perm -0002 ! -type l \
    ! \\( -type d -perm -1000 \\) \\) -print";
/// Programs of the workspace, with the text that each prints.
const TOOLS: [(&str, &str); 10] = [
    ("git --version", "git version"),
    ("python3 --version", "Python 3"),
    ("python3 -m pip --version", "pip "),
    ("pip --version", "pip "),
    ("node --version", "v"),
    ("npm --version", ""),
    ("curl --version", "curl "),
    ("rg --version", "ripgrep"),
    ("jq --version", "jq-"),
    ("claude --version", "Claude Code"),
];
/// Exit status of a shell that did not find a program.
const NOT_FOUND: i64 = 127;
/// Exit status of curl for an untrusted certificate.
const UNKNOWN_AUTHORITY: i64 = 60;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "IMG-001",
        "The image has no setuid or setgid program, and nothing in it is writable by everybody",
        "no world-writable file, no setuid beyond the list",
        body!(rights),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(&[Capability::Docker, Capability::Image])
    .limit(120),
    Scenario::new(
        "IMG-002",
        "git, Python, pip, Node.js, npm, curl and the CLI are in a locked-down workspace, and start",
        "git, python, pip, node, npm, curl work in the workspace",
        body!(tools),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Docker, Capability::Image])
    .limit(120),
    Scenario::new(
        "IMG-003",
        "The last steps of the Dockerfile succeed with an agent that starts, and fail with one that does not",
        "a build with a broken agent fails",
        body!(broken_agent),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Docker, Capability::Image, Capability::Build])
    .limit(170),
    Scenario::new(
        "IMG-004",
        "CA certificates that the builder supplies are trusted by curl, Python and Node.js in the workspace",
        "builds behind a TLS-inspecting corporate proxy (extra CA bundle)",
        body!(certificates),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Build])
    .limit(170),
];

async fn rights(context: &Context) -> Result<(), Failure> {
    let name = context.new_container_name("search", context.engine()?)?;
    let printed =
        print_as_root(context.engine()?, &context.run, &name, &context.run.capabilities.image, SEARCH).await?;
    let mut found: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for planted in PLANTED {
        check(found.contains(&planted), format!("the search has not found {planted}: {found:?}"))?;
    }
    found.retain(|path| !PLANTED.contains(path));
    check_eq("setuid, setgid or world-writable files", found.join(", ").as_str(), "")
}

async fn tools(context: &Context) -> Result<(), Failure> {
    let (room, _sockets) = start(context).await?;
    let absent = room.shell("no-such-program --version").await?;
    check_eq("status of a program that is not there", absent.status, NOT_FOUND)?;
    for (command, says) in TOOLS {
        let done = room.shell(command).await?;
        check_eq(format!("status of `{command}`, which printed {:?}", done.printed), done.status, 0)?;
        check(done.printed.contains(says), format!("`{command}` printed {:?}, not {says:?}", done.printed))?;
    }
    Ok(())
}

async fn broken_agent(context: &Context) -> Result<(), Failure> {
    let steps = two_steps("COPY nagaya-agent")?.join("\n");
    let base = context.small_base().await?;
    let agent = |line: &str| format!("#!/bin/sh\n{line}\n");
    let good = context.build(&base, &steps, &[("nagaya-agent", &agent("echo good"), 0o755)]).await?;
    check(good.tag.is_some(), format!("an agent that starts: the build failed: {}", good.printed))?;
    let broken = agent("echo no module named agent >&2; exit 3");
    let bad = context.build(&base, &steps, &[("nagaya-agent", &broken, 0o755)]).await?;
    check_eq("image of a build with a broken agent", bad.tag.as_deref(), None)?;
    check(bad.printed.contains("no module named agent"), format!("the build does not say why: {}", bad.printed))
}

async fn certificates(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let curl = format!("curl -sS --max-time 20 'https://{HOST}/echo?ca=curl'");
    // The control: without the certificate no client trusts the server.
    let refused = outside.attempt(&curl).await?;
    check_eq(
        format!("status of curl without the certificate ({})", refused.printed),
        refused.status,
        UNKNOWN_AUTHORITY,
    )?;

    // The Dockerfile's own steps combined into one: each step may take half a minute on an image of this size.
    let [copy, run] = two_steps("COPY extra-ca/")?;
    let into = copy.split_whitespace().nth(2).unwrap_or_default();
    let run = run.trim_start_matches("RUN ");
    let change = format!(
        "PATH=\"$PATH:/usr/sbin:/sbin\"; cat > '{into}extra.crt' <<'END'\n{}\nEND\n{run}",
        outside.services.ca_pem.trim()
    );
    let tag = context.derived_image(&change).await?;
    let services = outside.services.clone();
    let knowing = Outside::of(context, services, |launch| launch.without_model().set("CONTAINER_IMAGE", tag)).await?;
    knowing.shell(&curl).await?;
    let python =
        format!("import urllib.request as r; print(r.urlopen('https://{HOST}/echo?ca=python', timeout=20).status)");
    knowing.run(&["python3", "-c", &python]).await?;
    let node =
        format!("fetch('https://{HOST}/echo?ca=node').then(answer => process.exit(answer.status === 200 ? 0 : 1))");
    knowing.run(&["node", "--eval", &node]).await?;
    for client in ["curl", "python", "node"] {
        let seen = knowing.seen_once(&format!("/echo?ca={client}")).await?;
        check_eq(format!("how {client}'s request arrived"), seen.scheme.as_str(), "https")?;
    }
    Ok(())
}
