//! Drivers that workspaces of the warm pool hold started: how they are started, and how a conversation takes one over.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use nagaya_driver::{Driver, Options, Prompt};
use nagaya_workspace::agent::AgentError;
use nagaya_workspace::{Lease, Living, Origin, Starter, ToStart};

use super::Run;
use super::content::fits;
use super::request::digest;
use crate::conversation::recovery::Stream;
use crate::conversation::store::Store;
use crate::providers::Providers;

/// Names the driver that workspaces of the pool hold: that of a conversation with one model, of whose options nothing else is known.
#[derive(Debug)]
pub struct PoolDriver {
    /// Id of the model.
    pub model: String,
    /// The driver.
    pub driver: Arc<dyn Driver>,
    /// Where the model is described.
    pub store: Store,
    /// Where models are called.
    pub providers: Arc<Providers>,
}

impl Starter for PoolDriver {
    fn driver(&self) -> BoxFuture<'_, Option<ToStart>> {
        async {
            let model = match self.store.model(&self.model).await {
                Ok(model) => model,
                Err(error) => {
                    let model = &self.model;
                    tracing::warn!(model, %error, "workspaces of the pool have no driver, because the model of WARM_POOL_MODEL cannot be read");
                    return None;
                }
            };
            let options = Options {
                model: model.provider_model_id.clone(),
                access: Some(self.providers.access(model.provider, model.model_region.as_deref())),
                ..Options::default()
            };
            let fixed = self.driver.fixed(&options);
            Some(ToStart { request: self.driver.start(&fixed), options: digest(&*self.driver, &fixed) })
        }
        .boxed()
    }
}

impl Run {
    /// Notes whether the workspace is as it was in the pool. A driver that has started there has seen it so.
    pub(super) fn note_untouched(&mut self, lease: &Lease, restored: bool) {
        self.untouched = lease.origin() == Origin::Warm && !restored && self.order.uploads.is_none();
    }

    /// Begins the turn with the driver that the workspace has had since it was in the pool. It is ended, and the result is `None`, where the
    /// conversation needs another one: because it continues a session, has options that a driver cannot be told any more, or files.
    ///
    /// # Errors
    /// The agent cannot be reached.
    pub(super) async fn take_over(
        &mut self,
        lease: &Lease,
        options: &Options,
        prompt: &Prompt,
    ) -> Result<Option<Stream>, AgentError> {
        let Some(Living { execution, read, options: started_with }) = lease.take_started() else { return Ok(None) };
        let driver = self.services.driver.clone();
        let fresh = std::mem::take(&mut self.untouched) && options.session.is_none();
        if fresh && started_with == digest(&*driver, &driver.fixed(options)) {
            let run = self.journal.run_id().to_owned();
            let lines = [driver.introduce(options), driver.prompt(&run, prompt)].concat();
            // Followed first: the agent ends a turn of which nobody has read for as long as this driver has waited.
            if fits(&lines).is_ok()
                && let Ok(stream) = Stream::resume(lease, execution.clone(), read).await
                && lease.write(&execution, &run, lines).await.is_ok()
            {
                self.note_execution(execution, read).await;
                return Ok(Some(stream));
            }
        }
        lease.cancel(&execution).await?;
        Ok(None)
    }
}
