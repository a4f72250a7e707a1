//! What a run can reach and do. [`crate::target::probe`] finds it out before anything runs, so that no scenario fails half-way
//! because something is missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::harness::engine::Engine;
use crate::harness::trust::Trust;
use crate::harness::vocabulary::Capability;

/// What a run can do, and why it cannot do the rest.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    missing: BTreeMap<Capability, String>,
    /// The engine, if [`Capability::Docker`] is available.
    pub engine: Option<Engine>,
    /// The server's binary, if [`Capability::Launch`] is available.
    pub server: PathBuf,
    /// The workspace image; empty if the deployment's is not known.
    pub image: String,
    /// The certificate authorities of a target behind `https://`.
    pub trust: Trust,
    /// The fixtures' binary, if [`Capability::Model`] or [`Capability::Origin`] is available.
    pub fixtures: PathBuf,
}

impl Capabilities {
    /// Marks capabilities as missing; the first reason given for one stays.
    pub(crate) fn set_missing(&mut self, what: &[Capability], why: &str) {
        for capability in what {
            self.missing.entry(*capability).or_insert_with(|| why.to_owned());
        }
    }

    /// Whether everything in `needed` is available.
    ///
    /// # Errors
    /// The first capability that is missing, with the reason.
    pub fn check(&self, needed: &[Capability]) -> Result<(), String> {
        for capability in needed {
            if let Some(why) = self.missing.get(capability) {
                return Err(format!("needs {capability}: {why}"));
            }
        }
        Ok(())
    }

    /// Every missing capability, with the reason.
    pub fn missing(&self) -> impl Iterator<Item = (Capability, &str)> {
        self.missing.iter().map(|(capability, why)| (*capability, why.as_str()))
    }
}
