//! Words and numbers for people.

/// `1.2 GiB`, `3 MiB`, `512 B`.
#[must_use]
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(value) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let (whole, part) = (tenths / 10, tenths % 10);
    if unit == 0 || whole >= 10 || part == 0 { format!("{whole} {}", UNITS[unit]) } else { format!("{whole}.{part} {}", UNITS[unit]) }
}

/// `87 ms`, `1.8 s`, from microseconds.
#[must_use]
pub fn time(micros: i64) -> String {
    let ms = micros.max(0) / 1000;
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

/// `0.42 ms`, `12.3 ms`, `140 ms`, `1.85 s`, from microseconds.
#[must_use]
pub fn precise(micros: i64) -> String {
    let micros = micros.max(0);
    match micros {
        0..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        10_000..100_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        100_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// `+1.203 s`: seconds since something, from microseconds.
#[must_use]
pub fn since(micros: i64) -> String {
    let sign = if micros < 0 { '-' } else { '+' };
    let ms = micros.unsigned_abs() / 1000;
    format!("{sign}{}.{:03} s", ms / 1000, ms % 1000)
}

/// `1 process`, `3 processes`.
#[must_use]
pub fn count(number: u32, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([bytes(0), bytes(512), bytes(1024), bytes(1_288_490_189), bytes(629_145_600)], ["0 B", "512 B", "1 KiB", "1.2 GiB", "600 MiB"]);
        assert_eq!([time(87_400), time(1_850_000), time(-1)], ["87 ms", "1.8 s", "0 ms"]);
        assert_eq!([precise(420), precise(12_345), precise(140_999), precise(1_850_000)], ["0.42 ms", "12.3 ms", "140 ms", "1.85 s"]);
        assert_eq!([since(1_203_400), since(-12_000)], ["+1.203 s", "-0.012 s"]);
        assert_eq!([count(1, "fd", "fds"), count(14, "fd", "fds")], ["1 fd", "14 fds"]);
    }
}
