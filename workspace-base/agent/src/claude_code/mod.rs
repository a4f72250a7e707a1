//! What the agent knows of the Claude Code CLI: where it is, and what it keeps in its home directory. Of what it says the agent knows
//! nothing.

pub(crate) mod outputs;
pub(crate) mod repair;
pub(crate) mod version;

/// What health reports call the driver.
pub(crate) const NAME: &str = "claude-code-cli";
