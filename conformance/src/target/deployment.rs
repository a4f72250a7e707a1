//! The deployment under test, launched by the suite or not.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fixtures::Model;
pub use super::server::Server;
use crate::client::http::Api;
use crate::client::stream::{EventStream, RunEvent};
use crate::harness::context::Context;
use crate::harness::engine::{Engine, Room};
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;

/// How long it may take to become ready: Docker is connected and start-up reconciliation is done.
pub const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long a stop may take; the settings of a launch require less.
pub const STOP_LIMIT: Duration = Duration::from_secs(25);

/// A running deployment.
#[derive(Debug)]
pub struct Deployment {
    /// Client of the deployment's API.
    pub api: Api,
    /// The value of the label with its id on its containers, if known.
    pub id: Option<String>,
    /// The engine it uses, if reachable.
    pub engine: Option<Engine>,
    /// The server process, if this suite launched it.
    pub server: Option<Server>,
    /// The deployment's model, if it is the scripted one.
    pub model: Option<Model>,
}

/// A conversation with its tenant and model.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Id of the conversation's tenant.
    pub tenant: String,
    /// Id of the conversation's model.
    pub model: String,
    /// Id of the conversation.
    pub id: String,
    /// The response to its creation.
    pub created: Value,
}

impl Conversation {
    /// The conversation's path in the API, followed by `rest`.
    #[must_use]
    pub fn path(&self, rest: &str) -> String {
        format!("/api/tenants/{}/conversations/{}{rest}", self.tenant, self.id)
    }
}

impl Deployment {
    /// The server; a scenario that needs it declares [`crate::harness::vocabulary::Capability::Launch`].
    ///
    /// # Errors
    /// The suite did not launch it.
    pub fn server(&self) -> Result<&Server, Failure> {
        self.server.as_ref().ok_or_else(|| Failure::could_not_run("the target was not launched by this suite"))
    }

    /// The scripted model.
    ///
    /// # Errors
    /// The target's model is not the scripted one.
    pub fn model(&self) -> Result<&Model, Failure> {
        self.model.as_ref().ok_or_else(|| Failure::could_not_run("the target's model is not the scripted one"))
    }

    /// The engine and the deployment's id.
    ///
    /// # Errors
    /// One of them is unknown.
    pub fn engine(&self) -> Result<(&Engine, &str), Failure> {
        match (&self.engine, &self.id) {
            (Some(engine), Some(id)) => Ok((engine, id)),
            _ => Err(Failure::could_not_run("the target's containers cannot be reached")),
        }
    }

    /// The deployment's running workspaces.
    ///
    /// # Errors
    /// The engine cannot be reached.
    pub async fn rooms(&self) -> Result<Vec<Room>, Failure> {
        let (engine, id) = self.engine()?;
        engine.rooms(id, true).await
    }

    /// The deployment's workspaces, running or not.
    ///
    /// # Errors
    /// The engine cannot be reached.
    pub async fn all_rooms(&self) -> Result<Vec<Room>, Failure> {
        let (engine, id) = self.engine()?;
        engine.rooms(id, false).await
    }

    /// The deployment's only running workspace.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub async fn only_room(&self) -> Result<Room, Failure> {
        let mut rooms = self.rooms().await?;
        check_eq("number of running workspaces", rooms.len(), 1)?;
        rooms.pop().ok_or_else(|| Failure::harness("a workspace vanished from a list"))
    }

    /// Waits until `/health/ready` answers 200.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn ready(&self, limit: Duration) -> Result<(), Failure> {
        eventually(limit, "200 from /health/ready", || async {
            match self.api.get("/health/ready").await {
                Ok(reply) if reply.status == 200 => Ok(()),
                Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
                Err(failure) => Err(failure.to_string()),
            }
        })
        .await
    }

    /// Waits until a metric, summed over its labels, has a value that `fits`, and returns the value.
    ///
    /// # Errors
    /// It has no such value in time.
    pub async fn metric(&self, name: &str, fits: impl Fn(f64) -> bool, limit: Duration) -> Result<f64, Failure> {
        eventually(limit, format!("another value of {name}"), || async {
            match self.api.metrics().await.map(|page| page.sum(name)) {
                Ok(Some(value)) if fits(value) => Ok(value),
                Ok(value) => Err(format!("{name} = {value:?}")),
                Err(failure) => Err(failure.to_string()),
            }
        })
        .await
    }

    /// Creates a tenant, a model and a conversation. On a target that the suite did not launch they are deleted with the scenario.
    ///
    /// # Errors
    /// One of them is refused.
    pub async fn conversation(&self, context: &Context) -> Result<Conversation, Failure> {
        let at_bedrock =
            json!({"bedrock_model_id": "anthropic.claude-sonnet-4-20250514-v1:0", "model_region": "us-east-1"});
        self.conversation_of(context, at_bedrock).await
    }

    /// As [`Deployment::conversation`], with a model that does not exist at its provider: runs fail, and cost nothing.
    ///
    /// # Errors
    /// One of them is refused.
    pub async fn conversation_without_model(&self, context: &Context) -> Result<Conversation, Failure> {
        let nowhere = json!({"bedrock_model_id": "conformance.no-such-model-v1:0", "model_region": "us-east-1"});
        self.conversation_of(context, nowhere).await
    }

    /// Creates a tenant, a model of this provider and a conversation, as [`Deployment::conversation`].
    ///
    /// # Errors
    /// One of them is refused.
    pub async fn conversation_at(
        &self,
        context: &Context,
        provider: &str,
        model_id: &str,
    ) -> Result<Conversation, Failure> {
        self.conversation_of(context, json!({"provider": provider, "provider_model_id": model_id})).await
    }

    /// Creates a tenant, a model with these fields beside the usual ones, and a conversation.
    async fn conversation_of(&self, context: &Context, mut model: Value) -> Result<Conversation, Failure> {
        let (tenant, id) = (context.unique("tenant"), context.unique("model"));
        for (field, value) in [
            ("model_id", json!(id)),
            ("display_name", json!("Scripted")),
            ("context_window", json!(200_000)),
            ("max_output_tokens", json!(8192)),
            ("input_token_price", json!("0.003")),
            ("output_token_price", json!("0.015")),
        ] {
            model[field] = value;
        }
        let (description, model) = (model, id);
        self.goes_with(context, format!("/api/models/{model}"));
        self.api.post("/api/models", &description).await?.expect(201)?;
        self.goes_with(context, format!("/api/tenants/{tenant}"));
        self.api.post("/api/tenants", &json!({"tenant_id": tenant, "model_id": model})).await?.expect(201)?;
        self.another_conversation(context, &tenant, &model).await
    }

    /// Creates a conversation of an existing tenant.
    ///
    /// # Errors
    /// It is refused.
    pub async fn another_conversation(
        &self,
        context: &Context,
        tenant: &str,
        model: &str,
    ) -> Result<Conversation, Failure> {
        self.conversation_for(context, tenant, model, "conformance").await
    }

    /// Creates a conversation of this user of an existing tenant.
    ///
    /// # Errors
    /// It is refused.
    pub async fn conversation_for(
        &self,
        context: &Context,
        tenant: &str,
        model: &str,
        user: &str,
    ) -> Result<Conversation, Failure> {
        let path = format!("/api/tenants/{tenant}/conversations");
        let created = self.api.post(&path, &json!({"user_id": user})).await?.expect(201)?.json()?;
        let id = created["conversation_id"].as_str().unwrap_or_default().to_owned();
        self.goes_with(context, format!("{path}/{id}"));
        Ok(Conversation { tenant: tenant.to_owned(), model: model.to_owned(), id, created })
    }

    /// Objects in a launched deployment disappear with it; on other targets they have to be deleted.
    fn goes_with(&self, context: &Context, path: String) {
        if self.server.is_some() {
            return;
        }
        let api = self.api.clone();
        context.resources.add(path.clone(), move || async move {
            let reply = api.delete(&path).await?;
            let gone = matches!(reply.status.as_u16(), 200 | 204 | 404);
            check(gone, format!("DELETE {path} answered {} {}", reply.status, reply.text()))
        });
    }

    /// Starts a run.
    ///
    /// # Errors
    /// It is refused.
    pub async fn start(&self, conversation: &Conversation, prompt: &str) -> Result<EventStream, Failure> {
        self.api.open_stream(&conversation.path("/stream"), &json!({"user_input": prompt})).await
    }

    /// Runs a prompt to its end and checks what the contract says about every stream.
    ///
    /// # Errors
    /// The run is refused, or its stream violates the contract.
    pub async fn run(&self, conversation: &Conversation, prompt: &str) -> Result<Vec<RunEvent>, Failure> {
        self.start(conversation, prompt).await?.finish().await
    }

    /// Follows the conversation's run from after the event with this id to its end.
    ///
    /// # Errors
    /// It cannot be followed, or breaks off.
    pub async fn follow(&self, conversation: &Conversation, last_event_id: &str) -> Result<Vec<RunEvent>, Failure> {
        self.api.follow_stream(&conversation.path("/stream"), last_event_id).await?.rest().await
    }

    /// Runs a prompt that must succeed, and returns its events.
    ///
    /// # Errors
    /// As [`Deployment::run`], or the run does not succeed.
    pub async fn run_well(&self, conversation: &Conversation, prompt: &str) -> Result<Vec<RunEvent>, Failure> {
        let events = self.run(conversation, prompt).await?;
        let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
        check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))?;
        Ok(events)
    }

    /// Stops the server as its description says, usually with SIGTERM, and expects status 0.
    ///
    /// # Errors
    /// It does not stop in time, or with another status.
    pub async fn stop(&self) -> Result<(), Failure> {
        let server = self.server()?;
        let status = server.process.stop(server.description.limits.stop).await?;
        check_eq("exit status of the server, told to stop", status.code(), Some(0))
    }

    /// Kills the server with SIGKILL.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&self) -> Result<(), Failure> {
        let server = self.server()?;
        match &server.container {
            // `docker run` forwards every signal except this one.
            Some(container) => container.kill("SIGKILL").await?,
            None => server.process.signal(Signal::KILL).await?,
        }
        server.process.wait(STOP_LIMIT).await.map(|_| ())
    }

    /// Restarts a stopped server with the same state, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self, context: &Context) -> Result<(), Failure> {
        let server = self.server.as_mut().ok_or_else(|| Failure::could_not_run("not launched by this suite"))?;
        server.start_again()?;
        context.register_server(&server.process);
        self.api = server.listening(context).await?;
        self.ready(context.description().limits.ready).await
    }
}
