//! Random bytes, as text.

use anyhow::{Context, Result};

/// `N` random bytes in hexadecimal.
pub(crate) fn hex<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
