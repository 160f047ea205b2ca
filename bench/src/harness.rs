//! Rounds, times, and the rows that come of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::TempDir;

use crate::report;

/// One run of the benchmarks.
pub(crate) struct Bench {
    quick: bool,
    json: bool,
    scratch: TempDir,
    bar: ProgressBar,
    group: String,
    rows: Vec<Row>,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
}

/// What a row is to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    /// The ratio to the baseline is at most this.
    Ratio(f64),
    /// The median is below this, in the row's unit.
    Below(f64),
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) work: String,
    pub(crate) baseline: Option<String>,
    pub(crate) unit: Unit,
    pub(crate) measured: Stats,
    pub(crate) base: Option<Stats>,
    /// The measured median by the baseline's.
    pub(crate) ratio: Option<f64>,
    /// Nothing where the row is there only to be known.
    pub(crate) target: Option<Target>,
    pub(crate) met: Option<bool>,
    pub(crate) note: Option<String>,
}

/// What is left of several measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Stats {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
}

/// Measurements of one kind of work: seconds for each operation, one number a round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Runs one round of `count` operations and keeps the time of one.
    pub(crate) fn time<R>(&mut self, count: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let start = Instant::now();
        let result = work()?;
        self.0.push(start.elapsed().as_secs_f64() / count as f64);
        Ok(result)
    }

    /// Keeps a number that was measured in another way.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns what a part of the measurements does not exceed: 0.99 for 99 of 100.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * part).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Stats {
            median,
            min: sorted.first().copied().unwrap_or(f64::NAN),
            max: sorted.last().copied().unwrap_or(f64::NAN),
            rounds: sorted.len(),
        }
    }
}

impl Bench {
    pub(crate) fn new(scratch: &Path, quick: bool, json: bool) -> Result<Self> {
        fs::create_dir_all(scratch)?;
        let scratch = tempfile::Builder::new()
            .prefix("alkfs-bench-")
            .tempdir_in(scratch)
            .with_context(|| format!("nothing can be written to {}", scratch.display()))?;
        let style =
            ProgressStyle::with_template("{spinner} {prefix:.bold} {msg} {pos}/{len} {bar:30}")?;
        let bar = ProgressBar::new(0).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self {
            quick,
            json,
            scratch,
            bar,
            group: String::new(),
            rows: Vec::new(),
        })
    }

    /// Begins a group of rows.
    pub(crate) fn begin(&mut self, group: &str) {
        group.clone_into(&mut self.group);
        self.bar.set_prefix(self.group.clone());
        self.prepare("preparing");
    }

    /// Tells what is being prepared.
    pub(crate) fn prepare(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.set_length(0);
        self.bar.set_position(0);
    }

    /// Returns the first value in a full run and the second in a quick one.
    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Numbers the rounds of a measurement and shows how far it has come.
    pub(crate) fn rounds(&self, what: &str, rounds: usize) -> impl Iterator<Item = usize> + use<> {
        self.bar.set_message(what.to_owned());
        self.bar.set_length(rounds as u64);
        self.bar.set_position(0);
        let bar = self.bar.clone();
        (0..rounds).inspect(move |&round| bar.set_position(round as u64))
    }

    /// Makes an empty directory that lasts as long as the run: ext4 without a journal does not use
    /// the inodes of deleted files again for some minutes and searches past them meanwhile, so what
    /// one measurement deleted would slow down the next.
    pub(crate) fn dir(&self) -> Result<PathBuf> {
        let dir = tempfile::Builder::new().tempdir_in(self.scratch.path())?;
        Ok(dir.keep())
    }

    /// Returns a path in the directory that lasts as long as the run.
    pub(crate) fn lasting(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Adds a row that compares two times, in seconds an operation; `at_most` is the target of
    /// their ratio.
    pub(crate) fn compare(
        &mut self,
        work: impl Into<String>,
        times: &Times,
        baseline: &str,
        base: &Times,
        at_most: impl Into<Option<f64>>,
    ) -> &mut Row {
        let (measured, base) = (times.stats(), base.stats());
        let ratio = measured.median / base.median;
        let at_most = at_most.into();
        self.add(Row {
            group: self.group.clone(),
            work: work.into(),
            baseline: Some(baseline.to_owned()),
            unit: Unit::Seconds,
            measured,
            base: Some(base),
            ratio: Some(ratio),
            target: at_most.map(Target::Ratio),
            met: at_most.map(|limit| ratio <= limit),
            note: None,
        })
    }

    /// Adds a row whose value stands for itself.
    pub(crate) fn value(
        &mut self,
        work: impl Into<String>,
        unit: Unit,
        values: &Times,
        below: f64,
    ) -> &mut Row {
        let measured = values.stats();
        self.add(Row {
            group: self.group.clone(),
            work: work.into(),
            baseline: None,
            unit,
            measured,
            base: None,
            ratio: None,
            target: Some(Target::Below(below)),
            met: Some(measured.median < below),
            note: None,
        })
    }

    fn add(&mut self, row: Row) -> &mut Row {
        self.bar.suspend(|| eprintln!("{}", report::line(&row)));
        self.rows.push(row);
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    /// Removes the progress bar and returns the rows, printed where JSON is asked for.
    pub(crate) fn finish(self) -> Vec<Row> {
        self.bar.finish_and_clear();
        if self.json {
            for row in &self.rows {
                println!("{}", serde_json::json!(row));
            }
        }
        self.rows
    }
}

impl Row {
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }
}

/// Waits until what was written before is on the disk, so that the next measurement does not pay
/// for it.
pub(crate) fn settle() -> Result<()> {
    run(&mut Command::new("sync"))
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} cannot start"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[f64]) -> Stats {
        let mut times = Times::default();
        values.iter().for_each(|&value| times.push(value));
        times.stats()
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(stats(&[9.0, 1.0, 2.0]).median, 2.0);
        let Stats {
            median,
            min,
            max,
            rounds,
        } = stats(&[9.0, 1.0, 4.0, 2.0]);
        assert_eq!((median, min, max, rounds), (3.0, 1.0, 9.0, 4));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut times = Times::default();
        (1..=200)
            .rev()
            .for_each(|value| times.push(f64::from(value)));
        assert_eq!(times.quantile(0.99), 198.0);
        assert_eq!(times.quantile(1.0), 200.0);
    }

    #[test]
    fn a_target_is_judged_by_the_medians() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path(), true, false).unwrap();
        let [mut fast, mut slow] = <[Times; 2]>::default();
        fast.push(2.0);
        slow.push(3.0);
        assert_eq!(bench.compare("a", &slow, "b", &fast, 1.5).met, Some(true));
        assert_eq!(bench.compare("a", &slow, "b", &fast, 1.4).met, Some(false));
        assert_eq!(bench.compare("a", &slow, "b", &fast, None).met, None);
        assert_eq!(bench.value("a", Unit::Bytes, &slow, 3.0).met, Some(false));
        assert_eq!(bench.finish().len(), 4);
    }
}
