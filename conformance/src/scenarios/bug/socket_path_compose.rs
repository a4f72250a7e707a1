//! BUG-05: the socket directory in the Compose file and in the images.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::contained::{SOCKETS_INSIDE, image};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-05-COMPOSE",
    "The Compose file and the server image have the same socket base path as the server",
    "one default: /var/run/workspace-sockets, in code, Compose file, image and docs",
    body!(one_default),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::ServerImage, Capability::Compose])
.limit(120)];

async fn one_default(context: &Context) -> Result<(), Failure> {
    let rendered = context.compose_project()?.rendered().await?;
    let values = |name: &str| -> Vec<String> {
        let lines = rendered.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        lines.map(|value| value.trim_matches('"').to_owned()).collect()
    };
    check_eq("base path in the Compose file", values("WORKSPACE_SOCKET_BASE_PATH"), vec![SOCKETS_INSIDE.to_owned()])?;
    let host = values("WORKSPACE_SOCKET_HOST_PATH").pop().unwrap_or_default();
    check(host.starts_with('/') && host != SOCKETS_INSIDE, format!("host path in the Compose file: {host:?}"))?;
    // In short form (`source:target:mode`) or in long form (fields).
    let mounted = rendered.contains(&format!("{host}:{SOCKETS_INSIDE}"))
        || (values("source").contains(&host) && values("target").contains(&SOCKETS_INSIDE.to_owned()))
        || (values("- source").contains(&host) && values("target").contains(&SOCKETS_INSIDE.to_owned()));
    check(mounted, format!("{host} is not mounted at {SOCKETS_INSIDE}: {rendered}"))?;

    let image = image(context.description()).map_err(Failure::could_not_run)?;
    let config = context.engine()?.docker().inspect_image(&image).await?.config.unwrap_or_default();
    let env = config.env.unwrap_or_default();
    check(env.iter().any(|entry| entry.starts_with("STATE_DIR=")), format!("the image sets nothing: {env:?}"))?;
    let other = env.iter().find(|entry| entry.contains("SOCKET") && !entry.ends_with(&format!("={SOCKETS_INSIDE}")));
    check(other.is_none(), format!("the image has another idea of where sockets are: {other:?}"))
}
