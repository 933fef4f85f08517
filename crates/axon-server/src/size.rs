//! Sizes on the command line: bytes, or `500MB`, `8GiB`.

/// What units mean; longer names first, since they end alike.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads a size as [`size`] does, or 0.
///
/// # Errors
/// What was expected.
pub fn size_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { size(text) }
}

/// Reads a size such as `8GiB`, `500MB`, `1.5GiB` or a number of bytes, at least 1.
///
/// # Errors
/// What was expected.
pub fn size(text: &str) -> Result<u64, String> {
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let wanted =
        || format!("expected a size such as 8GiB, 500MB or a number of bytes, got `{}`", text.escape_debug());
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let bytes = number.parse::<f64>().ok().filter(|_| is_number).map(|number| number * unit as f64);
    let bytes = bytes.filter(|bytes| (1.0..=9e18).contains(bytes)).ok_or_else(wanted)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 9e18")]
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_or_are_bytes() {
        let check = |text: &str, expected| assert_eq!(size(text).ok(), expected, "{text}");
        check("1", Some(1));
        check("8GiB", Some(8 << 30));
        check("500MB", Some(500_000_000));
        check("1.5KiB", Some(1536));
        check("64B", Some(64));
        for text in ["", "0", "-1", "GiB", "1e9", "nan", "inf", "5 MB", "5mb", "99999999TB"] {
            check(text, None);
        }
    }
}
