//! Plain tables.

/// Lines of a table: columns as wide as their widest cell, two spaces between, no trailing space.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell));
        cells.chain(head.get(column).map(|cell| visible(cell))).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(visible(cell)))))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

/// The longest text of a cell that is not there to be read in full.
const LONGEST: usize = 60;

/// A cell for a text of any form: its first line, cut when it is long. The whole text is told elsewhere.
pub fn cell(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    let head: String = line.chars().take(LONGEST - 1).collect();
    format!("{}…", head.trim_end())
}

/// Width without colour codes.
fn visible(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["system".into(), "ok".into()], vec!["k3s".into(), "failed".into()]];
        assert_eq!(table(&["stage", "result"], &rows), ["stage   result", "system  ok", "k3s     failed"]);
    }
    #[test]
    fn a_long_text_does_not_tear_the_table() {
        assert_eq!(cell("needs k3s"), "needs k3s");
        assert_eq!(cell("check x: not within 120 s\n  hint: wait"), "check x: not within 120 s");
        let long = cell(&"é".repeat(100));
        assert!(long.ends_with('…') && long.chars().count() == 60, "{long}");
    }
}
