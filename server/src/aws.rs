//! Credentials of this server at AWS.

use aws_credential_types::provider::SharedCredentialsProvider;

/// The standard AWS credential chain: environment, profile, container, instance. Nothing is fetched before the first request has
/// to be signed; what was fetched is kept and refreshed before it expires.
pub async fn credentials(region: &str) -> Option<SharedCredentialsProvider> {
    use aws_smithy_http_client::{Builder, tls};
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_config::from_env()
        .region(aws_config::Region::new(region.to_owned()))
        .http_client(Builder::new().tls_provider(ring).build_https())
        .load()
        .await
        .credentials_provider()
}
