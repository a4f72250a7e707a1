//! pip, npm and git in a workspace.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{CA, DENIED, HOST, NEEDS, Outside, VAULT, check_agent, check_clean};

/// The credential of the host whose addresses are rewritten.
const TOKEN: &str = "Basic Y29uZm9ybWFuY2U6dG9rZW4tMDEyMzQ1Njc4OQ==";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-106",
        "pip installs a package from an index behind the proxy, and Python imports it",
        "plain HTTP (a package install) and HTTPS CONNECT succeed",
        body!(pip),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-107",
        "npm installs a package from a registry behind the proxy, and Node.js requires it",
        "plain HTTP (a package install) and HTTPS CONNECT succeed",
        body!(npm),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "EGR-108",
        "git clones over HTTP and HTTPS, also from rewritten addresses with a credential; every object is intact",
        "git work in the workspace through the bridge; plain HTTP and HTTPS CONNECT succeed",
        body!(git),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

async fn pip(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let (facts, import) = (&outside.services.facts, "python3 -c 'import nagaya_sample; print(nagaya_sample.GREETING)'");
    check((outside.attempt(import).await?).status != 0, "the package is there before it was installed")?;
    // In an image with additional certificate authorities REQUESTS_CA_BUNDLE is set, which overrides --cert.
    let own = "ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1 && unset REQUESTS_CA_BUNDLE";
    let install = |host: &str| {
        format!(
            "{own}; pip install --no-input --retries 1 --timeout 10 --cert {CA} --index-url https://{host}/simple/ {}",
            facts.package
        )
    };

    let denied = outside.attempt(&install(DENIED)).await?;
    check(denied.status != 0 && denied.printed.contains("403"), format!("pip from an index off the list: {denied:?}"))?;
    outside.never_seen("/simple/").await?;

    let printed = outside.shell(&install(HOST)).await?;
    let done = format!("Successfully installed {}-{}", facts.package, facts.version);
    check(printed.contains(&done), format!("pip printed {printed:?}"))?;
    check_eq("the text of the installed package", outside.shell(import).await?.trim(), facts.greeting.as_str())?;
    for path in [format!("/simple/{}/", facts.package), "/files/".to_owned()] {
        let seen = outside.seen_once(&path).await?;
        check_eq(format!("how the request for {path} arrived"), seen.scheme.as_str(), "https")?;
        check_agent(&seen, "pip/")?;
    }
    // The same index by plain HTTP: the request arrives as pip sent it.
    let plain = format!(
        "pip download --no-input --no-cache-dir --retries 0 --timeout 10 -d /workspace/wheels --trusted-host {HOST} --index-url http://{HOST}/simple/ {}",
        facts.package
    );
    outside.shell(&plain).await?;
    for seen in outside.seen("/").await?.iter().filter(|seen| seen.scheme == "http") {
        check_agent(seen, "pip/")?;
        check_clean(seen)?;
    }
    check_eq("requests for the wheel", outside.seen("/files/").await?.len(), 2)
}

async fn npm(context: &Context) -> Result<(), Failure> {
    let outside = Outside::start(context).await?;
    let facts = &outside.services.facts;
    let require = format!("node -e 'console.log(require(\"{}\").greeting)'", facts.package);
    check((outside.attempt(&require).await?).status != 0, "the package is there before it was installed")?;
    let install = |host: &str| {
        format!(
            "npm install --no-audit --no-fund --fetch-retries=0 --fetch-timeout=10000 --cafile={CA} --registry=https://{host}/npm/ {}",
            facts.package
        )
    };
    let denied = outside.attempt(&install(DENIED)).await?;
    check(
        denied.status != 0 && denied.printed.contains("403"),
        format!("npm from a registry off the list: {denied:?}"),
    )?;
    outside.never_seen("/npm/").await?;

    let printed = outside.shell(&install(HOST)).await?;
    check(printed.contains("added 1 package"), format!("npm printed {printed:?}"))?;
    check_eq("the text of the installed package", outside.shell(&require).await?.trim(), facts.greeting.as_str())?;
    let tarball = format!("/npm/{0}/-/{0}-{1}.tgz", facts.package, facts.version);
    for path in [tarball, format!("/npm/{}", facts.package)] {
        let seen = outside.seen_once(&path).await?;
        check_eq(format!("how the request for {path} arrived"), seen.scheme.as_str(), "https")?;
        check_agent(&seen, "npm/")?;
    }
    // With plain HTTP npm sends its requests to the proxy itself.
    let plain =
        format!("cd /tmp && npm view --fetch-retries=0 --registry=http://{HOST}/npm/ {} dist.integrity", facts.package);
    let printed = outside.shell(&plain).await?;
    check(printed.trim().starts_with("sha512-"), format!("npm view printed {printed:?}"))?;
    let plain: Vec<_> = outside.seen("/npm/").await?.into_iter().filter(|seen| seen.scheme == "http").collect();
    check_eq("requests by plain HTTP", plain.len(), 1)?;
    plain.iter().try_for_each(check_clean)
}

async fn git(context: &Context) -> Result<(), Failure> {
    context.secrets().add(TOKEN);
    let outside = Outside::with(context, |launch| {
        let rule = format!("{VAULT}=header:authorization:env:GIT_TOKEN");
        launch.without_model().set("PROXY_CREDENTIALS", rule).set("GIT_TOKEN", TOKEN)
    })
    .await?;
    let facts = &outside.services.facts;
    let denied = outside.attempt(&format!("git clone http://{DENIED}/sample.git /workspace/denied")).await?;
    check(denied.status != 0 && denied.printed.contains("403"), format!("git from a host off the list: {denied:?}"))?;
    outside.never_seen("/sample.git/").await?;

    for scheme in ["http", "https"] {
        let dir = format!("/workspace/{scheme}");
        outside.shell(&format!("git -c http.sslCAInfo={CA} clone --quiet {scheme}://{HOST}/sample.git {dir}")).await?;
        check_eq(
            "the last commit of the clone",
            outside.shell(&format!("git -C {dir} rev-parse HEAD")).await?.trim(),
            facts.commit.as_str(),
        )?;
        check_eq("README of the clone", outside.shell(&format!("cat {dir}/README.md")).await?, facts.readme.as_str())?;
        // A commit's id depends on every byte below it, and fsck checks them all.
        outside.shell(&format!("git -C {dir} fsck --full --strict && git -C {dir} diff --exit-code HEAD")).await?;
        outside.shell(&format!("git -C {dir} -c http.sslCAInfo={CA} fetch --quiet")).await?;
    }
    for scheme in ["http", "https"] {
        let seen: Vec<_> =
            outside.seen("/sample.git/").await?.into_iter().filter(|seen| seen.scheme == scheme).collect();
        let sent = seen.iter().filter(|seen| seen.method == "POST" && seen.status == 200).count();
        check(sent >= 2, format!("requests to git over {scheme}, of which some must be POST: {seen:#?}"))?;
        for seen in &seen {
            check_agent(seen, "git/")?;
            check_clean(seen)?;
            check_eq("a credential of another host", seen.header("authorization"), None)?;
        }
    }
    rewritten(&outside).await
}

/// Addresses that git rewrites, so that the proxy can add a credential.
async fn rewritten(outside: &Outside) -> Result<(), Failure> {
    let before = outside.seen("/sample.git/").await?.len();
    let forms = [format!("https://{VAULT}/"), format!("git@{VAULT}:"), format!("ssh://git@{VAULT}/")];
    for (form, number) in forms.iter().zip(1..) {
        outside.shell(&format!("git config --global --add url.http://{VAULT}/.insteadOf {form}")).await?;
        let dir = format!("/workspace/rewritten-{number}");
        outside
            .shell(&format!("git clone --quiet {form}sample.git {dir} && git -C {dir} fsck --full --strict"))
            .await?;
    }
    let seen = outside.seen("/sample.git/").await?;
    check(seen.len() > before + forms.len(), "no request for the addresses that are rewritten")?;
    for seen in &seen[before..] {
        check_eq("how a rewritten request arrived", seen.scheme.as_str(), "https")?;
        check_eq("the credential of a rewritten request", seen.header("authorization"), Some(TOKEN))?;
    }
    Ok(())
}
