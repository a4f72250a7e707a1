//! Time limits that many scenarios share.

use std::time::Duration;

/// How long recovery from a failure may take.
pub(crate) const HEALED_LIMIT: Duration = Duration::from_secs(30);
