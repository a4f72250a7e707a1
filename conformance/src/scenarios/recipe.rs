//! What is in the room's image, and the recipe it is made by: IMG.

use std::time::Duration;

use super::image::start;
use super::outside::{HOST, Outside};
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::build::two_steps;
use crate::target::image::print_as_root;

/// Where a file is planted that the search has to find.
const PLANTED: [&str; 2] = ["/opt/planted-program", "/opt/planted-directory"];
/// Lists what lends its owner's rights to anybody, and what anybody may change. A directory with the sticky bit is nobody's to spoil.
const SEARCH: &str = "touch /opt/planted-program && chmod 4755 /opt/planted-program && mkdir -m 0777 /opt/planted-directory\n\
    find / -xdev \\( -path /proc -o -path /sys -o -path /dev \\) -prune -o \\( -type f -perm /6000 -o -perm -0002 ! -type l \
    ! \\( -type d -perm -1000 \\) \\) -print";
/// Programs of the room, with what each prints of itself.
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
/// Status of a shell that has not found a program.
const NOT_FOUND: i64 = 127;
/// Status of curl that does not know who has signed a certificate.
const UNKNOWN_AUTHORITY: i64 = 60;

const SCENARIO: Scenario = Scenario {
    id: "IMG",
    title: "",
    severity: Severity::High,
    requirement: "",
    requires: &[Capability::Docker, Capability::Image],
    profile: Profile::Full,
    destructive: false,
    limit: Duration::from_secs(120),
    body: body!(rights),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "IMG-001",
        title: "no program in the image lends its owner's rights, and nothing in it is anybody's to change",
        severity: Severity::Critical,
        requirement: "no world-writable file, no setuid beyond the list",
        ..SCENARIO
    },
    Scenario {
        id: "IMG-002",
        title: "git, Python, pip, Node.js, npm, curl and the CLI are in a locked room, and start",
        requirement: "git, python, pip, node, npm, curl work in the room",
        body: body!(tools),
        ..SCENARIO
    },
    Scenario {
        id: "IMG-003",
        title: "the recipe's last steps build with an agent that starts, and fail with one that does not",
        requirement: "a build with a broken agent fails",
        requires: &[Capability::Docker, Capability::Image, Capability::Build],
        limit: Duration::from_secs(170),
        body: body!(broken_agent),
        ..SCENARIO
    },
    Scenario {
        id: "IMG-004",
        title: "certificates that the builder gives are believed by curl, Python and Node.js in the room",
        requirement: "builds behind a TLS-inspecting corporate proxy (extra CA bundle)",
        requires: &[
            Capability::Launch,
            Capability::Docker,
            Capability::Image,
            Capability::Origin,
            Capability::Build,
        ],
        limit: Duration::from_secs(170),
        body: body!(certificates),
        ..SCENARIO
    },
];

async fn rights(context: &Context) -> Result<(), Failure> {
    let name = context.own_container("search", context.engine()?)?;
    let printed = print_as_root(context.engine()?, &context.run, &name, &context.run.options.image, SEARCH).await?;
    let mut found: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for planted in PLANTED {
        check(found.contains(&planted), format!("the search has not found {planted}: {found:?}"))?;
    }
    found.retain(|path| !PLANTED.contains(path));
    check_eq("files that lend rights, or are anybody's to change", found.join(", ").as_str(), "")
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
    // The control: without the certificate nobody believes it.
    let refused = outside.attempt(&curl).await?;
    check_eq(format!("status of curl without the certificate ({})", refused.printed), refused.status, UNKNOWN_AUTHORITY)?;

    // The recipe's own steps, in one: each step of a build may take half a minute of its own on an image of this size.
    let [copy, run] = two_steps("COPY extra-ca/")?;
    let into = copy.split_whitespace().nth(2).unwrap_or_default();
    let run = run.trim_start_matches("RUN ");
    let change = format!(
        "PATH=\"$PATH:/usr/sbin:/sbin\"; cat > '{into}extra.crt' <<'END'\n{}\nEND\n{run}",
        outside.services.ca_pem.trim()
    );
    let tag = context.derived_image(&change).await?;
    let services = outside.services.clone();
    let knowing =
        Outside::of(context, services, |launch| launch.without_model().set("CONTAINER_IMAGE", tag)).await?;
    knowing.shell(&curl).await?;
    let python = format!("import urllib.request as r; print(r.urlopen('https://{HOST}/echo?ca=python', timeout=20).status)");
    knowing.run(&["python3", "-c", &python]).await?;
    let node = format!("fetch('https://{HOST}/echo?ca=node').then(answer => process.exit(answer.status === 200 ? 0 : 1))");
    knowing.run(&["node", "--eval", &node]).await?;
    for client in ["curl", "python", "node"] {
        let seen = knowing.seen_once(&format!("/echo?ca={client}")).await?;
        check_eq(format!("how {client}'s request arrived"), seen.scheme.as_str(), "https")?;
    }
    Ok(())
}
