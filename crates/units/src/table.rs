//! Aligned tables for people, and text from elsewhere made harmless: one printer for every command line of the house.
//!
//! Columns are as wide as their widest cell in terminal cells (UAX #11, so that a wide letter counts two), two spaces
//! between, nothing trailing. A head that starts with `>` is a column of numbers, aligned to the right.

use unicode_width::UnicodeWidthStr;

/// The text of a table: heads, then rows; only the heads' line if there are no rows.
#[must_use]
pub fn render<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = Table::new(&heads);
    rows.iter().for_each(|row| table.row(row.clone()));
    table.render()
}

/// The text of rows that need no heads.
#[must_use]
pub fn plain<const N: usize>(rows: &[[String; N]]) -> String {
    let mut table = Table::new(&[""; N]);
    rows.iter().for_each(|row| table.row(row.clone()));
    table.body()
}

/// What is known of one thing: a name and a value a line; what is empty is left out.
#[must_use]
pub fn facts(facts: &[(&str, String)]) -> String {
    let present = facts.iter().filter(|(_, value)| !value.is_empty());
    plain(&present.map(|(name, value)| [format!("{name}:"), value.clone()]).collect::<Vec<_>>())
}

/// A table in the making, where the columns are not known when the program is built.
pub struct Table {
    heads: Vec<Head>,
    rows: Vec<Vec<String>>,
}

struct Head {
    text: String,
    right: bool,
}

impl Table {
    /// A table with these heads.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        let head = |head: &&str| Head { text: printable(head.trim_start_matches('>')), right: head.starts_with('>') };
        Self { heads: heads.iter().map(head).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has not as many cells as the table has heads.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.heads.len(), "a row has a cell under each head");
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The text, with a line end after every row.
    #[must_use]
    pub fn render(&self) -> String {
        let heads: Vec<String> = self.heads.iter().map(|head| head.text.clone()).collect();
        self.line(&heads, &self.widths()) + &self.body()
    }

    fn body(&self) -> String {
        let widths = self.widths();
        self.rows.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let width = |(column, head): (usize, &Head)| {
            self.rows.iter().map(|row| row[column].width()).chain([head.text.width()]).max().unwrap_or(0)
        };
        self.heads.iter().enumerate().map(width).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, head), width) in row.iter().zip(&self.heads).zip(widths) {
            let padding = " ".repeat(width - cell.width());
            let (before, after) = if head.right { (padding.as_str(), "") } else { ("", padding.as_str()) };
            [before, cell, after, "  "].iter().for_each(|part| line.push_str(part));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// Text from elsewhere that moves no cursor and turns no direction of writing: a name or a path is not ours.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_bidi(c) { '\u{fffd}' } else { c }).collect()
}

/// Characters that turn the direction of writing: a name could look like another. Source: Unicode UAX #9 §2.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = [["a".into(), "10 GiB".into(), "up".into()], ["longer".into(), "1 B".into(), String::new()]];
        assert_eq!(
            render(["NAME", ">SIZE", "STATE"], &rows),
            "NAME      SIZE  STATE\na       10 GiB  up\nlonger     1 B\n"
        );
        assert_eq!(render(["NAME", ">SIZE"], &[]), "NAME  SIZE\n");
    }

    /// Goal: a wide letter does not push its row out of line. Method: two cells of Han, which take two places each.
    #[test]
    fn wide_letters_count_two() {
        let rows = [["\u{7532}\u{4e59}".into(), "x".into()], ["abcde".into(), "y".into()]];
        assert_eq!(plain(&rows), "\u{7532}\u{4e59}   x\nabcde  y\n");
    }

    #[test]
    fn a_cell_cannot_move_the_cursor_or_turn_the_line() {
        let rows = [["a\u{1b}[2J\nb".into(), "up".into()], ["x\u{202e}y".into(), String::new()]];
        let text = render(["NAME", "STATE"], &rows);
        assert_eq!(text, "NAME     STATE\na\u{fffd}[2J\u{fffd}b  up\nx\u{fffd}y\n");
    }

    #[test]
    fn facts_are_aligned_and_empty_ones_left_out() {
        let text = facts(&[("state", "running".into()), ("why", String::new()), ("on", "alpha\n".into())]);
        assert_eq!(text, "state:  running\non:     alpha\u{fffd}\n");
        assert_eq!(plain::<2>(&[]), "");
    }
}
