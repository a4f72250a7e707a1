//! A scenario: one value, declared in the file of its body.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use strum::VariantArray as _;

use crate::contract;
use crate::harness::context::Context;
use crate::harness::failure::Failure;
use crate::harness::vocabulary::{Capability, Profile, Severity};

/// A scenario's body. It returns once everything it had to show is shown, or at the first check that fails.
pub type Body = for<'c> fn(&'c Context) -> BoxFuture<'c, Result<(), Failure>>;

/// The time limit of a scenario that does not set its own.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// One thing a deployment promises, and how to find out whether it keeps the promise.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// `FAMILY-NUMBER`, with a suffix where one promise has several scenarios (`BUG-10-GONE`). Never reused.
    pub id: &'static str,
    /// What is expected, as a sentence without a full stop.
    pub title: &'static str,
    /// How bad it is when the promise is broken.
    pub severity: Severity,
    /// What is tested, in short; [`Scenario::clauses`] say it in the words of the contract.
    pub requirement: &'static str,
    /// What the suite must be able to reach or do.
    pub requires: &'static [Capability],
    /// The smallest profile that includes this scenario; larger profiles include it too.
    pub profile: Profile,
    /// Whether it breaks or removes things that it did not make.
    pub destructive: bool,
    /// How long the body may take; clean-up has its own deadline.
    pub limit: Duration,
    /// The body.
    pub body: Body,
    /// Where it is registered.
    location: &'static Location<'static>,
}

impl Scenario {
    /// A scenario of medium severity in the smallest profile that needs nothing but HTTP. Its source is the place of this call.
    #[must_use]
    #[track_caller]
    pub const fn new(id: &'static str, title: &'static str, requirement: &'static str, body: Body) -> Self {
        Self {
            id,
            title,
            severity: Severity::Medium,
            requirement,
            requires: &[],
            profile: Profile::Core,
            destructive: false,
            limit: DEFAULT_LIMIT,
            body,
            location: Location::caller(),
        }
    }

    /// How bad it is when the promise is broken.
    #[must_use]
    pub const fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// What the suite must be able to reach or do.
    #[must_use]
    pub const fn requires(mut self, requires: &'static [Capability]) -> Self {
        self.requires = requires;
        self
    }

    /// The smallest profile that includes this scenario.
    #[must_use]
    pub const fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// It breaks or removes things that it did not make.
    #[must_use]
    pub const fn destructive(mut self) -> Self {
        self.destructive = true;
        self
    }

    /// How many seconds the body may take.
    #[must_use]
    pub const fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// The part of the id before the first dash.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.id.split('-').next().unwrap_or(self.id)
    }

    /// Every profile that includes this scenario.
    #[must_use]
    pub fn profiles(&self) -> Vec<Profile> {
        Profile::VARIANTS.iter().copied().filter(|profile| *profile >= self.profile).collect()
    }

    /// The numbers of the clauses of the contract that it tests.
    #[must_use]
    pub fn clauses(&self) -> Vec<&'static str> {
        contract::tested_by(self.id).into_iter().map(|clause| clause.number).collect()
    }

    /// The file that registers it, relative to the root of the repository: Cargo compiles the members of a workspace from there.
    #[must_use]
    pub const fn file(&self) -> &'static str {
        self.location.file()
    }

    /// The line of [`Scenario::file`] that registers it.
    #[must_use]
    pub const fn line(&self) -> u32 {
        self.location.line()
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario").field("id", &self.id).field("title", &self.title).finish_non_exhaustive()
    }
}

/// The published description of a scenario: an element of `list --json`.
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
    /// As [`Scenario::clauses`].
    pub clauses: Vec<&'static str>,
    /// As [`Scenario::requires`].
    pub requires: &'static [Capability],
    /// As [`Scenario::profiles`].
    pub profiles: Vec<Profile>,
    /// As [`Scenario::destructive`].
    pub destructive: bool,
    /// [`Scenario::limit`] in seconds.
    pub limit_seconds: u64,
    /// As [`Scenario::file`].
    pub file: &'static str,
    /// As [`Scenario::line`].
    pub line: u32,
}

impl From<&Scenario> for Listing {
    fn from(scenario: &Scenario) -> Self {
        Self {
            id: scenario.id,
            title: scenario.title,
            family: scenario.family(),
            severity: scenario.severity,
            requirement: scenario.requirement,
            clauses: scenario.clauses(),
            requires: scenario.requires,
            profiles: scenario.profiles(),
            destructive: scenario.destructive,
            limit_seconds: scenario.limit.as_secs(),
            file: scenario.file(),
            line: scenario.line(),
        }
    }
}
