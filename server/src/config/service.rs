//! Settings of the service: address, keys, rate limit, logs, shutdown.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use nagaya_workspace::OnShutdown;

use super::reader::Reader;
use super::{oidc, units};
use crate::api::Environment;
use crate::api::auth::{ApiKeys, OidcSettings};
use crate::api::rate_limit::RateLimit;
use nagaya_telemetry::logs::{LogFormat, LogSettings};

/// Settings of the service.
#[derive(Debug, Clone)]
pub struct Service {
    /// `APP_ENV`: decides where keys are required.
    pub environment: Environment,
    /// `BIND_ADDR`: address and port to listen on.
    pub bind: SocketAddr,
    /// `API_KEYS`: keys of operators and tenants.
    pub keys: ApiKeys,
    /// `OIDC_…`: the issuer whose tokens are accepted, if any.
    pub oidc: Option<OidcSettings>,
    /// `RATE_LIMIT_REQUESTS`, `RATE_LIMIT_PERIOD`: rate limit of each key; `None` for no limit.
    pub rate_limit: Option<RateLimit>,
    /// `SHUTDOWN_TIMEOUT`: time that runs get to end after SIGTERM.
    pub shutdown_timeout: Duration,
    /// `SHUTDOWN_WORKSPACES`: whether workspaces outlive the server.
    pub at_shutdown: OnShutdown,
    /// `LOG_LEVEL`, `LOG_FORMAT`: verbosity and format of the log.
    pub logs: LogSettings,
}

impl Service {
    pub(super) fn read(r: &mut Reader) -> Self {
        let environment = r.get("APP_ENV", "development", "development, production", |text| match text {
            "development" => Some(Environment::Development),
            "production" => Some(Environment::Production),
            _ => None,
        });
        let bind: SocketAddr = r.get(
            "BIND_ADDR",
            "127.0.0.1:8000",
            "an address and port, for example 127.0.0.1:8000 or [::1]:8000",
            |text| text.parse().ok(),
        );
        let keys = r.secret("API_KEYS", ApiKeys::parse);
        let oidc = oidc::read(r);
        let open = keys.is_empty() && oidc.is_none();
        if open && environment == Environment::Production {
            r.error(
                "API_KEYS: APP_ENV=production requires at least one key, KEY (operator) or TENANT:KEY, or OIDC_ISSUER",
            );
        }
        if open && !bind.ip().is_loopback() {
            r.error(format!(
                "BIND_ADDR={bind}: without API_KEYS only a loopback address is accepted; set API_KEYS to listen on this one"
            ));
        }
        Self {
            environment,
            bind,
            keys,
            oidc,
            rate_limit: rate_limit(r),
            shutdown_timeout: r.get("SHUTDOWN_TIMEOUT", "30", units::DURATION, units::duration),
            at_shutdown: r.get("SHUTDOWN_WORKSPACES", "keep", "keep, destroy", |text| match text {
                "keep" => Some(OnShutdown::Keep),
                "destroy" => Some(OnShutdown::Destroy),
                _ => None,
            }),
            logs: LogSettings {
                level: r.get("LOG_LEVEL", "info", "error, warn, info, debug, trace", |text| text.parse().ok()),
                format: r.get("LOG_FORMAT", "auto", "json, text, auto", |text| match text {
                    "json" => Some(LogFormat::Json),
                    "text" => Some(LogFormat::Text),
                    "auto" => Some(LogFormat::Auto),
                    _ => None,
                }),
            },
        }
    }
}

fn rate_limit(r: &mut Reader) -> Option<RateLimit> {
    let requests = r.get("RATE_LIMIT_REQUESTS", "100", "a whole number from 0 to 1000000; 0 means no limit", |text| {
        text.parse().ok().filter(|number| *number <= 1_000_000u32)
    });
    let period = r.get("RATE_LIMIT_PERIOD", "60", "a time from 1s to 24h", |text| {
        units::duration(text).filter(|time| (1..=86_400).contains(&time.as_secs()))
    });
    NonZeroU32::new(requests).map(|requests| RateLimit { requests, period })
}
