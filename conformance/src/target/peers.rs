//! Services beside a deployment, each for one scenario.

use rand::RngExt;

use super::alertmanager;
use super::deployment::Deployment;
use super::fixtures::{Credentials, Model, Origin, OriginKind};
use super::issuer::Issuer;
use super::postgres::Postgres;
use super::process::{Process, Program};
use super::prometheus::Prometheus;
use super::redis::Redis;
use super::services::Services;
use super::storage::Storage;
use crate::harness::context::Context;
use crate::harness::failure::Failure;

impl Context {
    /// Starts a Redis server.
    ///
    /// # Errors
    /// It does not start.
    pub async fn redis(&self) -> Result<Redis, Failure> {
        if self.by_containers() {
            return Redis::start_in_container(self).await;
        }
        let dir = self.dir().join(self.unique("redis"));
        std::fs::create_dir(&dir)?;
        let redis = Redis::start(&self.run.id, &dir).await?;
        let to_stop = redis.clone();
        self.resources.add("fixture redis-server", move || async move { to_stop.kill().await });
        Ok(redis)
    }

    /// Starts a PostgreSQL server with an empty database.
    ///
    /// # Errors
    /// It does not start.
    pub async fn postgres(&self) -> Result<Postgres, Failure> {
        if self.by_containers() {
            return Postgres::start_in_container(self).await;
        }
        let dir = self.dir().join(self.unique("postgres"));
        std::fs::create_dir(&dir)?;
        let postgres = Postgres::start(&self.run.capabilities.fixtures, &self.run.id, &dir).await?;
        let to_stop = postgres.clone();
        self.resources.add("fixture postgres", move || async move { to_stop.stop().await });
        Ok(postgres)
    }

    /// Starts a Prometheus that scrapes a deployment, and an Alertmanager that posts its alerts to `receiver`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn prometheus(&self, deployment: &Deployment, receiver: &Origin) -> Result<Prometheus, Failure> {
        let dir = self.dir().join(self.unique("prometheus"));
        std::fs::create_dir(&dir)?;
        let (run, url) = (&self.run.id, format!("http://{}/alerts", receiver.address));
        let (alertmanager, process) = alertmanager::start(run, &dir, &url, self.exchanges().clone()).await?;
        self.resources.add("fixture alertmanager", move || async move { process.kill().await });
        let (prometheus, process) =
            Prometheus::start(run, &dir, (&deployment.api, &alertmanager), self.exchanges().clone()).await?;
        self.resources.add("fixture prometheus", move || async move { process.kill().await });
        Ok(prometheus)
    }

    /// Starts an origin.
    ///
    /// # Errors
    /// It does not start.
    pub async fn origin(&self, kind: OriginKind) -> Result<Origin, Failure> {
        let name = self.unique("origin");
        let program = Origin::program(&self.run.capabilities.fixtures, self.dir(), &name, kind);
        let process = self.start_fixture(&program, &name)?;
        Origin::ready(process, self.dir(), &name, kind).await
    }

    /// Starts an issuer of tokens.
    ///
    /// # Errors
    /// It does not start.
    pub async fn issuer(&self) -> Result<Issuer, Failure> {
        let name = self.unique("issuer");
        let program = Issuer::program(&self.run.capabilities.fixtures, self.dir(), &name);
        let process = self.start_fixture(&program, &name)?;
        Issuer::ready(process, self.dir(), &name, self.exchanges().clone()).await
    }

    /// Starts services for real clients, with certificates for these names.
    ///
    /// # Errors
    /// They do not start.
    pub async fn services(&self, hosts: &[&str]) -> Result<Services, Failure> {
        let name = self.unique("services");
        let dir = self.dir().join(&name);
        std::fs::create_dir(&dir)?;
        let process = self.start_fixture(&Services::program(&self.run.capabilities.fixtures, &dir, hosts), &name)?;
        let services = Services::ready(&process, &dir, self.exchanges().clone()).await?;
        self.add_witness(services.clone());
        Ok(services)
    }

    /// Starts an S3 server with an empty bucket.
    ///
    /// # Errors
    /// It does not start.
    pub async fn storage(&self) -> Result<Storage, Failure> {
        let name = self.unique("s3");
        let dir = self.dir().join(&name);
        std::fs::create_dir(&dir)?;
        let credentials = self.credentials();
        let program = Storage::program(&self.run.capabilities.fixtures, &dir, &credentials);
        let process = self.start_fixture(&program, &name)?;
        Storage::ready(&process, &dir, credentials, self.exchanges().clone()).await
    }

    /// AWS credentials of this scenario.
    pub fn credentials(&self) -> Credentials {
        let mut rng = rand::rng();
        let mut text =
            |length| (0..length).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect::<String>();
        let id = format!("AKIDTEST{}", text(12).to_uppercase());
        let credentials = Credentials { id, secret: text(40) };
        self.secrets().add(&credentials.secret);
        credentials
    }

    fn start_fixture(&self, program: &Program, name: &str) -> Result<Process, Failure> {
        let process = Process::start(program, &self.run.id, &self.dir().join(format!("{name}.log")))?;
        let to_stop = process.clone();
        self.resources.add(format!("fixture {name}"), move || async move { to_stop.kill().await });
        Ok(process)
    }

    pub(super) async fn start_model(
        &self,
        name: &str,
        credentials: &Credentials,
        key: Option<&str>,
    ) -> Result<Model, Failure> {
        let dir = self.dir().join(format!("{name}-model"));
        std::fs::create_dir(&dir)?;
        let program = Model::program(&self.run.capabilities.fixtures, &dir, credentials, key);
        let process = self.start_fixture(&program, &format!("{name}-model"))?;
        Model::ready(process, &dir, self.exchanges().clone()).await
    }
}
