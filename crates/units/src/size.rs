//! Sizes as people write them.

use crate::{ByteLen, SECTOR_BYTES};

/// `10G`, `512M`, `1.5T`, `2 GiB`, `4096`: binary units, with or without `iB`; a multiple of 512 bytes.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_size(text: &str) -> Result<ByteLen, String> {
    let wrong = || format!("'{text}' is not a size: write 10G, 512M, 1.5T or a number of bytes");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        "P" | "PIB" => 50,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > FRACTION_MAX_DIGITS || (number.contains('.') && fraction.is_empty()) {
        return Err(wrong());
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).expect("checked to be short"));
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
    let scaled = digits.checked_mul(1 << shift).filter(|bytes| bytes % scale == 0).ok_or_else(wrong)?;
    let bytes = u64::try_from(scaled / scale).map_err(|_| wrong())?;
    if bytes == 0 || bytes % SECTOR_BYTES != 0 {
        return Err(format!("'{text}' is not a positive multiple of {SECTOR_BYTES} bytes"));
    }
    Ok(ByteLen(bytes))
}

/// More digits than that after a point are a mistake.
const FRACTION_MAX_DIGITS: usize = 3;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512", 512),
            ("4K", 4096),
            ("512M", 512 << 20),
            ("10GiB", 10 << 30),
            ("1.5t", 3 << 39),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(ByteLen(bytes)), "{text}");
        }
        for bad in [
            "",
            "G",
            "-1G",
            "1.G",
            ".5G",
            "10X",
            "0",
            "100",
            "1.0001T",
            "1e3",
            "99999999P",
            "1..5G",
            "１G",
            "1  G",
            " 1G",
            "1G ",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
