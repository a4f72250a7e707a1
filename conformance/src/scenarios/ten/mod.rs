//! TEN: what a tenant decides, and that it holds for that tenant alone.

mod beyond;
mod documents;
mod explained;
mod first_key;
mod idempotency;
mod integrations;
mod keys;
mod kinds;
mod levels;
mod mirrors;
mod models;
mod oauth;
mod outcomes;
mod policies;
mod providers;
mod purposes;
mod rates;
mod revocation;
mod roles;
mod runs;
mod scopes;
mod servers;
mod tokens;
mod vaults;
mod workspaces;
mod world;

use crate::harness::scenario::Scenario;

/// The scenarios of each file.
pub(super) const FILES: &[&[Scenario]] = &[
    beyond::SCENARIOS,
    documents::SCENARIOS,
    explained::SCENARIOS,
    first_key::SCENARIOS,
    idempotency::SCENARIOS,
    integrations::SCENARIOS,
    keys::SCENARIOS,
    kinds::SCENARIOS,
    levels::SCENARIOS,
    mirrors::SCENARIOS,
    models::SCENARIOS,
    oauth::SCENARIOS,
    outcomes::SCENARIOS,
    policies::SCENARIOS,
    providers::SCENARIOS,
    purposes::SCENARIOS,
    rates::SCENARIOS,
    revocation::SCENARIOS,
    roles::SCENARIOS,
    runs::SCENARIOS,
    scopes::SCENARIOS,
    servers::SCENARIOS,
    tokens::SCENARIOS,
    vaults::SCENARIOS,
    workspaces::SCENARIOS,
];
