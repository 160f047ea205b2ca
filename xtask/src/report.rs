//! Headings, errors and the table at the end.

use std::time::Duration;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};

const BOLD: Style = Style::new().bold();
const GREEN: Style = AnsiColor::Green.on_default().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();

pub(crate) fn heading(part: &str) {
    println!("\n{BOLD}===== {part} ====={BOLD:#}");
}

/// Announces one step of a part, usually the command it runs.
pub(crate) fn step(text: &str) {
    println!("{BOLD}--- {text}{BOLD:#}");
}

pub(crate) fn ok(text: &str) {
    println!("{GREEN}ok{GREEN:#}: {text}");
}

pub(crate) fn skip(text: &str) {
    println!("{YELLOW}skipped{YELLOW:#}: {text}");
}

pub(crate) fn error(part: &str, error: &anyhow::Error) {
    eprintln!("{RED}error{RED:#}: {part}: {error:#}");
}

/// How a part ended.
pub(crate) enum Outcome {
    Passed(Duration),
    Failed(Duration),
    NotRun,
}

/// The parts with their outcome and time.
#[derive(Default)]
pub(crate) struct Summary {
    parts: Vec<(&'static str, Outcome)>,
}

impl Summary {
    pub(crate) fn add(&mut self, part: &'static str, outcome: Outcome) {
        self.parts.push((part, outcome));
    }

    pub(crate) fn has_failure(&self) -> bool {
        self.parts
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }

    pub(crate) fn print(&self) {
        heading("summary");
        let mut total = Duration::ZERO;
        for (part, outcome) in &self.parts {
            let (style, word, time) = match outcome {
                Outcome::Passed(time) => (GREEN, "passed", Some(*time)),
                Outcome::Failed(time) => (RED, "FAILED", Some(*time)),
                Outcome::NotRun => (YELLOW, "not run", None),
            };
            total += time.unwrap_or_default();
            let shown = time.map(format_time).unwrap_or_default();
            println!("{part:<10} {style}{word:<8}{style:#} {shown:>14}");
        }
        println!("{:<10} {:<8} {:>14}", "total", "", format_time(total));
    }
}

fn format_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_part_fails_the_run() {
        let mut summary = Summary::default();
        summary.add("lint", Outcome::Passed(Duration::ZERO));
        summary.add("wasm", Outcome::NotRun);
        assert!(!summary.has_failure());
        summary.add("rust", Outcome::Failed(Duration::ZERO));
        assert!(summary.has_failure());
    }

    #[test]
    fn times_are_short_to_read() {
        assert_eq!(format_time(Duration::from_millis(2_340)), "2.3 s");
        assert_eq!(format_time(Duration::from_secs(63)), "1 min 03 s");
    }
}
