//! Environment variables that name programs, images and folders for the suite to use.

/// Path of the server's program.
pub const SERVER: &str = "NAGAYA_BIN";
/// Path of the program with the scripted model and the origins.
pub const FIXTURES: &str = "NAGAYA_FIXTURES_BIN";
/// The server's image.
pub const SERVER_IMAGE: &str = "NAGAYA_SERVER_IMAGE";
/// The workspace image; `--image` is the same.
pub const WORKSPACE_IMAGE: &str = "NAGAYA_WORKSPACE_IMAGE";
/// The folder of the Compose file, its scripts, and the Dockerfile of the workspace image.
pub const PROJECT: &str = "NAGAYA_PROJECT_DIR";
/// The image of Redis, for `--launch container`.
pub const REDIS_IMAGE: &str = "NAGAYA_REDIS_IMAGE";
/// The image of PostgreSQL, for `--launch container`; it must accept the same variables as the official one.
pub const POSTGRES_IMAGE: &str = "NAGAYA_POSTGRES_IMAGE";
/// Path of Schemathesis.
pub const SCHEMATHESIS: &str = "SCHEMATHESIS_BIN";

/// All of them that have no flag of their own.
pub(super) const WITHOUT_FLAG: [&str; 7] =
    [SERVER, FIXTURES, SERVER_IMAGE, PROJECT, REDIS_IMAGE, POSTGRES_IMAGE, SCHEMATHESIS];

/// The value of a variable; an empty one counts as not set.
#[must_use]
pub fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}
