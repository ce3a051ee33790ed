//! Aligned tables for people: columns as wide as their widest cell, two spaces between, numbers to the right.

use std::fmt::Write;

/// A table in the making.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads. A head that starts with `>` is a column of numbers, aligned to the right.
    pub fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has not as many cells as the table has heads.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.heads.len(), "a row has a cell under each head");
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// The text, with a line end after every row; only the heads' line if there are no rows.
    pub fn render(&self) -> String {
        let heads: Vec<String> = self.heads.iter().map(|head| head.trim_start_matches('>').to_owned()).collect();
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([heads[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            text.push_str(self.line(row, &widths).trim_end());
            text.push('\n');
        }
        text
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, &width), head) in row.iter().zip(widths).zip(&self.heads) {
            let written =
                if head.starts_with('>') { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
            written.expect("writing to a String cannot fail");
        }
        line
    }
}

/// A cell never moves the cursor: what a name or a path holds is not ours.
fn printable(cell: String) -> String {
    if cell.chars().any(char::is_control) {
        return cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    }
    cell
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["NAME", ">SIZE", "STATE"]);
        table.row(["a".into(), "10 GiB".into(), "up".into()]);
        table.row(["longer".into(), "1 B".into(), String::new()]);
        assert_eq!(table.render(), "NAME      SIZE  STATE\na       10 GiB  up\nlonger     1 B\n");
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(&["X"]);
        table.row(["a\u{1b}[2J\nb".into()]);
        assert_eq!(table.render().lines().count(), 2);
        assert!(!table.render().contains('\u{1b}'));
    }
}
