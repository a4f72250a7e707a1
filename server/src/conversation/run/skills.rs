//! The run's skills: taken from the store, and placed where the workspace reads them and cannot change them.

use nagaya_protocol::ROOM_SOCKET_DIR;
use sha2::{Digest, Sha256};

use super::Run;
use crate::conversation::skills::{Chosen, Files};
use nagaya_workspace::Lease;

/// Name of the driver's plugin that has the skills. The model knows them as `skills:NAME`.
pub(super) const PLUGIN: &str = "skills";

impl Run {
    /// The directories of plugins in the workspace.
    pub(super) fn plugins(&self) -> Vec<String> {
        match &self.order.bounds.skills[..] {
            [] => Vec::new(),
            chosen => vec![format!("{ROOM_SOCKET_DIR}/{PLUGIN}-{}", name(chosen))],
        }
    }

    /// Places the run's skills in the workspace, and removes those of earlier runs.
    ///
    /// # Errors
    /// They cannot be read from the store, or not be placed.
    pub(super) async fn place_skills(&self, lease: &Lease) -> Result<(), String> {
        let chosen = &self.order.bounds.skills;
        let name = (!chosen.is_empty()).then(|| name(chosen));
        let placed = lease.keep_placed(PLUGIN, name.as_deref()).await;
        let placed = placed.map_err(|error| format!("the skills of earlier runs cannot be removed: {error}"))?;
        let Some(name) = name.filter(|_| !placed) else { return Ok(()) };
        let tenant = &self.order.conversation.tenant_id;
        let manifest = self.services.driver.plugin(PLUGIN);
        let mut files: Vec<_> = manifest.into_iter().map(|(path, content)| (path, content.into_bytes())).collect();
        for Chosen { name, version, digest } in chosen {
            let failed = |why: &dyn std::fmt::Display| format!("the skill {name}@{version}: {why}");
            let content = self.services.store.skill_content(tenant, name, *version).await;
            let content = content.map_err(|error| failed(&error))?;
            let unpacked = Files::stored(&content, digest).and_then(|files| files.unpacked());
            for (path, content) in unpacked.map_err(|error| failed(&error))? {
                files.push((format!("skills/{name}/{path}"), content));
            }
        }
        lease.place(PLUGIN, &name, files).await.map_err(|error| format!("the skills cannot be placed: {error}"))
    }
}

/// A name for these versions of skills.
fn name(chosen: &[Chosen]) -> String {
    let mut digest = Sha256::new();
    for Chosen { name, digest: content, .. } in chosen {
        digest.update(name);
        digest.update("\0");
        digest.update(content);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_contents_have_another_name() {
        let of = |name: &str, digest: &str| Chosen { name: name.into(), version: 1, digest: digest.into() };
        assert_eq!(name(&[of("a", "b")]), name(&[Chosen { version: 2, ..of("a", "b") }]));
        assert_ne!(name(&[of("a", "b")]), name(&[of("a", "c")]));
        assert_ne!(name(&[of("a", "b"), of("c", "d")]), name(&[of("a", "b")]));
    }
}
