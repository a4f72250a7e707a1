//! Whether the deployment that `--deployment` names is the target's: scenarios that inspect workspaces would otherwise inspect others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bollard::query_parameters::ListContainersOptionsBuilder;
use futures::future::join_all;

use super::common::rooms::{FOUND_LIMIT, files_of, mark, put_mark};
use crate::harness::context::Context;
use crate::harness::engine::Engine;
use crate::harness::failure::{Failure, Kind};
use crate::harness::pace::at_pace;
use crate::harness::poll::eventually;
use crate::harness::run::Run;
use crate::harness::vocabulary::Capability;

/// What [`check_deployment`] needs.
const NEEDS: &[Capability] = &[Capability::Docker, Capability::Files];

/// Opens a workspace in the target, and finds out which deployment it belongs to by its label. Nothing is left. Without Docker or files, and
/// for a target that opens workspaces for runs only, nothing can be checked here: the scenarios say so, each for itself.
///
/// # Errors
/// The workspace belongs to another deployment than the options name: the reason, and the right one.
pub async fn check_deployment(run: &Arc<Run>) -> Result<(), Failure> {
    let (Some(_), Some(named)) = (&run.options.target, &run.options.deployment) else { return Ok(()) };
    if run.capabilities.check(NEEDS).is_err() {
        return Ok(());
    }
    let context = Context::new(run.clone(), "DEPLOYMENT", NEEDS)?;
    let owner = at_pace(run.options.patience, owner_of_new(&context)).await;
    let left = context.resources.release().await;
    let fault = |why: String| Err(Failure::harness(format!("--deployment {named}: {why}")));
    match owner {
        Ok(Some(owner)) if owner != *named => fault(format!(
            "the target's workspaces are labelled {}={owner}: give --deployment {owner} (its DEPLOYMENT_ID)",
            run.options.description.containers.deployment_label
        )),
        Ok(_) if left.is_empty() => Ok(()),
        Ok(_) => fault(format!("left behind: {}", left.join("; "))),
        Err(failure) if failure.kind == Kind::CouldNotRun => Ok(()),
        Err(failure) => fault(failure.to_string()),
    }
}

/// The deployment that the workspace of a new conversation is labelled with; `None` if no workspace of the engine is the conversation's.
async fn owner_of_new(context: &Context) -> Result<Option<String>, Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    put_mark(&deployment, &conversation).await?;
    let (engine, mark) = (context.engine()?, mark(&conversation));
    let found = eventually(FOUND_LIMIT, "a workspace with the file of the new conversation", async || {
        let owners = owners(engine).await?;
        let files = join_all(owners.keys().map(|id| files_of(engine.container(id)))).await;
        let with_mark = files.iter().find(|(_, files)| files.lines().any(|file| file == mark));
        let (room, _) =
            with_mark.ok_or_else(|| Failure::assertion(format!("{} workspaces without it", owners.len())))?;
        Ok::<_, Failure>(owners.get(&room.id).cloned())
    });
    Ok(found.await.ok().flatten())
}

/// The deployment of each running workspace of the engine, by the container's id.
async fn owners(engine: &Engine) -> Result<BTreeMap<String, String>, Failure> {
    let label = &engine.containers().deployment_label;
    let filters = HashMap::from([("label", vec![label.clone()])]);
    let options = ListContainersOptionsBuilder::new().filters(&filters).build();
    let list = engine.docker().list_containers(Some(options)).await?;
    Ok(list.into_iter().filter_map(|one| Some((one.id?, one.labels?.remove(label)?))).collect())
}
