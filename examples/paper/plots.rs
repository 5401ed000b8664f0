//! Plots (SVG): the mean over seeds as a line, its standard error as a bar, and a dot per seed.

use std::fmt::Write as _;

use crate::statistics::Spread;

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Width of the number of a place.
const NUMBER: f64 = 20.0;
const COLOURS: [&str; 4] = ["#173f6e", "#c0392b", "#3b7d4f", "#8e5ea2"];

/// A panel of a plot.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Title of the horizontal axis.
    pub x: String,
    /// Title of the vertical axis.
    pub y: String,
    /// Logarithmic horizontal axis.
    pub log: bool,
    /// Lines.
    pub series: Vec<Series>,
}

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name; empty for a single line.
    pub name: String,
    /// Places on the horizontal axis, each with the values of all seeds.
    pub points: Vec<(f64, Vec<f64>)>,
}

/// Plot of `panels`, side by side.
pub fn svg(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#444\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", WIDTH * index as f64);
        let _ = Axes::new(panel).draw(&mut svg, panel);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Axes that map values to coordinates of a panel.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
    log: bool,
}

impl Axes {
    fn new(panel: &Panel) -> Self {
        let place = |x: f64| if panel.log { x.ln() } else { x };
        let points = || panel.series.iter().flat_map(|series| &series.points);
        let x = range(points().map(|(x, _)| place(*x)), 0.04);
        let y = range(points().flat_map(|(_, values)| values.iter().copied()), 0.08);
        Self { x, y, log: panel.log }
    }

    fn left(&self, x: f64) -> f64 {
        let x = if self.log { x.ln() } else { x };
        LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
    }

    fn top(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - BOTTOM - TOP)
    }

    fn draw(&self, svg: &mut String, panel: &Panel) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in ticks(self.y) {
            let y = self.top(value);
            writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e6e6e6\"/>")?;
            let (x, y) = (LEFT - 8.0, y + 4.0);
            writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", rounded(value))?;
        }
        // Values are few: each place has its number, unless that of another is too near.
        let mut places: Vec<f64> =
            panel.series.iter().flat_map(|series| series.points.iter().map(|(x, _)| *x)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let mut last = f64::NEG_INFINITY;
        for value in places {
            let (x, y) = (self.left(value), bottom + 19.0);
            writeln!(svg, "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#444\"/>")?;
            if x < last + NUMBER {
                continue;
            }
            last = x;
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", rounded(value))?;
        }
        writeln!(svg, "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#444\"/>")?;
        let (middle, low, centre) = ((LEFT + right) / 2.0, HEIGHT - 12.0, (TOP + bottom) / 2.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>", panel.x)?;
        writeln!(
            svg,
            "<text transform=\"translate(16 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            panel.y
        )?;
        for (index, series) in panel.series.iter().enumerate() {
            self.draw_series(svg, series, index)?;
        }
        Ok(())
    }

    fn draw_series(&self, svg: &mut String, series: &Series, index: usize) -> std::fmt::Result {
        let colour = COLOURS[index % COLOURS.len()];
        // Names above the axes, in columns of two.
        let (x, y) = (LEFT + 8.0 + 140.0 * (index / 2) as f64, TOP - 24.0 + 14.0 * (index % 2) as f64);
        writeln!(svg, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", series.name)?;
        let known = || series.points.iter().filter(|(_, values)| !values.is_empty());
        write!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" points=\"")?;
        for (x, values) in known() {
            write!(svg, "{:.1},{:.1} ", self.left(*x), self.top(Spread::of(values).mean))?;
        }
        writeln!(svg, "\"/>")?;
        for (x, values) in known() {
            let (spread, x) = (Spread::of(values), self.left(*x));
            let [high, low] = [1.0, -1.0].map(|sign| self.top(spread.mean + sign * spread.standard_error()));
            writeln!(svg, "<path d=\"M{x:.1} {high:.1}V{low:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>")?;
            for value in values {
                let y = self.top(*value);
                writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\" fill-opacity=\".4\"/>"
                )?;
            }
        }
        Ok(())
    }
}

/// Smallest and largest value, with a margin.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> [f64; 2] {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    values.for_each(|value| (low, high) = (low.min(value), high.max(value)));
    if low > high {
        return [0.0, 1.0];
    }
    let margin = (high - low).max(1e-6 * high.abs()).max(1e-9) * margin;
    [low - margin, high + margin]
}

/// Four to ten round numbers in a range.
fn ticks([low, high]: [f64; 2]) -> Vec<f64> {
    let span = high - low;
    let power = 10f64.powf((span / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0].map(|m| m * power).into_iter().find(|s| span / s >= 4.0).unwrap_or(power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: Vec<(f64, Vec<f64>)>) -> Panel {
        let series = vec![Series { name: "line".to_owned(), points }];
        Panel { x: "x".to_owned(), y: "y".to_owned(), log: true, series }
    }

    #[test]
    fn every_seed_has_a_dot_and_every_place_a_bar() {
        let plot =
            svg(&[panel(vec![(1.0, vec![2.0, 3.0]), (16.0, vec![5.0, 4.0])]), panel(vec![(2.0, vec![1.0])])]);
        assert_eq!((plot.matches("<circle").count(), plot.matches("stroke-width=\"3\"").count()), (5, 3));
        assert!(plot.ends_with("</svg>\n") && !plot.contains("NaN") && !plot.contains("inf"), "{plot}");
    }

    #[test]
    fn plots_without_values_are_complete() {
        for points in [Vec::new(), vec![(4.0, Vec::new())], vec![(4.0, vec![1.0; 3])]] {
            let plot = svg(&[panel(points)]);
            assert!(plot.ends_with("</svg>\n") && !plot.contains("NaN") && !plot.contains("inf"), "{plot}");
        }
    }
}
