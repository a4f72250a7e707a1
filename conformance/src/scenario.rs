//! What a scenario is: one value, declared where its body stands.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;

/// A scenario's body. It returns once everything it had to show is shown, or at the first thing that is not so.
pub type Body = for<'c> fn(&'c Context) -> BoxFuture<'c, Result<(), Failure>>;

/// One thing a deployment promises, and how to find out whether it keeps it.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// `FAMILY-NUMBER`, with a suffix where one promise has several scenarios (`BUG-10-GONE`). Never reused.
    pub id: &'static str,
    /// What is shown, as a sentence without a full stop.
    pub title: &'static str,
    /// How bad it is when the promise is broken.
    pub severity: Severity,
    /// The line of the contract that is put to the test.
    pub requirement: &'static str,
    /// What the suite must be able to reach or do.
    pub requires: &'static [Capability],
    /// The smallest profile that holds this scenario; larger profiles hold it too.
    pub profile: Profile,
    /// Whether it breaks or removes things that it did not make.
    pub destructive: bool,
    /// How long the body may take; clean-up has its own deadline.
    pub limit: Duration,
    /// The body.
    pub body: Body,
}

impl Scenario {
    /// The part of the id before the first dash.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.id.split('-').next().unwrap_or(self.id)
    }

    /// Every profile that holds this scenario.
    #[must_use]
    pub fn profiles(&self) -> Vec<Profile> {
        Profile::ALL.into_iter().filter(|profile| *profile >= self.profile).collect()
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario").field("id", &self.id).field("title", &self.title).finish_non_exhaustive()
    }
}

/// What the world outside sees of a scenario: an element of `list --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Listing {
    /// As [`Scenario::id`].
    pub id: &'static str,
    /// As [`Scenario::title`].
    pub title: &'static str,
    /// As [`Scenario::family`].
    pub family: &'static str,
    /// As [`Scenario::severity`].
    pub severity: Severity,
    /// As [`Scenario::requirement`].
    pub requirement: &'static str,
    /// As [`Scenario::requires`].
    pub requires: &'static [Capability],
    /// As [`Scenario::profiles`].
    pub profiles: Vec<Profile>,
    /// As [`Scenario::destructive`].
    pub destructive: bool,
    /// [`Scenario::limit`] in seconds.
    pub limit_seconds: u64,
}

impl From<&Scenario> for Listing {
    fn from(scenario: &Scenario) -> Self {
        Self {
            id: scenario.id,
            title: scenario.title,
            family: scenario.family(),
            severity: scenario.severity,
            requirement: scenario.requirement,
            requires: scenario.requires,
            profiles: scenario.profiles(),
            destructive: scenario.destructive,
            limit_seconds: scenario.limit.as_secs(),
        }
    }
}

/// Declares an enumeration whose values have one name each, on the command line, in filters and in reports.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] #[value(name = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The value's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

pub(crate) use named;

named! {
    /// How bad a broken promise is.
    Severity {
        /// The deployment does not start, or a core function is dead, or the room is not locked.
        Critical = "critical",
        /// Something leaks, is lost, or is wrong for some users.
        High = "high",
        /// A client or an operator is misled.
        Medium = "medium",
        /// A blemish.
        Low = "low",
    }
}

named! {
    /// How much of a deployment the suite may touch; each profile holds the ones before it.
    Profile {
        /// HTTP only.
        Core = "core",
        /// Also the Docker socket and the socket directories on the host.
        Host = "host",
        /// Also starts, breaks and stops deployments.
        Full = "full",
    }
}

named! {
    /// Something the suite needs in order to run a scenario.
    Capability {
        /// Reaches the Docker engine that holds the rooms, and the host's file system.
        Docker = "docker",
        /// Starts deployments of its own, with settings of its own.
        Launch = "launch",
        /// The deployment's model is the scripted one, so a prompt decides what it says.
        Model = "model",
        /// Runs origins of its own that a room may be allowed to reach.
        Origin = "origin",
        /// A Redis server of the suite's own, from the machine's package.
        Redis = "redis",
        /// A PostgreSQL server of the suite's own, from the machine's package.
        Postgres = "postgres",
        /// A Prometheus server of the suite's own, from the machine's package.
        Prometheus = "prometheus",
        /// Schemathesis, which makes requests out of an API's description.
        Schemathesis = "schemathesis",
        /// The server's image is on the engine, and Docker's command line here, so that a server can be started in a container.
        ServerImage = "server-image",
        /// Compose, this project's Compose file, and the images that it names.
        Compose = "compose",
        /// The suite runs as root, so that it can mount file systems.
        Mount = "mount",
        /// The suite runs as root and finds `dockerd`, so that it can have an engine to stop and start.
        OwnEngine = "own-engine",
        /// The room's image is on the engine, so that containers and images can be made from it.
        Image = "image",
        /// The recipe of the room's image, and Docker's command line, so that images can be built by it.
        Build = "build",
        /// The deployment has the operator's routes, below `/api/admin`.
        Admin = "admin",
        /// A run can be followed, and read again, by `GET …/stream`.
        Resume = "resume",
        /// A conversation's files can be listed, read and written.
        Files = "files",
    }
}
