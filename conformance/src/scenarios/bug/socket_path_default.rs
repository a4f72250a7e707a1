//! BUG-05: the default of the socket directory.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::command::{effective, setting_text};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-05",
    "The socket directory has the same default in the configuration and in the image",
    "WORKSPACE_SOCKET_BASE_PATH: /var/run/workspace-sockets in code, Compose file, image and docs",
    body!(one_socket_path),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image])
.limit(30)];

async fn one_socket_path(context: &Context) -> Result<(), Failure> {
    const PATH: &str = "/var/run/workspace-sockets";
    let config = effective(context, &[]).await?;
    check_eq("WORKSPACE_SOCKET_BASE_PATH", setting_text(&config, "WORKSPACE_SOCKET_BASE_PATH")?.as_str(), PATH)?;
    check_eq("WORKSPACE_SOCKET_HOST_PATH", setting_text(&config, "WORKSPACE_SOCKET_HOST_PATH")?.as_str(), PATH)?;
    // The control: the output follows the variable, and the host path follows the base path.
    let other = effective(context, &[("WORKSPACE_SOCKET_BASE_PATH", "/srv/rooms")]).await?;
    check_eq("base path, when set", setting_text(&other, "WORKSPACE_SOCKET_BASE_PATH")?.as_str(), "/srv/rooms")?;
    check_eq(
        "host path, when only the base is set",
        setting_text(&other, "WORKSPACE_SOCKET_HOST_PATH")?.as_str(),
        "/srv/rooms",
    )?;

    let image = context.engine()?.docker().inspect_image(&context.run.capabilities.image).await?;
    let env = image.config.and_then(|config| config.env).unwrap_or_default();
    check(!env.is_empty(), "the image has no environment at all: nothing was checked")?;
    let inside = format!("={}", context.description().containers.sockets);
    for entry in env.iter().filter(|entry| entry.contains("SOCKET")) {
        let holds = entry.ends_with(PATH) || entry.contains(&inside);
        check(holds, format!("the image's environment names another socket directory: {entry}"))?;
    }
    Ok(())
}
