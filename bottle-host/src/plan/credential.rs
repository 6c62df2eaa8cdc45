//! The model's credential: the host's real one goes to the sidecar, a placeholder of the same kind to the bottle.
//!
//! The kind matters: the client sends the header `anthropic-beta: oauth-…`, without which a real OAuth token is refused,
//! only when it believes that it holds one.

use super::host_variable;
use crate::ui::hinted;
use anyhow::{Context, Result};
use bottle_api::{Secret, secret::Secrets};
use bottle_policy::{Auth, AuthScheme};

pub use crate::manifest::egress::MODEL_HOST as HOST;

/// Below what the client asks for there. Uploads of files are not among it.
pub const PATHS: &[&str] = &[
    "/v1/messages",
    "/v1/models",
    "/api/claude_code",
    "/api/claude_cli",
    "/api/claude_code_penguin_mode",
    "/api/eval",
    "/api/event_logging",
    "/api/hello",
    "/api/directory",
    "/api/web/domain_info",
    "/api/artifacts",
    "/mcp-registry",
];
/// Name of the credential among the sidecar's secrets.
const SECRET: &str = "model-credential";

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelCredential {
    /// `CLAUDE_BOTTLE_OAUTH_TOKEN`
    OauthToken,
    /// `ANTHROPIC_API_KEY`
    ApiKey,
}

impl ModelCredential {
    /// The first that is set. None: an error that says what to set; there is no fallback.
    pub fn from_env() -> Result<Self> {
        [Self::OauthToken, Self::ApiKey]
            .into_iter()
            .find(|kind| host_variable(kind.host_variable()).is_some())
            .ok_or_else(|| {
                hinted(
                    "no credential for the model: neither CLAUDE_BOTTLE_OAUTH_TOKEN nor ANTHROPIC_API_KEY is set",
                    "export CLAUDE_BOTTLE_OAUTH_TOKEN=… (`claude setup-token` prints one), or ANTHROPIC_API_KEY=…",
                )
            })
    }

    /// The host's variable that holds the real one.
    pub fn host_variable(self) -> &'static str {
        match self {
            Self::OauthToken => "CLAUDE_BOTTLE_OAUTH_TOKEN",
            Self::ApiKey => "ANTHROPIC_API_KEY",
        }
    }

    /// The agent's variable, and the placeholder that it holds.
    pub fn placeholder(self) -> (&'static str, &'static str) {
        match self {
            Self::OauthToken => ("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-placeholder-the-real-one-is-in-the-sidecar"),
            Self::ApiKey => ("ANTHROPIC_API_KEY", "sk-ant-api03-placeholder-the-real-one-is-in-the-sidecar"),
        }
    }

    /// How the sidecar sends it.
    pub fn auth(self) -> Auth {
        let scheme = match self {
            Self::OauthToken => AuthScheme::Bearer,
            Self::ApiKey => AuthScheme::XApiKey,
        };
        Auth { scheme, secret: SECRET.into() }
    }

    /// The real one, for the sidecar.
    pub(super) fn add_to(self, secrets: &mut Secrets) -> Result<()> {
        let value = host_variable(self.host_variable()).context("the model's credential is not set any more")?;
        secrets.insert(SECRET, Secret::new(value.trim()));
        Ok(())
    }
}
