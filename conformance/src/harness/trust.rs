//! TLS for targets behind `https://`.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Certificate authorities that a client trusts.
#[derive(Debug, Clone)]
pub struct Trust(RootCertStore);

impl Default for Trust {
    /// Nobody is trusted.
    fn default() -> Self {
        Self(RootCertStore::empty())
    }
}

impl Trust {
    /// This machine's authorities, and those in the PEM file `ca`.
    ///
    /// # Errors
    /// The file cannot be read, has no certificate, or neither has this machine.
    pub fn load(ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // A bundle of the machine's may have entries that rustls does not accept; they are of no use to it either way.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca {
            let fault = |why: String| format!("{}: {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let found = found.map_err(|error| fault(format!("not a PEM file: {error}")))?;
            if found.is_empty() {
                return Err(fault("no certificate in it".to_owned()));
            }
            for certificate in found {
                roots.add(certificate).map_err(|error| fault(error.to_string()))?;
            }
        }
        if roots.is_empty() {
            return Err("this machine has no certificate authorities; name a file with them".to_owned());
        }
        Ok(Self(roots))
    }

    /// The configuration of a client that trusts only these.
    pub(crate) fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        Ok(builder.with_root_certificates(self.0.clone()).with_no_client_auth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        for (content, says) in [
            ("", "no certificate"),
            ("not PEM at all", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ca.pem"),
        ] {
            std::fs::write(&path, content).expect("written");
            let why = Trust::load(Some(&path)).expect_err("no authority");
            assert!(why.contains(says) && why.contains("ca.pem"), "{content:?}: {why}");
        }
        assert!(Trust::load(Some(&dir.path().join("none"))).expect_err("no file").contains("none"));
    }
}
