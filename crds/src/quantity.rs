//! Kubernetes quantities as far as engine sizes need them: CPU in thousandths, memory in bytes.

use std::fmt;

/// What a quantity measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuantityKind {
    /// CPU: `2`, `0.5` or `500m`.
    Cpu,
    /// Memory: `512Mi`, `1G` or a number of bytes.
    Memory,
}

/// An amount of CPU (in thousandths of a core) or of memory (in bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Quantity(u64);

/// The text is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an amount of {}", match kind { QuantityKind::Cpu => "CPU (such as 500m or 2)", QuantityKind::Memory => "memory (such as 256Mi or 1Gi)" })]
pub struct QuantityError {
    text: String,
    kind: QuantityKind,
}

const MEMORY_UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl Quantity {
    /// Reads an amount.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is none, or is too large.
    pub fn parse(text: &str, kind: QuantityKind) -> Result<Self, QuantityError> {
        let amount = match kind {
            QuantityKind::Cpu => parse_cpu(text),
            QuantityKind::Memory => parse_memory(text),
        };
        amount.map(Self).ok_or_else(|| QuantityError { text: text.chars().take(64).collect(), kind })
    }

    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(factor)))
    }

    /// Half of an amount of memory in whole mebibytes, at least one: `256Mi`.
    pub fn half_in_mebibytes(self) -> String {
        format!("{}Mi", (self.0 >> 21).max(1))
    }

    /// The text that Kubernetes itself would write.
    pub fn canonical(self, kind: QuantityKind) -> String {
        match kind {
            QuantityKind::Cpu if self.0.is_multiple_of(1000) => (self.0 / 1000).to_string(),
            QuantityKind::Cpu => format!("{}m", self.0),
            QuantityKind::Memory => {
                let unit = [("Ti", 1_u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)]
                    .into_iter()
                    .find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size));
                unit.map_or_else(|| self.0.to_string(), |(name, size)| format!("{}{name}", self.0 / size))
            }
        }
    }
}

impl fmt::Display for QuantityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}

fn parse_cpu(text: &str) -> Option<u64> {
    if let Some(thousandths) = text.strip_suffix('m') {
        return digits(thousandths);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if text.contains('.') && !(1..=3).contains(&fraction.len()) {
        return None;
    }
    let fraction = if fraction.is_empty() { 0 } else { digits(&format!("{fraction:0<3}"))? };
    digits(whole)?.checked_mul(1000)?.checked_add(fraction)
}

fn parse_memory(text: &str) -> Option<u64> {
    let unit = MEMORY_UNITS.into_iter().find_map(|(name, size)| Some((text.strip_suffix(name)?, size)));
    let (number, size) = unit.unwrap_or((text, 1));
    digits(number)?.checked_mul(size)
}

fn digits(text: &str) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_kubernetes_reads_them() {
        let cpu = |text| Quantity::parse(text, QuantityKind::Cpu).map(|q| q.0);
        let memory = |text| Quantity::parse(text, QuantityKind::Memory).map(|q| q.0);
        assert_eq!((cpu("2"), cpu("0.5"), cpu("500m"), cpu("1.25")), (Ok(2000), Ok(500), Ok(500), Ok(1250)));
        assert_eq!((memory("128Mi"), memory("1G"), memory("77")), (Ok(128 << 20), Ok(1_000_000_000), Ok(77)));
        for rubbish in ["", "m", "1.", "-1", "1e3", "Mi", "1 Gi", "0.1234", "99999999999999999999"] {
            assert!(cpu(rubbish).is_err() && memory(rubbish).is_err(), "{rubbish}");
        }
    }

    #[test]
    fn half_of_the_memory_is_whole_mebibytes() {
        let half = |text| Quantity::parse(text, QuantityKind::Memory).map(Quantity::half_in_mebibytes);
        assert_eq!((half("1Gi"), half("513Mi"), half("1")), (Ok("512Mi".into()), Ok("256Mi".into()), Ok("1Mi".into())));
    }

    #[test]
    fn products_are_written_in_the_largest_whole_unit() {
        let product = |text, kind, n| Quantity::parse(text, kind).map(|q| q.times(n).canonical(kind));
        assert_eq!(product("250m", QuantityKind::Cpu, 2), Ok("500m".to_owned()));
        assert_eq!(product("500m", QuantityKind::Cpu, 2), Ok("1".to_owned()));
        assert_eq!(product("512Mi", QuantityKind::Memory, 2), Ok("1Gi".to_owned()));
        assert_eq!(product("100M", QuantityKind::Memory, 3), Ok("300000000".to_owned()));
    }
}
