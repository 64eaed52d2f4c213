/// Bytes of a size such as `512MiB`, `4GB`, `64k` or `1048576`. `k`, `m`, `g` and `t` count by 1,024 with or without `iB`,
/// and by 1,000 with `B` alone.
pub(crate) fn parse(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (prefix, base) = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')) {
        Some(prefix) if unit.ends_with("ib") => (prefix, 1_024_usize),
        Some(prefix) => (prefix, 1_000),
        None => (unit.as_str(), 1_024),
    };
    let power = match prefix {
        "" if !unit.ends_with("ib") => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(base.checked_pow(power)?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_with_and_without_units() {
        for (text, bytes) in [
            ("1048576", Some(1 << 20)),
            ("12B", Some(12)),
            ("256MiB", Some(256 << 20)),
            ("256 MiB", Some(256 << 20)),
            ("64k", Some(64 << 10)),
            ("4GB", Some(4_000_000_000)),
            ("2g", Some(2 << 30)),
            ("1TiB", Some(1 << 40)),
            ("", None),
            ("MiB", None),
            ("1iB", None),
            ("1.5GiB", None),
            ("-1", None),
            ("1PB", None),
            ("99999999999999TiB", None),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
    }
}
