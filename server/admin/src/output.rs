//! What a command gives back, and how it looks: plain text with aligned tables, or JSON. No colours.

use std::io::Write;

use serde_json::Value;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// All of it.
    Done,
    /// None of it, or not what matters.
    Failed,
    /// Some of it.
    Partial,
    /// A check found problems, as fsck says it.
    Unsound,
}

impl Outcome {
    /// The process's exit status.
    pub(crate) fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Partial => 2,
            Outcome::Unsound => 4,
        }
    }

    /// What many parts come to, given how many of them worked and failed.
    pub(crate) fn of_parts(good: usize, bad: usize) -> Outcome {
        match (good, bad) {
            (_, 0) => Outcome::Done,
            (0, _) => Outcome::Failed,
            _ => Outcome::Partial,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Partial => "partial",
            Outcome::Unsound => "unsound",
        }
    }
}

/// A command's answer, in both forms.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// For people; ends with a newline unless empty.
    pub(crate) text: String,
    /// For programs; an object.
    pub(crate) json: Value,
}

impl Report {
    /// A whole answer.
    pub(crate) fn done(text: String, json: Value) -> Report {
        Report { outcome: Outcome::Done, text, json }
    }

    /// The JSON document, with the outcome in it.
    pub(crate) fn json_text(&self) -> String {
        let mut json = self.json.clone();
        if let Value::Object(object) = &mut json {
            object.insert("outcome".to_owned(), self.outcome.name().into());
        }
        json_text(&json)
    }
}

/// A JSON value as it is printed.
pub(crate) fn json_text(json: &Value) -> String {
    format!("{json:#}\n")
}

/// Writes to standard output.
///
/// # Errors
/// Whatever the write gives: a reader that has gone away.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Which side of its column a cell stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a heading, in columns as wide as their widest cell.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, a cell's line breaks become blanks.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().take(self.columns.len()).map(|cell| tame(&cell)).collect());
    }

    pub(crate) fn render(&self) -> String {
        let width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (name, _))| width(index).max(name.chars().count()))
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            out.push_str(self.line(row, &widths).trim_end());
            out.push('\n');
        }
        out
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells =
            self.columns.iter().zip(widths).enumerate().map(|(index, ((_, align), width))| {
                let cell = row.get(index).map_or("", String::as_str);
                match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
        cells.collect::<Vec<_>>().join("  ")
    }
}

/// Text from elsewhere (a path, a server's answer) without what would move a terminal's cursor.
pub(crate) fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("USED", Align::Right), ("", Align::Left)]);
        table.row(["a".to_owned(), "1 B".to_owned(), "x".to_owned()]);
        table.row(["längst".to_owned(), "1023.9 GiB".to_owned()]);
        table.row(["b\n\x1b[31m".to_owned(), String::new(), String::new(), "too many".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME           USED\na               1 B  x\nlängst   1023.9 GiB\nb  [31m\n"
        );
    }

    #[test]
    fn parts_add_up() {
        assert_eq!(Outcome::of_parts(0, 0), Outcome::Done);
        assert_eq!(Outcome::of_parts(3, 0).code(), 0);
        assert_eq!(Outcome::of_parts(0, 3).code(), 1);
        assert_eq!(Outcome::of_parts(2, 1).code(), 2);
    }

    #[test]
    fn the_json_says_how_it_ended() {
        let report =
            Report { outcome: Outcome::Partial, text: String::new(), json: json!({ "a": 1 }) };
        let back: Value = serde_json::from_str(&report.json_text()).expect("JSON");
        assert_eq!(back, json!({ "a": 1, "outcome": "partial" }));
    }
}
