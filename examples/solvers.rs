//! Quality of every solver against its number of evaluations, on the model of the quickstart.
//!
//! `cargo run --release --example solvers`, after the quickstart. Several seeds, with the same initial noise for all solvers:
//! Fréchet distance and accuracy as the quickstart measures them, and for deterministic solvers the distance of the latents to a
//! solution in many steps. With `--student`, a model that was distilled from it, too. Writes `solvers.csv` and `solvers.svg`, and
//! prints tables.

#[path = "quickstart/digits.rs"]
#[allow(dead_code)]
mod digits;
#[path = "quickstart/evaluate.rs"]
mod evaluate;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use plotters::prelude::*;
use transdiff::diffusion::{
    KeyedNoise, NoopObserver, Preset, Sampling, SamplingSettings, Schedule, SolverKind,
};
use transdiff::models::Model;
use transdiff::models::transdiff::Session;
use transdiff::{Cpu, DType, TransDiff};

use digits::{CLASSES, Digits, Image, LATENT_SIDE, Latent, PIXELS, from_latent, quantized};
use evaluate::Evaluator;

/// Steps of the solution that deterministic solvers are compared with.
const REFERENCE_STEPS: usize = 400;
/// Entry of that solution.
const REFERENCE: &str = "adams-bashforth 4";
/// Warp and extrapolation of UCGM's sampler (arXiv 2505.07447).
const WARP: [f64; 3] = [1.17, 0.8, 1.1];
const EXTRAPOLATION: f64 = 0.3;
/// Number of evaluations whose distance to that solution is in the table.
const COMPARED: usize = 25;
/// Entry of a distilled model, and its numbers of evaluations per AR step.
const STUDENT: &str = "distilled";
const STUDENT_EVALUATIONS: [usize; 3] = [1, 2, 4];
/// Highest Fréchet distance of the figure, as a multiple of the lowest.
const CUT: f64 = 1.6;

/// Measures the quality of every solver against its number of evaluations.
#[derive(Parser)]
struct Arguments {
    /// Model of the quickstart
    #[arg(long, value_name = "FILE", default_value = "out/quickstart/model.safetensors")]
    model: PathBuf,
    /// Model that was distilled from it
    #[arg(long, value_name = "FILE")]
    student: Option<PathBuf>,
    /// Names of the solvers to measure, comma-separated [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    solvers: Vec<String>,
    /// Folder for the figure and the numbers
    #[arg(long, value_name = "DIR", default_value = "out/solvers")]
    out: PathBuf,
    /// Numbers of evaluations for the image
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "8,12,16,25,50,100")]
    evaluations: Vec<usize>,
    /// Number of evaluations for each reference of an MRAR model [default: as many as for the image]
    #[arg(long, value_name = "N")]
    references: Option<usize>,
    /// Number of seeds, at least 1
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Number of digits per seed, a multiple of 10
    #[arg(long, value_name = "N", default_value_t = 1000)]
    images: usize,
    /// Guidance scale
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    guidance: f64,
    /// Times at which guidance is active
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', default_value = "0,1")]
    guidance_interval: Vec<f64>,
}

/// A solver, and its line in table and figure.
struct Entry {
    name: &'static str,
    settings: SamplingSettings,
    /// Evaluations per step.
    per_step: usize,
    warp: Option<[f64; 3]>,
}

fn entries() -> Vec<Entry> {
    let entry = |name, solver, order, extrapolation, warp| {
        let settings = SamplingSettings::from(Preset::PLAIN).with_solver(solver);
        let per_step = if solver == SolverKind::Heun { 2 } else { 1 };
        Entry { name, settings: SamplingSettings { order, extrapolation, ..settings }, per_step, warp }
    };
    vec![
        entry("euler-maruyama", SolverKind::EulerMaruyama, None, None, None),
        entry("exponential-sde 1", SolverKind::ExponentialSde, Some(1), None, None),
        entry("exponential-sde 2", SolverKind::ExponentialSde, Some(2), None, None),
        entry("euler", SolverKind::Euler, None, None, None),
        entry("euler extrapolated", SolverKind::Euler, None, Some(EXTRAPOLATION), None),
        entry("euler extrapolated warped", SolverKind::Euler, None, Some(EXTRAPOLATION), Some(WARP)),
        entry("heun", SolverKind::Heun, None, None, None),
        entry("adams-bashforth 2", SolverKind::AdamsBashforth, Some(2), None, None),
        entry("adams-bashforth 4", SolverKind::AdamsBashforth, Some(4), None, None),
        entry("adams-bashforth 4 warped", SolverKind::AdamsBashforth, Some(4), None, Some(WARP)),
    ]
}

impl Entry {
    fn is_deterministic(&self) -> bool {
        !self.settings.solver.is_stochastic()
    }

    /// The sampling in `evaluations` evaluations, and in each AR step before the last in as many or those of the arguments.
    fn sampling(
        &self,
        evaluations: usize,
        arguments: &Arguments,
        ar_steps: usize,
    ) -> transdiff::Result<Sampling> {
        let references = arguments.references.unwrap_or(evaluations) / self.per_step;
        let mut steps = vec![references; ar_steps - 1];
        steps.push(evaluations / self.per_step);
        let [low, high] = arguments.guidance_interval[..] else {
            return Err(transdiff::Error::argument(
                "guidance_interval",
                "2 numbers",
                arguments.guidance_interval.len(),
            ));
        };
        let settings = SamplingSettings {
            schedule: self.warp.map_or(Schedule::Steps(steps.clone()), |warp| Schedule::Warped(steps, warp)),
            guidance: vec![arguments.guidance],
            guidance_interval: (low, high),
            ..self.settings.clone()
        };
        settings.build(ar_steps)
    }
}

/// Quality of one solver with one number of evaluations, for each seed.
struct Row {
    name: &'static str,
    evaluations: usize,
    frechet: Vec<f64>,
    accuracy: Vec<f64>,
    /// Root mean square of the differences of the latents to the reference; `None` for stochastic solvers.
    rmse: Option<f64>,
}

/// Latents of digits from `seed`, class after class.
fn latents(
    model: &TransDiff<Cpu>,
    sampling: &Sampling,
    images: usize,
    seed: u64,
) -> transdiff::Result<Vec<f32>> {
    let labels: Vec<usize> = labels(images);
    let seeds: Vec<u64> = (0..images as u64).map(|i| (seed << 32) + i).collect();
    let mut noise = KeyedNoise::new(model.backend(), DType::F32, &seeds);
    Session::new(model).generate(&labels, &[], sampling, &mut noise, &mut NoopObserver)?.codes.to_f32()
}

fn labels(images: usize) -> Vec<usize> {
    (0..images).map(|i| i % CLASSES).collect()
}

fn digits_of(latents: &[f32]) -> Vec<Image> {
    let latent = |values: &[f32]| Latent::try_from(values).expect("a latent of the model");
    latents.chunks_exact(PIXELS).map(|values| quantized(&from_latent(&latent(values)))).collect()
}

fn measure(
    model: &TransDiff<Cpu>,
    evaluator: &Evaluator,
    arguments: &Arguments,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let (config, ar_steps) = (model.config(), model.config().groups());
    let [channels, side] = [config.latent_channels, config.latent_size];
    if (channels * side * side, side) != (PIXELS, LATENT_SIDE) {
        let path = arguments.model.display();
        return Err(format!(
            "{path}: expected the quickstart's model, latents of 4×{LATENT_SIDE}×{LATENT_SIDE}, got {channels}×{side}×{side}"
        )
        .into());
    }
    let (images, all) = (arguments.images, entries());
    let names: Vec<&str> = all.iter().map(|entry| entry.name).collect();
    if let Some(unknown) = arguments.solvers.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("--solvers: expected some of {}, got {unknown}", names.join(", ")).into());
    }
    let student = arguments.student.as_ref().map(|path| TransDiff::load(model.backend(), path, DType::F32));
    let student = student.transpose()?;
    let chosen = |entry: &&Entry| {
        arguments.solvers.is_empty() || arguments.solvers.iter().any(|name| name == entry.name)
    };
    let mut cases = Vec::new();
    let reference = all.iter().find(|entry| entry.name == REFERENCE).ok_or("no entry of the reference")?;
    let reference = match all.iter().filter(chosen).any(Entry::is_deterministic) {
        true => latents(model, &reference.sampling(REFERENCE_STEPS, arguments, ar_steps)?, images, 0)?,
        false => Vec::new(),
    };
    for entry in all.iter().filter(chosen) {
        for &evaluations in &arguments.evaluations {
            let sampling = entry.sampling(evaluations, arguments, ar_steps)?;
            cases.push((model, entry.name, evaluations, sampling, entry.is_deterministic()));
        }
    }
    for student in student.iter() {
        for evaluations in STUDENT_EVALUATIONS {
            let settings = student.config().generator_info().settings().with_steps(evaluations);
            cases.push((student, STUDENT, evaluations, settings.build(ar_steps)?, false));
        }
    }
    let mut rows = Vec::new();
    for (model, name, evaluations, sampling, is_deterministic) in cases {
        let mut row = Row { name, evaluations, frechet: Vec::new(), accuracy: Vec::new(), rmse: None };
        for seed in 0..arguments.seeds {
            let made = latents(model, &sampling, images, seed)?;
            if seed == 0 && is_deterministic {
                let sum: f64 = made.iter().zip(&reference).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                row.rmse = Some((sum / made.len() as f64).sqrt());
            }
            let quality = evaluator.quality(&digits_of(&made), &labels(images))?;
            row.frechet.push(quality.frechet_distance);
            row.accuracy.push(quality.accuracy);
        }
        eprintln!("{name}, {evaluations}: {}", row.cell());
        rows.push(row);
    }
    Ok(rows)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation over the seeds.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len().max(2) - 1) as f64).sqrt()
}

impl Row {
    /// Mean and standard deviation of the distance, and mean accuracy.
    fn cell(&self) -> String {
        let (frechet, spread, accuracy) =
            (mean(&self.frechet), deviation(&self.frechet), mean(&self.accuracy));
        format!("{frechet:.1} ± {spread:.1}, {accuracy:.3}")
    }
}

/// Tables of the solvers and of the student: a line for each, a column for each of its numbers of evaluations.
fn print_tables(rows: &[Row]) {
    for of_student in [false, true] {
        let rows: Vec<&Row> = rows.iter().filter(|row| (row.name == STUDENT) == of_student).collect();
        let mut columns: Vec<usize> = rows.iter().map(|row| row.evaluations).collect();
        columns.sort_unstable();
        columns.dedup();
        let mut names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        names.dedup();
        if names.is_empty() {
            continue;
        }
        let heads: Vec<String> = columns.iter().map(usize::to_string).collect();
        println!("| solver | {} | RMSE in {COMPARED} |", heads.join(" | "));
        println!("|---|{}---|", "---|".repeat(columns.len()));
        for name in names {
            let row =
                |evaluations| rows.iter().find(|row| (row.name, row.evaluations) == (name, evaluations));
            let cells = columns.iter().map(|&column| row(column).map_or(String::new(), |row| row.cell()));
            let rmse =
                row(COMPARED).and_then(|row| row.rmse).map_or(String::new(), |rmse| format!("{rmse:.4}"));
            println!("| {name} | {} | {rmse} |", cells.collect::<Vec<_>>().join(" | "));
        }
        println!();
    }
}

fn write_numbers(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let mut file = csv::Writer::from_path(path)?;
    file.write_record(["solver", "evaluations", "seed", "frechet_distance", "accuracy"])?;
    for row in rows {
        for (seed, (frechet, accuracy)) in row.frechet.iter().zip(&row.accuracy).enumerate() {
            let numbers =
                [row.evaluations.to_string(), seed.to_string(), frechet.to_string(), accuracy.to_string()];
            file.write_record([row.name.to_owned()].iter().chain(&numbers))?;
        }
    }
    Ok(file.flush()?)
}

/// Fréchet distance over the number of evaluations, a line for each solver; above [`CUT`] times the lowest it is cut off.
fn draw(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let distance = |row: &Row| mean(&row.frechet);
    let lowest = rows.iter().map(distance).fold(f64::INFINITY, f64::min);
    let [fewest, most] =
        [rows.iter().map(|row| row.evaluations).min(), rows.iter().map(|row| row.evaluations).max()]
            .map(|evaluations| evaluations.unwrap_or(1) as f64);
    let area = SVGBackend::new(path, (820, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((fewest..most * 1.02).log_scale(), 0.9 * lowest..CUT * lowest)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("evaluations")
        .y_desc("Fréchet distance")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    let mut names: Vec<&'static str> = rows.iter().map(|row| row.name).collect();
    names.dedup();
    for (i, name) in names.into_iter().enumerate() {
        let colour = Palette99::pick(i).to_rgba();
        let points = rows.iter().filter(|row| row.name == name && distance(row) <= CUT * lowest);
        let points: Vec<_> = points.map(|row| (row.evaluations as f64, distance(row))).collect();
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(area.present()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (train, test) = Digits::load()?;
    let evaluator = Evaluator::new(&train, &test)?;
    let model = TransDiff::load(&Cpu::new(None)?, &arguments.model, DType::F32)?;
    fs::create_dir_all(&arguments.out)?;
    let rows = measure(&model, &evaluator, &arguments)?;
    print_tables(&rows);
    write_numbers(&arguments.out.join("solvers.csv"), &rows)?;
    let figure = arguments.out.join("solvers.svg");
    draw(&figure, &rows)?;
    println!("figure: {}", figure.display());
    Ok(())
}
