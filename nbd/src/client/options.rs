//! What a caller may choose.

use std::time::Duration;

use super::address::Address;

/// How long is waited for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// For the connection to be accepted.
    pub connect: Duration,
    /// From there to the end of the handshake. A server at its max-connections greets nobody.
    pub handshake: Duration,
    /// From a request's first byte to its reply's last.
    pub reply: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), handshake: Duration::from_secs(10), reply: Duration::from_secs(30) }
    }
}

/// Whether to use structured replies. Block status needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StructuredReplies {
    /// Without them the connection is refused.
    Require,
    /// Plain reads work without them.
    #[default]
    Prefer,
    /// Not asked for.
    Never,
}

/// What to connect to and how.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Server.
    pub address: Address,
    /// Export name; "" is the server's default export.
    pub export: String,
    /// Meta contexts, e.g. `base:allocation`, `qemu:dirty-bitmap:NAME`; a missing one is an error. Any makes structured replies required.
    pub contexts: Vec<String>,
    /// Structured replies.
    pub structured: StructuredReplies,
    /// Time limits.
    pub limits: TimeLimits,
}

impl ConnectOptions {
    /// Plain reading and writing of one export with default limits.
    #[must_use]
    pub fn new(address: Address, export: impl Into<String>) -> Self {
        Self { address, export: export.into(), contexts: Vec::new(), structured: StructuredReplies::default(), limits: TimeLimits::default() }
    }

    /// Adds a meta context.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.contexts.push(name.into());
        self
    }
}
