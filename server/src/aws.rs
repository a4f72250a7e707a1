//! Credentials of this server at AWS.

use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

/// The standard AWS credential chain: environment, profile, container, instance. Nothing is fetched before the first request has
/// to be signed; what was fetched is kept and refreshed before it expires.
pub async fn credentials(region: &str) -> Option<SharedCredentialsProvider> {
    configuration(region).await.credentials_provider()
}

async fn configuration(region: &str) -> aws_config::SdkConfig {
    use aws_smithy_http_client::{Builder, tls};
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_config::from_env()
        .region(aws_config::Region::new(region.to_owned()))
        .http_client(Builder::new().tls_provider(ring).build_https())
        .load()
        .await
}

/// Keys of a role that is assumed with this server's own credentials, for a tenant's vault. Nothing is fetched before the first request
/// has to be signed. Where the role is refused, the log has the role, the external id, and what AWS said.
pub async fn role(region: &str, role_arn: &str, external_id: &str) -> SharedCredentialsProvider {
    let keys = AssumeRoleProvider::builder(role_arn)
        .external_id(external_id)
        .session_name("nagaya")
        .region(aws_config::Region::new(region.to_owned()))
        .configure(&configuration(region).await)
        .build()
        .await;
    SharedCredentialsProvider::new(Role { role_arn: role_arn.to_owned(), external_id: external_id.to_owned(), keys })
}

#[derive(Debug)]
struct Role {
    role_arn: String,
    external_id: String,
    keys: AssumeRoleProvider,
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let keys = self.keys.provide_credentials().await;
            if let Err(error) = &keys {
                let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
                let why = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                tracing::error!(
                    role = self.role_arn,
                    external_id = self.external_id,
                    error = why,
                    "a vault's role cannot be assumed: requests that need it are refused; the role's trust policy must name this \
                     server's principal and the external id"
                );
            }
            keys
        })
    }
}
