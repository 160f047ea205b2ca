//! The report: one table, and where it was measured.

use std::path::{Path, PathBuf};

use crate::harness::{Row, Stats, Target, Unit};
use crate::machine::Machine;

/// Returns where the report of a full run belongs.
pub(crate) fn default_path() -> PathBuf {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench).join("docs/benchmarks.md")
}

/// Writes the report as Markdown.
pub(crate) fn markdown(rows: &[Row], machine: &Machine, quick: bool) -> String {
    let Machine {
        processor,
        cores,
        memory,
        kernel,
        filesystem,
        rustc,
        sqlite,
        commit,
        date,
    } = machine;
    let met = rows.iter().filter(|row| row.met == Some(true)).count();
    let judged = rows.iter().filter(|row| row.met.is_some()).count();
    let quick = if quick {
        "\nA quick run: smaller sizes than the rows say, few rounds, too noisy to judge by.\n"
    } else {
        ""
    };
    let mut out = format!(
        "\
# Benchmarks

Made by `cargo xtask bench`; do not edit. Every row measures the work and its baseline in turn, in
the same process, for several rounds; the ratio is that of the two medians, and the numbers in
parentheses are the fastest and the slowest round. Whatever is measured is also checked: contents by
their hashes, trees by their counts. Baselines use the same SQLite as the store, with
`journal_mode=WAL`, `synchronous=FULL` and its other defaults. What limits the rows that miss their
target: [performance.md](performance.md).
{quick}
| | |
| --- | --- |
| date | {date} |
| commit | {commit} |
| processor | {processor}, {cores} cores |
| memory | {memory} |
| kernel | {kernel} |
| filesystem | {filesystem} |
| compiler | {rustc}, release |
| SQLite | {sqlite} |

{met} of {judged} targets are met.

| group | work | baseline | measured | baseline measured | ratio | target | met |
| --- | --- | --- | --- | --- | --- | --- | --- |
"
    );
    for row in rows {
        let cells = [
            row.group.clone(),
            row.work.clone(),
            row.baseline.clone().unwrap_or_default(),
            spread(row.measured, row.unit),
            row.base
                .map_or_else(String::new, |base| spread(base, row.unit)),
            row.ratio.map_or_else(String::new, ratio),
            target(row),
            verdict(row).to_owned(),
        ];
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    let notes: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, row.note.as_ref()?)))
        .collect();
    if !notes.is_empty() {
        out.push_str("\n## Notes\n\n");
        for (row, note) in notes {
            out.push_str(&format!("- {}, {}: {note}\n", row.group, row.work));
        }
    }
    out
}

/// One row for a terminal.
pub(crate) fn line(row: &Row) -> String {
    let Row {
        group,
        work,
        measured,
        unit,
        ..
    } = row;
    let beside = match (&row.baseline, row.base, row.ratio) {
        (Some(name), Some(base), Some(by)) => {
            format!(
                ", {name}: {}, ratio {}",
                amount(base.median, *unit),
                ratio(by)
            )
        }
        _ => String::new(),
    };
    let target = match target(row) {
        target if target.is_empty() => target,
        target => format!(" (target {target}: {})", verdict(row)),
    };
    let measured = amount(measured.median, *unit);
    format!("{group}: {work}: {measured}{beside}{target}")
}

fn verdict(row: &Row) -> &'static str {
    match row.met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "",
    }
}

fn target(row: &Row) -> String {
    match row.target {
        Some(Target::Ratio(limit)) => format!("<= {}", ratio(limit)),
        Some(Target::Below(limit)) => format!("< {}", amount(limit, row.unit)),
        None => String::new(),
    }
}

fn ratio(value: f64) -> String {
    format!("{value:.2}x")
}

fn spread(stats: Stats, unit: Unit) -> String {
    let Stats {
        median,
        min,
        max,
        rounds,
    } = stats;
    let median = amount(median, unit);
    if rounds < 2 {
        return median;
    }
    format!("{median} ({} to {})", amount(min, unit), amount(max, unit))
}

/// Formats a number with three significant digits.
fn amount(value: f64, unit: Unit) -> String {
    let size = value.abs();
    let (value, unit) = match unit {
        Unit::Seconds if size < 1e-3 => (value * 1e6, "us"),
        Unit::Seconds if size < 1.0 => (value * 1e3, "ms"),
        Unit::Seconds => (value, "s"),
        Unit::Bytes if size < 1024.0 => (value, "B"),
        Unit::Bytes if size < 1024.0 * 1024.0 => (value / 1024.0, "KiB"),
        Unit::Bytes => (value / (1024.0 * 1024.0), "MiB"),
    };
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit_that_fits() {
        assert_eq!(amount(0.000_285_4, Unit::Seconds), "285 us");
        assert_eq!(amount(0.0153, Unit::Seconds), "15.3 ms");
        assert_eq!(amount(1.5, Unit::Seconds), "1.50 s");
        assert_eq!(amount(65536.0, Unit::Bytes), "64.0 KiB");
        assert_eq!(amount(104_857_600.0, Unit::Bytes), "100 MiB");
    }
}
