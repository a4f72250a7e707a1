//! The connection to Redis: made when it is needed, given up when it fails, and never waited for longer than a moment.
//!
//! One connection carries everything. The client's own reconnecting wrapper is not used: it keeps a connection that was
//! refused while Redis was loading, or while a password was wrong, for ever.

use std::fmt;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};
use tokio::sync::Mutex;

use super::StateError;

/// How long one call may take, connecting included.
const DEADLINE: Duration = Duration::from_secs(2);
/// First and longest time, after a failed connection, in which nobody tries again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What Redis says of a server it does not know, or whose password it does not like.
const REFUSALS: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];

/// Where Redis is and how it is entered. Shown without user and password.
#[derive(Clone)]
pub struct RedisAddress(ConnectionInfo);

impl RedisAddress {
    /// Reads `redis://[user:password@]host[:port][/db]`, the same with `rediss` for TLS, or `unix:///path`.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
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

/// The connection.
#[derive(Debug)]
pub(super) struct Link {
    address: RedisAddress,
    client: Client,
    state: Mutex<Connection>,
}

#[derive(Debug, Default)]
struct Connection {
    open: Option<(u64, MultiplexedConnection)>,
    /// Connections made so far: whoever finds one broken must not close a later one.
    made: u64,
    /// Since when, how long, and why nobody tries.
    failed: Option<(Instant, Duration, RedisError)>,
}

impl Link {
    pub(super) fn new(address: RedisAddress) -> Result<Self, StateError> {
        match Client::open(address.0.clone()) {
            Ok(client) => Ok(Self { address, client, state: Mutex::default() }),
            Err(error) => Err(StateError::Unavailable { address: address.to_string(), why: error.to_string() }),
        }
    }

    /// Does something with the connection.
    pub(super) async fn with<T, F>(&self, work: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let whole = async {
            let (number, connection) = self.connection().await?;
            // Dropped with an answer still owed, which is when the deadline ends this, the connection is not to be
            // trusted with the next question to be quick: it goes.
            let closing = Closing { link: self, number, armed: true };
            let result = work(connection).await;
            closing.disarm(result.as_ref().err().is_none_or(|error| !is_broken(error)));
            result
        };
        match tokio::time::timeout(DEADLINE, whole).await {
            Ok(result) => result.map_err(Failure::of),
            Err(_) => Err(Failure::Late),
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok(open.clone());
        }
        let pause = match &state.failed {
            Some((since, pause, error)) if since.elapsed() < *pause => return Err(error.clone()),
            Some((_, pause, _)) => (*pause * 2).min(PAUSE.1),
            None => PAUSE.0,
        };
        // Its own deadlines are out of the way of ours, which says what it is about.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        // Recorded before the attempt, which the deadline may cut off.
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to the last attempt to connect");
        state.failed = Some((Instant::now(), pause, late.into()));
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                state.failed = None;
                state.made += 1;
                let open = (state.made, connection);
                state.open = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), pause, error.clone()));
                Err(error)
            }
        }
    }

    /// What went wrong, in words that say what to do.
    pub(super) fn error(&self, failure: Failure) -> StateError {
        let address = self.address.to_string();
        match failure {
            Failure::NoSuchKey => StateError::Unavailable { address, why: "no such key".into() },
            Failure::WrongType => StateError::Unavailable { address, why: "a key holds another type".into() },
            Failure::Late => StateError::Unavailable { address, why: format!("no answer within {DEADLINE:?}") },
            Failure::Redis(error) => {
                let refused = error.kind() == redis::ErrorKind::AuthenticationFailed
                    || error.code().is_some_and(|code| REFUSALS.contains(&code));
                let why = error.to_string();
                if refused { StateError::Refused { address, why } } else { StateError::Unavailable { address, why } }
            }
        }
    }

    pub(super) async fn close(&self) {
        self.state.lock().await.open = None;
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The key to be renamed does not exist.
    NoSuchKey,
    /// The key holds another type than was asked for.
    WrongType,
    /// Any other error.
    Redis(RedisError),
    /// No answer within the deadline.
    Late,
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

/// Whether an error is about the connection and not the question.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_unrecoverable_error()
}

/// Closes a connection that was not seen to be well.
struct Closing<'a> {
    link: &'a Link,
    number: u64,
    armed: bool,
}

impl Closing<'_> {
    fn disarm(mut self, well: bool) {
        self.armed = !well;
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // Whoever holds the lock is connecting anew, so this connection is gone already.
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
    fn addresses_are_read_and_shown_without_a_password() {
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
            let told = RedisAddress::parse(junk).expect_err(junk);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
