//! The proxy: policy, credentials and connections, shared by all its listeners.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::provider::SharedCredentialsProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::UnixListener;

use crate::allow::AllowList;
use crate::buffers::Buffers;
use crate::credentials::CredentialRules;
use crate::dialer::Dialer;
use crate::host::Host;
use crate::listener::Listener;
use crate::policy::{Explanation, Ground, Layer, Policy, PolicyError, PolicySpec, Question, explain, unreachable};
use crate::quota;
use crate::resolver::Resolver;
use crate::settings::{Limits, Settings, SetupError};
use crate::sigv4::Signer;
use crate::trail::{Identity, Trail};

/// A proxy: policy, credentials and connections, shared by all its listeners.
pub struct Egress {
    /// The operator's layer of every policy.
    operator: Layer,
    credentials: CredentialRules,
    /// The policy of listeners that get no other one.
    plain: Arc<Policy>,
    pub(crate) gateway: Option<Host>,
    pub(crate) limits: Limits,
    pub(crate) signer: Signer,
    pub(crate) resolver: Resolver,
    pub(crate) opaque: AllowList,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) quotas: Arc<quota::Shared>,
    pub(crate) buffers: Buffers,
    pub(crate) trail: Arc<dyn Trail>,
    pub(crate) listeners: AtomicUsize,
    pub(crate) tunnels: AtomicUsize,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("listeners", &self.open_listeners()).finish_non_exhaustive()
    }
}

impl Egress {
    /// A proxy without a listener. `aws` is the credential chain that signatures are made with; each request's record goes to
    /// `trail`.
    ///
    /// # Errors
    /// The gateway is no host name, or `extra_ca_pem` holds no certificate.
    pub fn new(
        settings: Settings,
        aws: Option<SharedCredentialsProvider>,
        trail: Arc<dyn Trail>,
    ) -> Result<Arc<Self>, SetupError> {
        let gateway =
            settings.gateway.map(|text| Host::parse(&text).map_err(|_| SetupError::Gateway(text))).transpose()?;
        let limits = within_descriptors(settings.limits);
        let tls = tls(settings.extra_ca_pem.as_deref())?;
        Ok(Arc::new(Self {
            operator: Layer { name: "operator".into(), rules: settings.allowed.into_rules(), allows_rest: false },
            plain: Arc::new(Policy::operator()),
            credentials: settings.credentials,
            gateway,
            limits,
            signer: Signer::new(aws),
            resolver: Resolver::new(settings.networks, settings.pins, &settings.name_servers),
            opaque: settings.opaque,
            dialer: Arc::new(Dialer::new(tls, limits.connect)),
            quotas: quota::Shared::new(&limits),
            buffers: Buffers::default(),
            trail,
            listeners: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
        }))
    }

    /// Serves every connection to `socket` as `identity`, within the operator's settings alone and as if a run were active. The caller
    /// removes the socket's file.
    #[must_use]
    pub fn open(self: &Arc<Self>, socket: UnixListener, identity: Identity) -> Listener {
        Listener::open(self.clone(), socket, identity, self.plain.clone(), true)
    }

    /// As [`Self::open`], with a policy, and outside runs: see [`Listener::running`]. A listener that belongs to nobody yet
    /// gets [`Policy::closed`].
    #[must_use]
    pub fn open_with(self: &Arc<Self>, socket: UnixListener, identity: Identity, policy: Arc<Policy>) -> Listener {
        Listener::open(self.clone(), socket, identity, policy, false)
    }

    /// Builds a policy of which every rule and every credential can take effect within the operator's settings. [`Policy::new`] accepts
    /// also what these do not allow, and it stays without effect.
    ///
    /// # Errors
    /// What cannot be read, or all rules beyond the layers around them and all credentials for hosts that may not be reached, each with
    /// its place.
    pub fn policy(&self, spec: PolicySpec) -> Result<Policy, Vec<PolicyError>> {
        let policy = Policy::new(spec.clone()).map_err(|error| vec![error])?;
        let unreachable = unreachable(&self.operator, &spec, &policy);
        if unreachable.is_empty() { Ok(policy) } else { Err(unreachable) }
    }

    /// What would happen to a request under a policy, and why: the same function decides as for requests. Nothing is resolved or
    /// connected to.
    ///
    /// # Errors
    /// The URL or the method cannot be read.
    pub fn explain(&self, policy: &Policy, question: &Question) -> Result<Explanation, PolicyError> {
        explain(self.ground(), policy, question)
    }

    pub(crate) fn ground(&self) -> Ground<'_> {
        Ground { operator: &self.operator, credentials: self.credentials.all() }
    }

    /// Why requests do not get their credentials, one message each, as far as is known: AWS is not asked.
    #[must_use]
    pub fn credential_problems(&self) -> Vec<String> {
        let mut problems = self.credentials.missing_secrets();
        problems.extend(self.signer.chain.problem().filter(|_| self.credentials.need_aws()));
        problems
    }

    /// Fetches AWS credentials if a rule needs them and it is not known whether there are any. May take ten seconds.
    pub async fn look_for_credentials(&self) {
        if self.credentials.need_aws()
            && self.signer.chain.is_unknown()
            && let Err(error) = self.signer.chain.credentials().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "requests cannot be signed");
        }
    }

    /// Number of open listeners.
    #[must_use]
    pub fn open_listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// Number of open tunnels.
    #[must_use]
    pub fn open_tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }
}

/// Reduces the common part of descriptors to a quarter of those this process may have. The rest of the process needs some too;
/// without any it cannot even refuse a connection.
fn within_descriptors(limits: Limits) -> Limits {
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let quarter = soft.map_or(usize::MAX, |soft| usize::try_from(soft / 4).unwrap_or(usize::MAX));
    if limits.descriptors > quarter {
        tracing::warn!(wanted = limits.descriptors, given = quarter, "few descriptors: raise the limit (ulimit -n)");
    }
    Limits { descriptors: limits.descriptors.min(quarter), ..limits }
}

/// TLS to targets: the system's authorities and any further ones.
fn tls(extra_ca_pem: Option<&[u8]>) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a certificate of the system was not read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(pem) = extra_ca_pem {
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| SetupError::ExtraCa(error.to_string()))?;
            roots.add(certificate).map_err(|error| SetupError::ExtraCa(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(SetupError::ExtraCa("no certificate in it; PEM is accepted".into()));
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Adds one to a counter until it is dropped.
pub(crate) struct Gauge(Arc<Egress>, fn(&Egress) -> &AtomicUsize);

impl Gauge {
    pub(crate) fn raise(egress: &Arc<Egress>, which: fn(&Egress) -> &AtomicUsize) -> Self {
        which(egress).fetch_add(1, Ordering::Relaxed);
        Self(egress.clone(), which)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}
