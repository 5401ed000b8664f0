//! The figures: samples as a grid (PNG) and the training loss as curves (SVG).

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use transdiff::checkpoint::write_bytes_atomic;

use crate::digits::{CLASSES, Image, SIDE, WHITE};

/// Side in output pixels of each pixel of a digit.
const SCALE: usize = 6;
/// Pixels between digits.
const GAP: usize = 4;
const TILE: usize = SIDE * SCALE + GAP;
/// Background, a little lighter than the digits' black so that their edges show.
const BACKGROUND: u8 = 40;

/// Writes one row per class with the first `columns` images of each.
pub fn write_grid(
    path: &Path,
    images: &[Image],
    labels: &[usize],
    columns: usize,
) -> Result<(), Box<dyn Error>> {
    let (width, height) = (columns * TILE + GAP, CLASSES * TILE + GAP);
    let mut canvas = vec![BACKGROUND; width * height];
    let mut filled = [0; CLASSES];
    for (image, &class) in images.iter().zip(labels) {
        if filled[class] < columns {
            paste(&mut canvas, width, image, GAP + filled[class] * TILE, GAP + class * TILE);
            filled[class] += 1;
        }
    }
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas)?;
    writer.finish()?;
    Ok(write_bytes_atomic(path, &png)?)
}

/// Draws an enlarged image by repeating pixels, so that the pixel values stay visible.
fn paste(canvas: &mut [u8], width: usize, image: &Image, left: usize, top: usize) {
    for y in 0..SIDE * SCALE {
        let row = &mut canvas[(top + y) * width + left..][..SIDE * SCALE];
        for (x, value) in row.iter_mut().enumerate() {
            *value = (image[y / SCALE * SIDE + x / SCALE] / WHITE * 255.0).round() as u8;
        }
    }
}

/// The losses of one phase of training, one per step.
pub struct LossCurve<'a> {
    /// Label above its part of the plot.
    pub name: &'a str,
    /// Losses in the order of the steps.
    pub losses: &'a [f32],
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;

/// Plots the losses of all phases one after the other: raw values faint, smoothed values as a line.
pub fn write_loss_curves(path: &Path, phases: &[LossCurve<'_>]) -> Result<(), Box<dyn Error>> {
    let axes = Axes::new(phases);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#444\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    axes.draw(&mut svg)?;
    let mut first_step = 0;
    for phase in phases {
        axes.draw_phase(&mut svg, first_step, phase)?;
        first_step += phase.losses.len();
    }
    svg.push_str("</svg>\n");
    Ok(write_bytes_atomic(path, svg.as_bytes())?)
}

/// Axes that map steps and losses to coordinates of the plot.
struct Axes {
    steps: f64,
    low: f64,
    high: f64,
}

impl Axes {
    /// Axes for the losses of all phases. The first losses are many times the last: the highest percentile is clipped.
    fn new(phases: &[LossCurve<'_>]) -> Self {
        let finite = |loss: &&f32| loss.is_finite();
        let mut losses: Vec<f32> = phases.iter().flat_map(|p| p.losses).filter(finite).copied().collect();
        losses.sort_by(f32::total_cmp);
        let quantile =
            |q: f64| losses.get((losses.len() as f64 * q) as usize).copied().map_or(1.0, f64::from);
        let (low, high) = (quantile(0.0), quantile(0.99));
        let margin = (high - low).max(1e-6) * 0.06;
        let steps = phases.iter().map(|p| p.losses.len()).sum::<usize>().max(1) as f64;
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
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                y + 4.0
            )?;
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

    fn draw_phase(&self, svg: &mut String, first_step: usize, phase: &LossCurve<'_>) -> std::fmt::Result {
        let start = self.x(first_step as f64);
        if first_step > 0 {
            let bottom = HEIGHT - BOTTOM;
            writeln!(
                svg,
                "<path d=\"M{start:.1} {TOP}V{bottom}\" stroke=\"#bbb\" stroke-dasharray=\"4 4\"/>"
            )?;
        }
        writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{}</text>", start + 6.0, TOP - 12.0, escaped(phase.name))?;
        let point = |i: usize, loss: f64| (self.x((first_step + i) as f64 + 0.5), self.y(loss));
        svg.push_str("<path fill=\"none\" stroke=\"#4878b0\" stroke-opacity=\".4\" stroke-width=\"2.6\" stroke-linecap=\"round\" d=\"");
        for (i, &loss) in phase.losses.iter().enumerate().filter(|(_, loss)| loss.is_finite()) {
            let (x, y) = point(i, f64::from(loss));
            write!(svg, "M{x:.1} {y:.1}h0")?;
        }
        svg.push_str("\"/>\n<polyline fill=\"none\" stroke=\"#173f6e\" stroke-width=\"1.8\" stroke-linejoin=\"round\" points=\"");
        for (i, loss) in smoothed(phase.losses).into_iter().enumerate().filter(|(_, loss)| loss.is_finite()) {
            let (x, y) = point(i, loss);
            write!(svg, "{x:.1},{y:.1} ")?;
        }
        writeln!(svg, "\"/>")
    }
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
fn smoothed(losses: &[f32]) -> Vec<f64> {
    let reach = losses.len() / 50;
    let mean = |part: &[f32]| part.iter().map(|&x| f64::from(x)).sum::<f64>() / part.len() as f64;
    (0..losses.len())
        .map(|i| mean(&losses[i.saturating_sub(reach)..losses.len().min(i + reach + 1)]))
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
