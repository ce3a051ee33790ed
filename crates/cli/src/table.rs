//! Aligned tables for people: columns as wide as their widest cell, two spaces between.

use crate::printable;

/// The text of a table: heads, then rows, nothing trailing.
pub fn render<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let heads = heads.map(str::to_owned);
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&heads).chain(&rows).map(|row| row[column].chars().count());
        cells.max().expect("the heads are a row")
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(&rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn columns_are_aligned_and_a_cell_cannot_move_the_cursor() {
        let rows = [["a".into(), "up".into()], ["long\u{1b}er".into(), String::new()]];
        assert_eq!(render(["NAME", "STATE"], &rows), "NAME     STATE\na        up\nlong\u{fffd}er\n");
    }
}
