//! Capabilities that many scenarios need.

use crate::harness::vocabulary::Capability;

/// For a launched deployment with the scripted model, whose workspaces the scenario inspects.
pub(crate) const RUN: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model];
