//! `limits:` of a bottle.

use super::read::{quoted, text, wrong};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::num::NonZeroU32;

/// `limits:`; what is not declared is the backend's own default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a mapping with `memory`, `cpus` or `pids`")]
pub struct LimitFields {
    /// Bytes: `512m`, `4g`, with k, m or g for powers of 1024; 64m at least.
    #[serde(deserialize_with = "bytes", serialize_with = "print_bytes", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("type" = ["string", "integer"], "minimum" = 64 << 20), with = "serde_json::Value")]
    #[schemars(extend("pattern" = "^[0-9]+ *([KkMmGg]([Ii]?[Bb])?|[Bb])?$"))]
    pub memory: Option<u64>,
    /// Processors, `1.5` say; kept in thousandths.
    #[serde(deserialize_with = "milli_cpus", serialize_with = "print_cpus", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", range(min = 0.01, max = 1024.0))]
    pub cpus: Option<u64>,
    /// Processes and threads.
    #[serde(deserialize_with = "pids", skip_serializing_if = "Option::is_none")]
    pub pids: Option<NonZeroU32>,
}

const UNITS: [(char, u32); 3] = [('g', 30), ('m', 20), ('k', 10)];

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let parse = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let amount = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((amount.strip_suffix(*unit)?, *shift)));
        let (digits, shift) = unit.unwrap_or((amount, 0));
        let amount = digits.trim_end().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        match amount {
            Some(amount) if amount < 64 << 20 => {
                wrong(format!("{} is less than any agent runs in", quoted(text)), "Write 64m at least; 4g is usual.")
            }
            Some(amount) if amount < 1 << 50 => Ok(Some(amount)),
            _ => wrong(format!("{} is no amount of memory", quoted(text)), "Write 512m or 4g."),
        }
    };
    text(d, parse)
}

fn milli_cpus<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let parse = |text: &str| match text.parse::<f64>() {
        Ok(cpus) if (0.01..=1024.0).contains(&cpus) => Ok(Some((cpus * 1000.0).round() as u64)),
        _ => wrong(
            format!("{} is no number of processors", quoted(text)),
            "Write 0.5 or 2; 0.01 at least, 1024 at most.",
        ),
    };
    text(d, parse)
}

fn pids<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NonZeroU32>, D::Error> {
    let parse = |text: &str| match text.parse() {
        Ok(pids) => Ok(Some(pids)),
        Err(_) => wrong(format!("{} is no number of processes", quoted(text)), "Write a whole number, 256 say."),
    };
    text(d, parse)
}

fn print_bytes<S: Serializer>(bytes: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&show_bytes(bytes.unwrap_or_default()))
}

fn print_cpus<S: Serializer>(milli: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(milli.unwrap_or_default() as f64 / 1000.0)
}

/// `4g`, or as much smaller a unit as it takes to be exact.
fn show_bytes(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, shift)| bytes.is_multiple_of(1 << shift));
    unit.map_or(bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

impl LimitFields {
    /// Each limit that is declared, as a manifest writes it.
    pub fn shown(&self) -> Vec<String> {
        let memory = self.memory.map(|bytes| format!("memory {}", show_bytes(bytes)));
        let cpus = self.cpus.map(|milli| format!("cpus {}", milli as f64 / 1000.0));
        let pids = self.pids.map(|pids| format!("pids {pids}"));
        [memory, cpus, pids].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::manifest::bottle_from;

    #[test]
    fn limits_are_read_with_their_units_and_shown_with_them() {
        for (yaml, memory, cpus, pids, shown) in [
            ("{memory: 4g, cpus: 1.5, pids: 100}", Some(4 << 30), Some(1500), Some(100), "memory 4g cpus 1.5 pids 100"),
            ("{memory: 512MiB, cpus: 2}", Some(512 << 20), Some(2000), None, "memory 512m cpus 2"),
            ("{memory: 134217729}", Some((128 << 20) + 1), None, None, "memory 134217729"),
        ] {
            let limits = bottle_from(&format!("limits: {yaml}")).limits;
            assert_eq!((limits.memory, limits.cpus, limits.pids.map(u32::from)), (memory, cpus, pids));
            assert_eq!(limits.shown().join(" "), shown);
        }
    }
}
