//! What is answered under `--compat triton` where it differs from Axon's own: names, codes and texts.

use std::fmt;
use std::str::FromStr;

/// Whose habits are followed where the protocol leaves them open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// Axon's own.
    #[default]
    Native,
    /// Triton's, odd ones included.
    Triton,
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Triton => "triton",
        })
    }
}

impl FromStr for Compat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "native" => Ok(Self::Native),
            "triton" => Ok(Self::Triton),
            _ => Err(format!("expected `native` or `triton`, got `{}`", name.escape_debug())),
        }
    }
}

impl Compat {
    /// The server's name in its metadata.
    #[must_use]
    pub const fn server_name(self) -> &'static str {
        match self {
            Self::Native => "axon",
            Self::Triton => "triton",
        }
    }

    /// The server's version in its metadata. **Source:** the release of Triton that was captured.
    #[must_use]
    pub const fn server_version(self) -> &'static str {
        match self {
            Self::Native => env!("CARGO_PKG_VERSION"),
            Self::Triton => "2.73.0",
        }
    }
}
