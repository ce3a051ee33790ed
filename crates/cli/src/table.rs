//! Aligned tables for people: columns as wide as their widest cell, two spaces between.

use crate::print::printable;

/// The text of a table: heads, then rows, nothing trailing.
pub fn render<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let heads = heads.map(str::to_owned);
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    align(&std::iter::once(&heads).chain(&rows).collect::<Vec<_>>())
}

/// The text of rows that need no heads.
pub fn plain<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    align(&rows.iter().collect::<Vec<_>>())
}

/// What is known of one thing: a name and a value a line; what is empty is left out.
pub fn facts(facts: &[(&str, String)]) -> String {
    let rows: Vec<[String; 2]> = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| [format!("{name}:"), value.clone()])
        .collect();
    plain(&rows)
}

fn align<const N: usize>(rows: &[&[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
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

    #[test]
    fn facts_are_aligned_and_empty_ones_left_out() {
        let text = facts(&[("state", "running".into()), ("why", String::new()), ("on", "alpha\n".into())]);
        assert_eq!(text, "state:  running\non:     alpha\u{fffd}\n");
        assert_eq!(plain::<2>(&[]), "");
    }
}
