//! What becomes of a scenario, and what a run's outcomes add up to.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use crate::failure::{Failure, Kind};
use crate::scenario::named;

named! {
    /// How one scenario ended.
    Outcome {
        /// The promise is kept.
        Pass = "pass",
        /// The promise is broken.
        Fail = "fail",
        /// The suite, or something it stands on, broke.
        Error = "error",
        /// The scenario's time was up.
        Timeout = "timeout",
        /// The promise does not concern this deployment.
        NotApplicable = "not-applicable",
        /// What the scenario needs is not there.
        CouldNotRun = "could-not-run",
        /// The promise is broken, and the list of known failures says so.
        KnownFailure = "known-failure",
    }
}

impl Outcome {
    /// How a body's result is to be read.
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

    /// What is left of it when the scenario is on the list of known failures: a pass is then a failure, since the list is
    /// wrong.
    #[must_use]
    pub fn known_to_fail(self) -> Self {
        match self {
            Self::Fail | Self::Timeout => Self::KnownFailure,
            Self::Pass => Self::Fail,
            other => other,
        }
    }
}

named! {
    /// What a run says about the deployment.
    Verdict {
        /// Every scenario that was asked for ran, and none found a broken promise.
        Conformant = "conformant",
        /// A promise is broken.
        NonConformant = "non-conformant",
        /// No promise was found broken, but not everything that was asked for could be looked at.
        Incomplete = "incomplete",
    }
}

impl Verdict {
    /// The verdict over `outcomes`; `missing` counts scenarios that the claimed profile holds and the run left out.
    /// With `strict`, whatever is not a pass breaks the claim.
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
    /// The deployment keeps its promises; for commands other than `run`: done.
    Conformant = 0,
    /// It does not.
    NonConformant = 1,
    /// Not everything could be looked at.
    Incomplete = 2,
    /// The target cannot be reached, or what the run needs could not be set up.
    Setup = 3,
    /// The filter or the profile selects nothing.
    NothingSelected = 4,
    /// The command line is wrong (`EX_USAGE`).
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
        for other in Outcome::ALL {
            assert_eq!(Verdict::over(&[other, Outcome::Fail], 3, false), Verdict::NonConformant);
            assert_eq!(Verdict::over(&[Outcome::Timeout, other], 0, false), Verdict::NonConformant);
        }
    }

    #[test]
    fn what_was_not_seen_is_never_conformant() {
        assert_eq!(Verdict::over(&[Outcome::Pass, Outcome::CouldNotRun], 0, false), Verdict::Incomplete);
        assert_eq!(Verdict::over(&[Outcome::Pass, Outcome::Error], 0, false), Verdict::Incomplete);
        assert_eq!(Verdict::over(&[Outcome::Pass], 1, false), Verdict::Incomplete, "a profile pins its scenarios");
        assert_eq!(Verdict::over(&[], 0, false), Verdict::Incomplete);
        assert_eq!(Verdict::over(&[Outcome::NotApplicable], 0, false), Verdict::Incomplete);
    }

    #[test]
    fn strict_excuses_nothing() {
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
        let statuses = Verdict::ALL.map(|verdict| verdict.exit() as u8);
        assert_eq!(statuses, [0, 1, 2]);
    }
}
