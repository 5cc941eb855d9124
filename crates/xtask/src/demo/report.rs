//! The table and the curve.

use super::task::Task;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// One number of labelled examples.
pub struct Row {
    size: usize,
    /// In the order in which they came.
    results: Vec<(String, f64)>,
}

impl Row {
    pub fn new(size: usize) -> Self {
        Self { size, results: Vec::new() }
    }

    pub fn add(&mut self, results: BTreeMap<String, f64>) {
        self.results.extend(results);
    }

    fn value(&self, what: &str) -> Option<f64> {
        self.results.iter().find(|(name, _)| name == what).map(|(_, value)| *value)
    }
}

/// Prints the table and writes it and the curve beside the runs.
pub fn write(task: &Task, rows: &[Row], out: &Path) -> Result<()> {
    let text = table(task, rows)?;
    println!("\n{text}");
    let svg = out.join(format!("{}.svg", task.name));
    std::fs::write(&svg, picture(task, rows))?;
    std::fs::write(out.join(format!("{}.md", task.name)), text)?;
    println!("curve {}", svg.display());
    Ok(())
}

fn names(rows: &[Row]) -> Vec<&str> {
    rows.first().map(|row| row.results.iter().map(|(name, _)| name.as_str()).collect()).unwrap_or_default()
}

fn table(task: &Task, rows: &[Row]) -> Result<String> {
    let mut text = format!("{} (`cargo xtask demo {}`, {}):\n\n", task.title, task.name, task.metric);
    let sizes = rows.iter().map(|row| format!(" {} |", row.size)).collect::<String>();
    writeln!(text, "| labelled examples |{sizes}\n|---|{}", "---|".repeat(rows.len()))?;
    for name in names(rows) {
        let values =
            rows.iter().map(|row| row.value(name).map_or(" – |".to_owned(), |value| format!(" {value:.3} |")));
        writeln!(text, "| {name} |{}", values.collect::<String>())?;
    }
    Ok(text)
}

const COLOURS: [&str; 8] = ["#a0aec0", "#718096", "#c05621", "#2b6cb0", "#2f855a", "#b7791f", "#6b46c1", "#b83280"];

/// Examples on a logarithmic axis, a line each.
fn picture(task: &Task, rows: &[Row]) -> String {
    let (width, height, left, right, bottom) = (720.0, 360.0, 48.0, 180.0, 40.0);
    let all = || rows.iter().flat_map(|row| row.results.iter().map(|(_, value)| *value));
    let low = (all().fold(f64::INFINITY, f64::min) * 20.0).floor() / 20.0;
    let high = ((all().fold(f64::NEG_INFINITY, f64::max) * 20.0).ceil() / 20.0).max(low + 0.05);
    let log = |size: usize| (size.max(1) as f64).ln();
    let (first, last) = (rows.first().map_or(0.0, |row| log(row.size)), rows.last().map_or(1.0, |row| log(row.size)));
    let x = |size: usize| left + (log(size) - first) / (last - first).max(1e-9) * (width - left - right);
    let y = |value: f64| 8.0 + (high - value) / (high - low) * (height - bottom - 8.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for step in 0..=4 {
        let value = low + (high - low) * f64::from(step) / 4.0;
        let at = y(value);
        let end = width - right;
        svg += &format!("<line x1=\"{left}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n");
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.2}</text>\n", left - 6.0, at + 4.0);
    }
    for row in rows {
        let (at, under) = (x(row.size), height - 24.0);
        svg += &format!("<text x=\"{at:.1}\" y=\"{under}\" text-anchor=\"middle\">{}</text>\n", row.size);
    }
    svg += &format!(
        "<text x=\"{left}\" y=\"{}\">{}: {} by labelled examples</text>\n",
        height - 6.0,
        task.title,
        task.metric
    );
    for (index, name) in names(rows).into_iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<(f64, f64)> = rows.iter().filter_map(|row| Some((x(row.size), y(row.value(name)?)))).collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        svg += &format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n",
            line.join(" ")
        );
        for (x, y) in &points {
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n");
        }
        let (at, down) = (width - right + 12.0, 20.0 + 18.0 * index as f64);
        svg += &format!("<text x=\"{at}\" y=\"{down}\" fill=\"{colour}\">{name}</text>\n");
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::super::task::{Examples, Language};
    use super::*;
    use crate::corpora::labelled::Split;

    #[test]
    fn each_way_has_a_row_and_each_size_a_column() {
        let task = Task {
            name: "spam",
            title: "Spam",
            language: Language::English,
            examples: Examples::Tagged(Split { train: Vec::new(), test: Vec::new() }),
            labels: Vec::new(),
            metric: "eval/accuracy",
        };
        let row = |size, value| {
            let mut row = Row::new(size);
            row.add(BTreeMap::from([("scratch".to_owned(), value)]));
            row.add(BTreeMap::from([("pretrained".to_owned(), value + 0.1)]));
            row
        };
        let rows = [row(100, 0.5), row(1000, 0.625)];
        let text = table(&task, &rows).unwrap();
        assert!(text.ends_with("| scratch | 0.500 | 0.625 |\n| pretrained | 0.600 | 0.725 |\n"), "{text}");
        let svg = picture(&task, &rows);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 4));
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
