//! What a run costs while it goes on: which models answer, and when it has cost as much as it may.

use super::Run;
use crate::conversation::event::{Event, ProgressKind};

impl Run {
    /// Why the run is to be stopped for what it has cost; `None` while it may go on.
    pub(super) fn cost_exceeded(&self) -> Option<String> {
        let most = self.order.bounds.max_cost?;
        let cost = self.meter.cost(self.usage);
        most.is_exceeded_by(cost).then(|| {
            format!("the run has cost {cost} USD, more than the {most} that limits.max_cost_usd allows; it was stopped")
        })
    }

    /// Another model answers from here on. An earlier process may have told it already, as event `number` of the agent's.
    pub(super) async fn fall_back(&mut self, number: u64, from: &str, to: &str, reason: &str) {
        let models = std::iter::once(&self.order.model).chain(&self.order.bounds.fallbacks);
        let known = |sought: &str| models.clone().find(|model| model.provider_model_id == sought);
        let name = |sought: &str| known(sought).map_or(sought, |model| &model.model_id).to_owned();
        let message = format!("The model {} does not answer ({reason}); {} answers in its place", name(from), name(to));
        if let Some(model) = known(to) {
            self.meter.switch(self.usage, model.input_token_price, model.output_token_price);
        }
        if number >= self.past.agent_event {
            self.put(&Event::progress(ProgressKind::Retry, message)).await;
        }
    }
}
