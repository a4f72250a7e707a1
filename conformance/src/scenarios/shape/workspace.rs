//! How a workspace's container can be recognised.

use crate::harness::context::Context;
use crate::harness::failure::Failure;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::rooms;
use crate::scenarios::common::shape::Deviations;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "SHAPE-007",
    "A workspace's container has the contract's labels and name",
    "a label each for the deployment, the workspace and its creation; a name with the workspace's id",
    body!(container),
)
.severity(Severity::Low)
.profile(Profile::Host)
.requires(&[Capability::Docker, Capability::Files])];

async fn container(context: &Context) -> Result<(), Failure> {
    let (_deployment, room) = rooms::room(context).await?;
    let inspect = room.inspect_json().await?;
    let labels = &inspect["Config"]["Labels"];
    let look = room.containers();
    let mut found = Deviations::default();
    for label in [&look.deployment_label, &look.workspace_label, &look.created_label] {
        let is_there = labels[label].as_str().is_some_and(|value| !value.is_empty());
        found.add((!is_there).then(|| format!("label {label} is {}", labels[label])));
    }
    let created = labels[&look.created_label].as_str().unwrap_or_default();
    let is_time = created.parse::<jiff::Timestamp>().is_ok();
    found.add((!is_time).then(|| format!("label {} is {created:?}, not a time (RFC 3339)", look.created_label)));
    let name = format!("/{}", look.name(room.workspace.as_deref().unwrap_or_default()));
    let is_named = inspect["Name"] == name;
    found.add((!is_named).then(|| format!("the name is {}, not {name:?}", inspect["Name"])));
    found.end()
}
