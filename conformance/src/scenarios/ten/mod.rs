//! TEN: what a tenant decides.

mod first_key;
mod idempotency;
mod keys;
mod revocation;
mod scopes;
mod tokens;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    first_key::SCENARIOS,
    idempotency::SCENARIOS,
    keys::SCENARIOS,
    revocation::SCENARIOS,
    scopes::SCENARIOS,
    tokens::SCENARIOS,
];
