//! The connection to Redis: opened when it is needed, closed when it fails, with a deadline on every call.
//!
//! One multiplexed connection serves all calls. The client's own `ConnectionManager` is not used: it never replaces a connection that
//! was refused while Redis was loading or a password was wrong.

use std::fmt;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};
use tokio::sync::Mutex;

use super::StateError;
use crate::backoff::Backoff;

/// Time limit for one call, including the time to connect.
const DEADLINE: Duration = Duration::from_secs(2);
/// First and longest pause after a failed connection, during which calls fail with the same error.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Error codes with which Redis rejects credentials.
const AUTH_ERRORS: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];

/// Address and credentials of Redis. Its text form leaves user and password out.
#[derive(Clone)]
pub struct RedisAddress(ConnectionInfo);

impl RedisAddress {
    /// Parses `redis://[user:password@]host[:port][/db]`, the same with `rediss` for TLS, or `unix:///path`.
    ///
    /// # Errors
    /// The reason why the address is not valid; it does not repeat the address, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const ACCEPTED: &str = "accepted: redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path";
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("redis" | "rediss" | "unix")) {
            return Err(ACCEPTED.into());
        }
        let info = text.into_connection_info().map_err(|error| format!("{}; {ACCEPTED}", error.category()))?;
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                Err("#insecure is not accepted: a certificate is always verified".into())
            }
            _ => Ok(Self(info)),
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.addr() {
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}")?,
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}")?,
            ConnectionAddr::Unix(path) => write!(f, "unix://{}", path.display())?,
            _ => f.write_str("redis")?,
        }
        write!(f, "/{}", self.0.redis_settings().db())
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The connection, reopened on demand.
#[derive(Debug)]
pub(super) struct Link {
    address: RedisAddress,
    client: Client,
    state: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    open: Option<(u64, MultiplexedConnection)>,
    /// Number of connections opened so far. A call that finds its connection broken must not close a later one.
    opened: u64,
    /// The last failed attempt: its time, the pause after it, and the error.
    failed: Option<(Instant, Duration, RedisError)>,
    /// Pauses after failed attempts; reset by one that succeeds.
    backoff: Backoff,
}

impl Link {
    pub(super) fn new(address: RedisAddress) -> Result<Self, StateError> {
        let connection = Connection { open: None, opened: 0, failed: None, backoff: Backoff::new(PAUSE) };
        match Client::open(address.0.clone()) {
            Ok(client) => Ok(Self { address, client, state: Mutex::new(connection) }),
            Err(error) => Err(StateError::Unavailable { address: address.to_string(), why: error.to_string() }),
        }
    }

    /// Runs `work` with the connection, within the deadline.
    pub(super) async fn with<T, F>(&self, work: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let call = async {
            let (number, connection) = self.connection().await?;
            // If the deadline drops this future while a response is pending, the next call on the connection would wait
            // behind it, so the connection is closed.
            let closing = Closing { link: self, number, armed: true };
            let result = work(connection).await;
            closing.disarm_if(result.as_ref().err().is_none_or(|error| !is_broken(error)));
            result
        };
        match tokio::time::timeout(DEADLINE, call).await {
            Ok(result) => result.map_err(Failure::of),
            Err(_) => Err(Failure::Timeout),
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok(open.clone());
        }
        if let Some((since, pause, error)) = &state.failed
            && since.elapsed() < *pause
        {
            return Err(error.clone());
        }
        let pause = state.backoff.take();
        // The client's own time limits are turned off in favour of the deadline of the call, whose error message is clearer.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        // Recorded before the attempt, because the deadline may drop this future.
        let timeout = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to the last attempt to connect");
        state.failed = Some((Instant::now(), pause, timeout.into()));
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                state.failed = None;
                state.backoff.reset();
                state.opened += 1;
                let open = (state.opened, connection);
                state.open = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), pause, error.clone()));
                Err(error)
            }
        }
    }

    /// Converts a failure into an error with the address.
    pub(super) fn error(&self, failure: Failure) -> StateError {
        let address = self.address.to_string();
        match failure {
            Failure::NoSuchKey => StateError::Unavailable { address, why: "no such key".into() },
            Failure::WrongType => StateError::Unavailable { address, why: "a key holds another type".into() },
            Failure::Timeout => StateError::Unavailable { address, why: format!("no answer within {DEADLINE:?}") },
            Failure::Redis(error) => {
                let rejected = error.kind() == redis::ErrorKind::AuthenticationFailed
                    || error.code().is_some_and(|code| AUTH_ERRORS.contains(&code));
                let why = error.to_string();
                if rejected { StateError::Refused { address, why } } else { StateError::Unavailable { address, why } }
            }
        }
    }

    pub(super) async fn close(&self) {
        self.state.lock().await.open = None;
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The key to be renamed does not exist.
    NoSuchKey,
    /// The key holds another type than was asked for.
    WrongType,
    /// Any other error.
    Redis(RedisError),
    /// No answer within the deadline.
    Timeout,
}

impl Failure {
    /// Redis has a code for the wrong type; a missing key has the general code `ERR` and is known by its message alone.
    fn of(error: RedisError) -> Self {
        let text = error.to_string();
        if error.code() == Some("WRONGTYPE") || text.contains("WRONGTYPE") {
            Self::WrongType
        } else if text.contains("no such key") {
            Self::NoSuchKey
        } else {
            Self::Redis(error)
        }
    }
}

/// Whether an error concerns the connection and not the command.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_unrecoverable_error()
}

/// Closes the connection when dropped, unless the call has completed without a connection error.
struct Closing<'a> {
    link: &'a Link,
    number: u64,
    armed: bool,
}

impl Closing<'_> {
    fn disarm_if(mut self, usable: bool) {
        self.armed = !usable;
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // If the lock is held, its holder is opening a new connection, so this one is closed already.
        if self.armed
            && let Ok(mut state) = self.link.state.try_lock()
            && state.open.as_ref().is_some_and(|(number, _)| *number == self.number)
        {
            state.open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_displayed_without_credentials() {
        for (text, shown) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://:hunter2@h:1/3", "redis://h:1/3"),
            ("rediss://u:hunter2@h", "rediss://h:6379/0"),
            ("unix:///run/r.sock", "unix:///run/r.sock/0"),
        ] {
            let address = RedisAddress::parse(text).expect(text);
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("hunter2"));
        }
        for junk in
            ["", "h:6379", "http://h", "redis://", "redis://h/x:hunter2", "rediss://h/#insecure", "redis://u:hunter2@"]
        {
            let error = RedisAddress::parse(junk).expect_err(junk);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
