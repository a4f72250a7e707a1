//! The outcome of a scenario, the verdict over a run, and the exit status for it.

use std::process::ExitCode;

use serde::Serialize;
use strum::{Display, IntoStaticStr, VariantArray};

use crate::harness::failure::{Failure, Kind};

/// How one scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Display, IntoStaticStr, VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Outcome {
    /// The promise is kept.
    Pass,
    /// The promise is broken.
    Fail,
    /// The suite, or something it depends on, failed.
    Error,
    /// The scenario exceeded its time limit.
    Timeout,
    /// The promise does not apply to this deployment.
    NotApplicable,
    /// Something the scenario needs is missing.
    CouldNotRun,
    /// The promise is broken, and the list of known failures contains the scenario.
    KnownFailure,
}

impl Outcome {
    /// The outcome for the result of a body.
    #[must_use]
    pub fn of(result: &Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Pass,
            Err(failure) => match failure.kind {
                Kind::Assertion => Self::Fail,
                Kind::Harness => Self::Error,
                Kind::CouldNotRun => Self::CouldNotRun,
                Kind::NotApplicable => Self::NotApplicable,
            },
        }
    }

    /// The outcome of a scenario on the list of known failures. A pass becomes a failure, because the list is wrong.
    #[must_use]
    pub fn known_to_fail(self) -> Self {
        match self {
            Self::Fail | Self::Timeout => Self::KnownFailure,
            Self::Pass => Self::Fail,
            other => other,
        }
    }
}

/// The result of a run for the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Display, IntoStaticStr, VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Verdict {
    /// Every selected scenario ran, and none found a broken promise.
    Conformant,
    /// A promise is broken.
    NonConformant,
    /// No broken promise was found, but not every selected scenario could run; or the target changed during the run.
    Incomplete,
}

impl Verdict {
    /// The verdict over `outcomes`. `missing` counts scenarios that belong to the claimed profile and were left out of the run.
    /// With `strict`, every outcome other than a pass counts as a failure.
    #[must_use]
    pub fn over(outcomes: &[Outcome], missing: usize, strict: bool) -> Self {
        let broken = |outcome: &Outcome| match outcome {
            Outcome::Fail | Outcome::Timeout => true,
            Outcome::Pass => false,
            _ => strict,
        };
        let unknown = |outcome: &Outcome| matches!(outcome, Outcome::Error | Outcome::CouldNotRun);
        let nothing_seen = !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Pass | Outcome::KnownFailure));
        if outcomes.iter().any(broken) {
            Self::NonConformant
        } else if missing > 0 || nothing_seen || outcomes.iter().any(unknown) {
            Self::Incomplete
        } else {
            Self::Conformant
        }
    }

    /// The process's exit status for this verdict.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self::Conformant => Exit::Conformant,
            Self::NonConformant => Exit::NonConformant,
            Self::Incomplete => Exit::Incomplete,
        }
    }
}

/// Exit statuses of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The deployment keeps its promises; for commands other than `run`: success.
    Conformant = 0,
    /// The deployment breaks a promise.
    NonConformant = 1,
    /// Not every selected scenario could run.
    Incomplete = 2,
    /// The target cannot be reached, or something the run needs could not be set up.
    Setup = 3,
    /// The filter or the profile selects nothing.
    NothingSelected = 4,
    /// The command line is invalid (`EX_USAGE`).
    Usage = 64,
    /// The suite itself failed, for example to write its report (`EX_SOFTWARE`).
    Internal = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_outweighs_everything() {
        for other in Outcome::VARIANTS.iter().copied() {
            assert_eq!(Verdict::over(&[other, Outcome::Fail], 3, false), Verdict::NonConformant);
            assert_eq!(Verdict::over(&[Outcome::Timeout, other], 0, false), Verdict::NonConformant);
        }
    }

    #[test]
    fn a_scenario_that_did_not_run_prevents_conformance() {
        assert_eq!(Verdict::over(&[Outcome::Pass, Outcome::CouldNotRun], 0, false), Verdict::Incomplete);
        assert_eq!(Verdict::over(&[Outcome::Pass, Outcome::Error], 0, false), Verdict::Incomplete);
        assert_eq!(
            Verdict::over(&[Outcome::Pass], 1, false),
            Verdict::Incomplete,
            "a claimed profile must be run whole"
        );
        assert_eq!(Verdict::over(&[], 0, false), Verdict::Incomplete);
        assert_eq!(Verdict::over(&[Outcome::NotApplicable], 0, false), Verdict::Incomplete);
    }

    #[test]
    fn strict_counts_everything_but_a_pass_as_a_failure() {
        for excused in [Outcome::KnownFailure, Outcome::NotApplicable] {
            assert_eq!(Verdict::over(&[Outcome::Pass, excused], 0, false), Verdict::Conformant);
            assert_eq!(Verdict::over(&[Outcome::Pass, excused], 0, true), Verdict::NonConformant);
        }
        assert_eq!(Verdict::over(&[Outcome::Pass, Outcome::CouldNotRun], 0, true), Verdict::NonConformant);
        assert_eq!(Verdict::over(&[Outcome::Pass], 0, true), Verdict::Conformant);
    }

    #[test]
    fn a_known_failure_that_passes_is_a_failure() {
        assert_eq!(Outcome::Pass.known_to_fail(), Outcome::Fail);
        assert_eq!(Outcome::Fail.known_to_fail(), Outcome::KnownFailure);
        assert_eq!(Outcome::Timeout.known_to_fail(), Outcome::KnownFailure);
        assert_eq!(Outcome::CouldNotRun.known_to_fail(), Outcome::CouldNotRun);
        assert_eq!(Outcome::Error.known_to_fail(), Outcome::Error);
    }

    #[test]
    fn exit_statuses() {
        let statuses: Vec<u8> = Verdict::VARIANTS.iter().map(|verdict| verdict.exit() as u8).collect();
        assert_eq!(statuses, [0, 1, 2]);
    }
}
