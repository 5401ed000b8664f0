//! Plot of losses over the steps of training, as an SVG file.

use std::fmt::Write as _;
use std::path::Path;

use transdiff_core::Result;
use transdiff_core::checkpoint::write_bytes_atomic;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Points of a curve that are drawn at most. More cannot be told apart, and take megabytes.
const MAX_POINTS: usize = 4000;

/// Loss at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Number of the step, from 1 in each phase.
    pub step: u64,
    /// The loss. One that is not finite is left out.
    pub loss: f64,
}

/// Phase of training.
#[derive(Clone, Debug)]
struct Phase {
    name: String,
    /// Steps of the phases before.
    first_step: u64,
    training: Vec<Point>,
    validation: Vec<Point>,
}

impl Phase {
    fn end(&self) -> u64 {
        let last = self.training.iter().chain(&self.validation).map(|point| point.step).max();
        self.first_step + last.unwrap_or(0)
    }
}

/// Plot of the losses of all phases one after the other: training losses faint, their moving average as a line, and
/// validation losses as a second line.
#[derive(Clone, Debug, Default)]
pub struct LossPlot {
    phases: Vec<Phase>,
}

impl LossPlot {
    /// Adds a phase under the label `name`. Points are in the order of their steps.
    pub fn add_phase(
        &mut self,
        name: &str,
        training: impl IntoIterator<Item = Point>,
        validation: impl IntoIterator<Item = Point>,
    ) {
        let finite = |point: &Point| point.loss.is_finite();
        self.phases.push(Phase {
            name: name.to_owned(),
            first_step: self.phases.last().map_or(0, Phase::end),
            training: training.into_iter().filter(finite).collect(),
            validation: validation.into_iter().filter(finite).collect(),
        });
    }

    /// Writes the plot to a file, which holds either its old contents or the new ones.
    ///
    /// # Errors
    /// [`transdiff_core::Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        write_bytes_atomic(path, self.svg().as_bytes())
    }

    fn svg(&self) -> String {
        let axes = Axes::new(&self.phases);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#444\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        // Writing to a string cannot fail.
        let _ = axes.draw(&mut svg);
        for phase in &self.phases {
            let _ = axes.draw_phase(&mut svg, phase);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Axes that map steps and losses to coordinates of the plot.
struct Axes {
    steps: f64,
    low: f64,
    high: f64,
}

impl Axes {
    /// Axes for the losses of all phases. The first losses are many times the last, so losses above the
    /// 99th percentile are clipped.
    fn new(phases: &[Phase]) -> Self {
        let points = phases.iter().flat_map(|phase| phase.training.iter().chain(&phase.validation));
        let mut losses: Vec<f64> = points.map(|point| point.loss).collect();
        losses.sort_by(f64::total_cmp);
        let quantile = |q: f64| losses.get((losses.len() as f64 * q) as usize).copied().unwrap_or(1.0);
        let (low, high) = (quantile(0.0), quantile(0.99));
        let margin = (high - low).max(1e-6) * 0.06;
        let steps = phases.last().map_or(0, Phase::end).max(1) as f64;
        Self { steps, low: low - margin, high: high + margin }
    }

    fn x(&self, step: f64) -> f64 {
        LEFT + step / self.steps * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, loss: f64) -> f64 {
        let height = (loss - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - height.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    }

    fn draw(&self, svg: &mut String) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for loss in ticks(self.low, self.high) {
            let (y, text) = (self.y(loss), (loss * 1e6).round() / 1e6);
            writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e6e6e6\"/>")?;
            let (x, y) = (LEFT - 8.0, y + 4.0);
            writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{text}</text>")?;
        }
        for step in ticks(0.0, self.steps) {
            let x = self.x(step);
            writeln!(svg, "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#444\"/>")?;
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{step}</text>", bottom + 19.0)?;
        }
        writeln!(svg, "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#444\"/>")?;
        let (middle, low) = ((LEFT + right) / 2.0, HEIGHT - 12.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">training step</text>")?;
        let centre = (TOP + bottom) / 2.0;
        writeln!(
            svg,
            "<text transform=\"translate(18 {centre}) rotate(-90)\" text-anchor=\"middle\">loss</text>"
        )
    }

    fn draw_phase(&self, svg: &mut String, phase: &Phase) -> std::fmt::Result {
        let start = self.x(phase.first_step as f64);
        if phase.first_step > 0 {
            let bottom = HEIGHT - BOTTOM;
            writeln!(
                svg,
                "<path d=\"M{start:.1} {TOP}V{bottom}\" stroke=\"#bbb\" stroke-dasharray=\"4 4\"/>"
            )?;
        }
        let (x, y) = (start + 6.0, TOP - 12.0);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\">{}</text>", escaped(&phase.name))?;
        svg.push_str("<path fill=\"none\" stroke=\"#4878b0\" stroke-opacity=\".4\" stroke-width=\"2.6\" stroke-linecap=\"round\" d=\"");
        for point in thinned(&phase.training) {
            let (x, y) = self.place(phase, point);
            write!(svg, "M{x:.1} {y:.1}h0")?;
        }
        svg.push_str("\"/>\n");
        self.draw_line(svg, phase, &smoothed(&phase.training), "#173f6e")?;
        if let Some(last) = phase.validation.last() {
            let colour = "#c0392b";
            self.draw_line(svg, phase, &phase.validation, colour)?;
            let (x, y) = self.place(phase, last);
            let y = y - 8.0;
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"{colour}\">validation</text>"
            )?;
        }
        Ok(())
    }

    fn draw_line(&self, svg: &mut String, phase: &Phase, points: &[Point], colour: &str) -> std::fmt::Result {
        write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\" points=\""
        )?;
        for point in thinned(points) {
            let (x, y) = self.place(phase, point);
            write!(svg, "{x:.1},{y:.1} ")?;
        }
        writeln!(svg, "\"/>")
    }

    /// Coordinates of a point, in the middle of its step.
    fn place(&self, phase: &Phase, point: &Point) -> (f64, f64) {
        (self.x((phase.first_step + point.step) as f64 - 0.5), self.y(point.loss))
    }
}

/// Every nth of the points, at most [`MAX_POINTS`].
fn thinned(points: &[Point]) -> impl Iterator<Item = &Point> {
    points.iter().step_by(points.len().div_ceil(MAX_POINTS).max(1))
}

/// Four to ten round numbers between `low` and `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let span = high - low;
    let power = 10f64.powf((span / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0].map(|m| m * power).into_iter().find(|s| span / s >= 4.0).unwrap_or(power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Mean over a centred window; a running mean would lag behind.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = points.len() / 50;
    let mut sums = vec![0.0];
    sums.extend(points.iter().scan(0.0, |sum, point| {
        *sum += point.loss;
        Some(*sum)
    }));
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub(reach), points.len().min(i + reach + 1));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    points.iter().enumerate().map(|(i, point)| Point { loss: mean(i), ..*point }).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(losses: &[f64]) -> impl Iterator<Item = Point> {
        (1..).zip(losses).map(|(step, &loss)| Point { step, loss })
    }

    #[test]
    fn plot_has_a_line_per_phase_and_one_for_validation() {
        let mut plot = LossPlot::default();
        plot.add_phase("1-step <&>", points(&[4.0, 2.0, f64::NAN, 1.0]), []);
        plot.add_phase("MRAR", points(&[1.5, 1.0]), [Point { step: 2, loss: 1.2 }]);
        let svg = plot.svg();
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert_eq!(svg.matches("h0").count(), 5, "a point per finite loss");
        assert!(svg.contains("1-step &lt;&amp;>") && svg.contains(">validation<"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn plots_without_losses_or_with_one_are_complete() {
        let mut plot = LossPlot::default();
        assert!(plot.svg().ends_with("</svg>\n"));
        plot.add_phase("", points(&[0.5]), []);
        let svg = plot.svg();
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn long_runs_are_thinned() {
        let mut plot = LossPlot::default();
        plot.add_phase("", points(&vec![1.0; 500_000]), []);
        assert!(plot.svg().len() < 200_000);
    }

    #[test]
    fn smoothing_is_the_mean_of_a_centred_window() {
        let losses: Vec<f64> = (0..100).map(f64::from).collect();
        let smooth = smoothed(&points(&losses).collect::<Vec<_>>());
        assert_eq!([smooth[0].loss, smooth[50].loss, smooth[99].loss], [1.0, 50.0, 98.0]);
    }
}
