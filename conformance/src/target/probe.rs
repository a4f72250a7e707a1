//! Finds out what a run can reach and do.

use anyhow::bail;

use super::foreign::Owner;
use super::offers::{self, OPTIONAL};
use super::own_engine::OwnEngine;
use super::postgres::Postgres;
use super::prometheus::Prometheus;
use super::redis::Redis;
use super::{backing, binaries, build, compose, contained, reach, schemathesis, small_disk};
use crate::client::http::Api;
use crate::harness::capabilities::Capabilities;
use crate::harness::engine::Engine;
use crate::harness::environment;
use crate::harness::options::{LaunchAs, Options};
use crate::harness::vocabulary::Capability;

/// Default path of the Docker socket.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

impl Capabilities {
    /// Determines all capabilities once.
    ///
    /// # Errors
    /// A target or a Docker socket that the options name does not answer.
    pub async fn probe(options: &Options) -> anyhow::Result<Self> {
        let mut found = Self::default();
        found.set_missing(&options.without, "--without says so");
        let left_out =
            OPTIONAL.into_iter().filter(|one| options.description.without.iter().any(|name| name == <&str>::from(one)));
        found.set_missing(&left_out.collect::<Vec<_>>(), "optional.without in the target file says so");
        let owner = Owner::of(options);
        found.probe_engine(options).await?;
        found.probe_image(options, &owner).await;
        match &options.target {
            Some(target) => {
                found.probe_target(target, options).await?;
            }
            None => {
                found.probe_programs(options);
                found.probe_containers(options).await;
                found.check_named(options, &owner);
            }
        }
        Ok(found)
    }

    async fn probe_engine(&mut self, options: &Options) -> anyhow::Result<()> {
        let socket = match (&options.docker, &options.target) {
            (Some(socket), _) => socket,
            (None, None) => DOCKER_SOCKET,
            (None, Some(_)) => {
                self.set_missing(
                    &[Capability::Docker, Capability::Image],
                    "--docker is not set, so the target's Docker socket is unknown",
                );
                return Ok(());
            }
        };
        match Engine::connect(socket).await {
            Ok(engine) => {
                if options.target.is_some() && options.deployment.is_none() {
                    self.set_missing(
                        &[Capability::Docker],
                        "--deployment is not set, so the target's containers are unknown",
                    );
                }
                let engine = engine.with(&options.description.containers);
                self.engine = Some(if options.target.is_some() { engine.of_target() } else { engine });
            }
            Err(error) if options.docker.is_some() => return Err(error.context("--docker")),
            Err(error) => self.set_missing(&[Capability::Docker, Capability::Image], &format!("{error:#}")),
        }
        Ok(())
    }

    /// Determines the workspace image, and whether the engine has it.
    async fn probe_image(&mut self, options: &Options, owner: &Owner) {
        let flag = format!("--image, {}, or images.workspace in a target file", environment::WORKSPACE_IMAGE);
        let described = options.description.images.workspace.clone();
        let is_named = options.image.is_some() || options.description.file.is_some() && described.is_some();
        let named = owner.may_use("workspace image", is_named, &flag).map(|()| options.image.clone().or(described));
        match named {
            Ok(Some(image)) => self.image = image,
            Ok(None) => {
                return self.set_missing(
                    &[Capability::Image],
                    &format!("the workspace image is not known: name it with {flag}"),
                );
            }
            Err(why) => return self.set_missing(&[Capability::Image], &why),
        }
        if let Some(engine) = &self.engine
            && let Err(error) = engine.docker().inspect_image(&self.image).await
        {
            self.set_missing(&[Capability::Image], &format!("image {}: {error}", self.image));
        }
    }

    /// For a launched server that is not this project's: what was found but not named is missing.
    fn check_named(&mut self, options: &Options, owner: &Owner) {
        let (launch, described) = (options.launch, options.description.file.is_some());
        let mut artefacts = vec![
            (Capability::ServerImage, "server image", environment::SERVER_IMAGE),
            (Capability::Compose, "Compose file", environment::PROJECT),
            (Capability::Build, "Dockerfile", environment::PROJECT),
        ];
        if launch == LaunchAs::Container {
            // Commands that do not serve (`config`, `doctor`) are programs also there.
            artefacts.push((Capability::Launch, "program", environment::SERVER));
            artefacts.push((Capability::Launch, "server image", environment::SERVER_IMAGE));
        }
        let is_named = |what: &str, variable: &str| {
            let by_file = match what {
                "program" => options.description.launch.program.is_some(),
                "server image" => options.description.images.server.is_some(),
                _ => false,
            };
            environment::named(variable).is_some() || described && by_file
        };
        for (capability, what, variable) in artefacts {
            if let Err(why) = owner.may_use(what, is_named(what, variable), variable) {
                self.set_missing(&[capability], &why);
            }
        }
    }

    async fn probe_target(&mut self, target: &str, options: &Options) -> anyhow::Result<()> {
        let (api, trust) = reach::reach(target, options).await?;
        self.trust = trust;
        self.probe_optional_parts(&api, options).await.map_err(|error| error.context(format!("--target {target}")))?;
        self.set_missing_of_targets(options);
        Ok(())
    }

    /// Marks what no deployment has that the suite did not launch.
    pub fn set_missing_of_targets(&mut self, options: &Options) {
        self.set_missing(&[Capability::Launch], "the suite does not start or configure the target");
        if !options.allow_model_calls {
            let why = "calls to the target's model may cost money and need --allow-model-calls";
            self.set_missing(&[Capability::Model], why);
        }
        self.set_missing(&[Capability::ServerImage, Capability::Compose], "the suite did not start the target");
        self.set_missing(&[Capability::Build], "the Dockerfile of the target's image is not available");
        self.set_missing(&[Capability::Redis], "the target was not configured with a Redis server of this suite");
        self.set_missing(&[Capability::Origin], "the target's allow-list does not hold origins of this suite");
    }

    /// Determines the optional parts of the target, which must not contradict `--without`.
    async fn probe_optional_parts(&mut self, api: &Api, options: &Options) -> anyhow::Result<()> {
        let lacking = offers::probe(api).await.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let is_there = |one: &&Capability| OPTIONAL.contains(one) && !lacking.iter().any(|(lacked, _)| lacked == *one);
        if let Some(capability) = options.without.iter().find(is_there) {
            bail!(
                "--without {capability}: the target's /openapi.json describes that feature; remove the flag or the route"
            );
        }
        let by_file = |one: &Capability| options.description.without.iter().any(|name| name == <&str>::from(one));
        if let Some(capability) = OPTIONAL.iter().filter(|one| by_file(one)).find(is_there) {
            bail!(
                "optional.without in the target file names {capability}, and the target's /openapi.json describes it; remove the word or \
                 the route"
            );
        }
        for (capability, why) in &lacking {
            self.set_missing(&[*capability], why);
        }
        Ok(())
    }

    fn probe_programs(&mut self, options: &Options) {
        match binaries::server(&options.description) {
            Ok(path) => self.server = path,
            Err(why) => self.set_missing(&[Capability::Launch], &why),
        }
        match binaries::fixtures() {
            Ok(path) => self.fixtures = path,
            Err(why) => self.set_missing(&[Capability::Model, Capability::Origin], &why),
        }
        if let Err(why) = Prometheus::find() {
            self.set_missing(&[Capability::Prometheus], &why);
        }
        if let Err(why) = build::find() {
            self.set_missing(&[Capability::Build], &why);
        }
        if let Err(why) = schemathesis::find() {
            self.set_missing(&[Capability::Schemathesis], &why);
        }
    }

    /// Determines the capabilities that depend on whether the server runs as a process or in a container.
    async fn probe_containers(&mut self, options: &Options) {
        let contained = options.launch == LaunchAs::Container;
        let beside =
            [(Capability::Redis, environment::REDIS_IMAGE), (Capability::Postgres, environment::POSTGRES_IMAGE)];
        if contained {
            let why = "the server's container is on the engine of the workspaces, without mounts of its own (--launch container)";
            self.set_missing(&[Capability::Mount, Capability::OwnEngine], why);
        } else {
            let programs = [(Capability::Redis, Redis::find().map(drop)), (Capability::Postgres, Postgres::find())];
            let rights =
                [(Capability::Mount, small_disk::find()), (Capability::OwnEngine, OwnEngine::find().map(drop))];
            for (capability, found) in programs.into_iter().chain(rights) {
                found.unwrap_or_else(|why| self.set_missing(&[capability], &why));
            }
        }
        let Some(engine) = self.engine.clone() else {
            let why = "no Docker engine is available";
            self.set_missing(&[Capability::ServerImage, Capability::Compose], why);
            if contained {
                self.set_missing(&[Capability::Launch, Capability::Redis, Capability::Postgres], why);
            }
            return;
        };
        if let Err(why) = contained::find(&engine, &options.description).await {
            self.set_missing(&[Capability::ServerImage, Capability::Compose], &why);
            if contained {
                self.set_missing(&[Capability::Launch], &why);
            }
        }
        if contained {
            for (capability, variable) in beside {
                let found = backing::find(&engine, variable).await;
                found.unwrap_or_else(|why| self.set_missing(&[capability], &why));
            }
        }
        if let Err(why) = compose::find(&engine).await {
            self.set_missing(&[Capability::Compose], &why);
        }
    }
}
