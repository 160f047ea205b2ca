//! Printing: lines of JSON or aligned text on standard output, progress on standard error.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::Duration;

use alknet_fs::{Progress, Task, Timestamp};
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::tz::TimeZone;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    verbose: bool,
    color: bool,
    stdout: RefCell<BufWriter<Stdout>>,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        Self {
            json,
            quiet,
            verbose,
            color: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
            stdout: RefCell::new(BufWriter::with_capacity(64 * 1024, io::stdout())),
        }
    }

    /// Prints a record as a line of JSON where that was asked for.
    pub(crate) fn record(&self, record: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut stdout = self.stdout.borrow_mut();
        serde_json::to_writer(&mut *stdout, record)?;
        stdout.write_all(b"\n")
    }

    /// Prints a line for people, unless JSON was asked for.
    pub(crate) fn line(&self, line: impl Display) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.stdout.borrow_mut(), "{line}")
    }

    /// Prints what was done: a record for programs, a line for people who want to know.
    pub(crate) fn done(&self, record: &impl Serialize, line: impl Display) -> io::Result<()> {
        self.record(record)?;
        if self.quiet {
            return Ok(());
        }
        self.line(line)
    }

    /// As [`done`](Self::done), where people know what was done: they see it with `-v` only.
    pub(crate) fn silent(&self, record: &impl Serialize, line: impl Display) -> io::Result<()> {
        self.record(record)?;
        if self.verbose {
            self.line(line)?;
        }
        Ok(())
    }

    /// Prints a note beside the output, on standard error.
    pub(crate) fn note(&self, note: impl Display) {
        if !self.json && !self.quiet {
            // Nothing depends on a note.
            let _ = writeln!(anstream::stderr(), "{note}");
        }
    }

    /// Prints a warning on standard error, to programs too: a result that may not be what it seems.
    pub(crate) fn warn(&self, warning: impl Display) {
        let text = warning.to_string();
        let mut stderr = anstream::stderr();
        // As with an error, there is nobody else to tell.
        let _ = match self.json {
            true => writeln!(stderr, "{}", serde_json::json!({ "warning": text })),
            false => writeln!(stderr, "{WARN}warning:{WARN:#} {}", printable(&text)),
        };
    }

    /// Prints a table with a heading, unless JSON was asked for.
    pub(crate) fn table(&self, table: &Table) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        table.write(self, &mut *self.stdout.borrow_mut())
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(
        &self,
        write: impl FnOnce(&mut dyn Write) -> crate::failure::Result<()>,
    ) -> crate::failure::Result<()> {
        let mut writer = Noting {
            writer: &mut *self.stdout.borrow_mut(),
            failed: None,
        };
        let result = write(&mut writer);
        match writer.failed {
            Some(error) => Err(error.into()),
            None => result,
        }
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        self.stdout.borrow_mut().flush()
    }

    /// Returns the style, or none where colours are not wanted.
    pub(crate) fn style(&self, style: Style) -> Style {
        if self.color { style } else { Style::new() }
    }

    /// Renders text in a style.
    pub(crate) fn paint(&self, style: Style, text: impl Display) -> String {
        let style = self.style(style);
        format!("{style}{text}{style:#}")
    }

    /// Shows the progress of a task on a terminal; the bar goes when the guard is dropped.
    pub(crate) fn follow(&self, task: Task, what: &'static str, unit: Unit) -> (Task, Guard) {
        match self.draws() {
            true => self.count(task, what, unit),
            false => {
                let bar = ProgressBar::hidden();
                (task, Guard(Bar { bar, unit }))
            }
        }
    }

    fn draws(&self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// As [`follow`](Self::follow), and counts what is done where nothing is shown, too.
    pub(crate) fn count(&self, task: Task, what: &'static str, unit: Unit) -> (Task, Guard) {
        if !self.draws() {
            let bar = Bar {
                bar: ProgressBar::hidden(),
                unit,
            };
            let counted = bar.clone();
            let task = task.report_to(move |progress: Progress| counted.set(progress));
            return (task, Guard(bar));
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let bar = Bar { bar, unit };
        bar.template(match unit {
            Unit::Bytes => "{spinner} {prefix} {bytes} {bytes_per_sec}",
            Unit::Files => "{spinner} {prefix} {human_pos} {msg}",
        });
        bar.bar.set_prefix(what);
        bar.bar.enable_steady_tick(Duration::from_millis(100));
        let shown = bar.clone();
        let task = task.report_to(move |progress: Progress| shown.set(progress));
        (task, Guard(bar))
    }
}

/// Keeps the error of a writer, which would otherwise look like one of what is written.
struct Noting<'a> {
    writer: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Noting<'_> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let same = io::Error::from(error.kind());
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            same
        })
    }
}

impl Write for Noting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.writer.flush();
        self.note(flushed)
    }
}

/// What a progress bar counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Files,
}

/// A progress bar on a terminal, or none; it is wiped when this is dropped.
pub(crate) struct Guard(Bar);

impl Guard {
    /// Sets what there is to do in all.
    pub(crate) fn length(&self, length: u64) {
        self.0.length(length);
    }

    /// Returns what is done.
    pub(crate) fn done(&self) -> u64 {
        self.0.bar.position()
    }

    /// Sets what is done, for work that does not report it itself.
    pub(crate) fn position(&self, done: u64) {
        self.0.bar.set_position(done);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.bar.finish_and_clear();
    }
}

#[derive(Clone)]
struct Bar {
    bar: ProgressBar,
    unit: Unit,
}

impl Bar {
    /// Until the length is known there is no bar, only what is done.
    fn length(&self, length: u64) {
        if self.bar.length() == Some(length) {
            return;
        }
        if self.bar.length().is_none() {
            self.template(match self.unit {
                Unit::Bytes => {
                    "{spinner} {prefix} {wide_bar:.cyan/dim} {bytes}/{total_bytes} \
                     {bytes_per_sec} {eta}"
                }
                Unit::Files => {
                    "{spinner} {prefix} {wide_bar:.cyan/dim} {human_pos}/{human_len} {msg}"
                }
            });
        }
        self.bar.set_length(length);
    }

    fn set(&self, progress: Progress) {
        let (done, total) = match self.unit {
            Unit::Bytes => (progress.bytes, progress.total_bytes),
            Unit::Files => (progress.files, progress.total_files),
        };
        if total > 0 {
            self.length(total);
        }
        self.bar.set_position(done);
        if matches!(self.unit, Unit::Files) {
            self.bar.set_message(HumanBytes(progress.bytes).to_string());
        }
    }

    fn template(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }
}

/// Rows of cells whose columns line up.
pub(crate) struct Table {
    heads: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

/// A piece of text in a table.
pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub(crate) fn new(text: impl Display) -> Self {
        Self {
            text: printable(&text.to_string()).into_owned(),
            style: Style::new(),
            right: false,
        }
    }

    /// Aligns the cell to the right, as numbers are.
    pub(crate) fn right(text: impl Display) -> Self {
        Self {
            right: true,
            ..Self::new(text)
        }
    }

    pub(crate) fn styled(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

impl Table {
    /// Creates a table with headings; a heading that begins with `>` is aligned to the right.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let head = |text: &&str| match text.strip_prefix('>') {
            Some(text) => Cell::right(text).styled(HEAD),
            None => Cell::new(text).styled(HEAD),
        };
        Self {
            heads: heads.iter().map(head).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    fn write(&self, out: &Output, writer: &mut dyn Write) -> io::Result<()> {
        let mut rows: Vec<&Vec<Cell>> = self.rows.iter().collect();
        if !self.heads.is_empty() {
            rows.insert(0, &self.heads);
        }
        let mut widths = Vec::new();
        for row in &rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (cell, width) in row.iter().zip(&mut widths) {
                *width = (*width).max(cell.text.width());
            }
        }
        for row in rows {
            let mut gap = 0;
            for (cell, width) in row.iter().zip(&widths) {
                if cell.text.is_empty() {
                    gap += width + 2;
                    continue;
                }
                let fill = width - cell.text.width();
                let before = gap + if cell.right { fill } else { 0 };
                let style = out.style(cell.style);
                write!(writer, "{:before$}{style}{}{style:#}", "", cell.text)?;
                gap = if cell.right { 2 } else { fill + 2 };
            }
            writeln!(writer)?;
        }
        Ok(())
    }
}

pub(crate) const HEAD: Style = Style::new().dimmed();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const DIR: Style = AnsiColor::Blue.on_default().bold();
pub(crate) const LINK: Style = AnsiColor::Cyan.on_default();

/// Returns the styles of "error:" and "hint:"; the stream drops them where colours are not wanted.
pub(crate) fn stderr_style() -> (Style, Style) {
    (AnsiColor::Red.on_default().bold(), LINK)
}

pub(crate) fn stderr_has_colors() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Renders a size for people.
pub(crate) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// Renders a number with its unit, `1 file` or `2 files`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    let unit = if n == 1 { one } else { many };
    format!("{} {unit}", indicatif::HumanCount(n))
}

/// Renders a part as a percentage of a whole.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

/// Renders a time for people, in the local time zone.
pub(crate) fn time(Timestamp(nanos): Timestamp, format: &str) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(time) => time
            .to_zoned(TimeZone::system())
            .strftime(format)
            .to_string(),
        Err(_) => nanos.to_string(),
    }
}

/// Renders a time for programs: RFC 3339 in UTC with nanoseconds, which sorts as text.
pub(crate) fn rfc3339(Timestamp(nanos): Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => nanos.to_string(),
    }
}

/// A time to the minute, for listings.
pub(crate) const MINUTE: &str = "%Y-%m-%d %H:%M";
/// A time to the second, for histories.
pub(crate) const SECOND: &str = "%Y-%m-%d %H:%M:%S";
/// A time in full.
pub(crate) const FULL: &str = "%Y-%m-%d %H:%M:%S.%f %z";

/// Escapes control characters, so that a name cannot steer the terminal.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Renders kind and permission bits as `ls -l` does.
pub(crate) fn mode_text(kind: alknet_fs::Kind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        alknet_fs::Kind::File => '-',
        alknet_fs::Kind::Dir => 'd',
        alknet_fs::Kind::Symlink => 'l',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_in_ls() {
        let mode = |mode| mode_text(alknet_fs::Kind::File, mode);
        assert_eq!(mode(0o644), "-rw-r--r--");
        assert_eq!(mode(0o4755), "-rwsr-xr-x");
        assert_eq!(mode(0o1666), "-rw-rw-rwT");
        assert_eq!(mode_text(alknet_fs::Kind::Dir, 0o2700), "drwx--S---");
    }

    #[test]
    fn times_for_programs_keep_every_nanosecond() {
        let time = |nanos| rfc3339(Timestamp(nanos));
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            time(1_700_000_000_123_456_789),
            "2023-11-14T22:13:20.123456789Z"
        );
        assert_eq!(time(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(time(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(time(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("plain ü"), "plain ü");
        assert_eq!(printable("a\x1b[31m\nb"), "a\\u{1b}[31m\\nb");
    }

    #[test]
    fn columns_line_up() {
        let out = Output::new(false, false, false);
        let mut table = Table::new(&["name", ">size"]);
        table.push(vec![Cell::new("a"), Cell::right(5)]);
        table.push(vec![Cell::new("lönger"), Cell::right(12345)]);
        let mut text = Vec::new();
        let plain = Output {
            color: false,
            ..out
        };
        table.write(&plain, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "name     size\na           5\nlönger  12345\n");
    }
}
