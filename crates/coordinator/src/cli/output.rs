//! stdout is data: JSON, tables, plain text.

use serde::Serialize;
use std::io::{self, Write};

/// One JSON value on one line.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A line of text.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A line on stderr: a message, not data.
pub fn message(text: &str) {
    // A closed stderr must not stop the command.
    let _ = writeln!(io::stderr(), "{text}");
}

/// What was removed of an earlier model or tokenizer, if anything.
pub fn removed(names: &[String]) {
    if let Some(told) = corpus::Filling::removal(names) {
        message(&told);
    }
}

/// Columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = io::stdout().lock();
    let mut print = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    print(&mut head.iter().copied())?;
    for row in rows {
        print(&mut row.iter().map(String::as_str))?;
    }
    out.flush()
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Above this nobody reads a number digit by digit: the perplexity of a broken model has 309 of them.
const DIGITS_MAX: f64 = 1e6;

/// What was measured, for people: with so many decimals (None: all there are), or as a power of ten where it is large.
pub fn metric(value: f64, decimals: Option<usize>) -> String {
    match decimals {
        _ if value.is_finite() && value.abs() > DIGITS_MAX => format!("{value:.2e}"),
        Some(decimals) => format!("{value:.decimals$}"),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_powers_of_ten() {
        for (value, rounded, all) in [
            (0.123_456, "0.1235", "0.123456"),
            (-7.5, "-7.5000", "-7.5"),
            (1e6, "1000000.0000", "1000000"),
            (1_234_567.0, "1.23e6", "1.23e6"),
            (-1_234_567.0, "-1.23e6", "-1.23e6"),
            (f64::MAX, "1.80e308", "1.80e308"),
            (f64::INFINITY, "inf", "inf"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            assert_eq!((metric(value, Some(4)).as_str(), metric(value, None).as_str()), (rounded, all));
        }
    }
}
