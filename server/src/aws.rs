//! Credentials of this server at AWS.

use aws_credential_types::provider::SharedCredentialsProvider;

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

/// Keys of a role that is assumed with this server's own credentials. Nothing is fetched before the first request has to be signed.
pub async fn role(region: &str, role_arn: &str, external_id: &str) -> SharedCredentialsProvider {
    use aws_config::sts::AssumeRoleProvider;
    let provider = AssumeRoleProvider::builder(role_arn)
        .external_id(external_id)
        .session_name("nagaya")
        .region(aws_config::Region::new(region.to_owned()))
        .configure(&configuration(region).await)
        .build()
        .await;
    SharedCredentialsProvider::new(provider)
}
