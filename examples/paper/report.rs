//! The report: tables, plots, grids, claims and verdicts.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;
use transdiff::Backend;

use crate::experiments::{Column, Condition, Experiment};
use crate::grids::{Grey, side_by_side};
use crate::judge::{Judge, Measures};
use crate::plots::svg;
use crate::statistics::{Spread, Verdict};
use crate::study::Study;

/// Enlargement of grids.
const ENLARGEMENT: usize = 2;

/// Measures of the real pictures, with which those of images compare.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RealPictures {
    /// Accuracy of the classifier on the held-out pictures.
    pub accuracy: f64,
    /// Inception Score of the held-out pictures.
    pub inception_score: f64,
    /// Fréchet distance of as many training pictures as a set has images.
    pub frechet_distance: f64,
}

impl RealPictures {
    /// Measures the pictures of `study`.
    pub fn of<B: Backend>(study: &Study<'_, B>, judge: &Judge<B>) -> transdiff::Result<Self> {
        Ok(Self {
            accuracy: judge.held_out_accuracy,
            inception_score: judge.held_out_score,
            frechet_distance: judge.distance_of_real(&study.train, study.scale.images)?,
        })
    }
}

/// Results of an experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// Name of the experiment.
    experiment: &'static str,
    #[serde(skip)]
    title: &'static str,
    #[serde(skip)]
    note: String,
    /// Seeds whose measures are complete.
    seeds: Vec<u64>,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
    claims: Vec<Outcome>,
}

/// A row of a table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    condition: String,
    /// Spread over seeds, by column; none where the set has no such measure.
    cells: Vec<Option<Spread>>,
}

/// A claim, and its verdict.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    paper: &'static str,
    tested: String,
    /// Of each seed; positive as the paper claims.
    differences: Vec<f64>,
    verdict: Verdict,
}

/// Everything in `report.json`.
#[derive(Serialize)]
struct Report<'a, S: Serialize> {
    settings: &'a S,
    real_pictures: RealPictures,
    experiments: &'a [Section],
}

/// Writes report, plots and grids of `experiments` for the seeds before `seeds` that are complete. Returns the text.
pub fn write<B: Backend>(
    study: &Study<'_, B>,
    experiments: &[Experiment],
    seeds: u64,
    settings: &impl Serialize,
    real: RealPictures,
) -> Result<String, Box<dyn Error>> {
    let mut sections = Vec::new();
    for &experiment in experiments {
        let conditions = experiment.conditions(study.scale);
        let mut complete = Vec::new();
        for seed in 0..seeds {
            let sets = conditions.iter().map(|condition| study.measures(seed, &condition.set));
            let found: Option<Vec<Measures>> = sets.collect::<Result<_, _>>()?;
            complete.extend(found.map(|measures| (seed, measures)));
        }
        let (seeds, measures): (Vec<u64>, Vec<Vec<Measures>>) = complete.into_iter().unzip();
        let Some(&first) = seeds.first() else { continue };
        let plot = svg(&experiment.panels(study.scale, &measures));
        study.folder.write_bytes(&file(experiment, "svg"), plot.as_bytes())?;
        write_grid(study, experiment, &conditions, first)?;
        sections.push(section(study, experiment, &conditions, seeds, &measures));
    }
    let text = markdown(study, &sections, real);
    study.folder.write_bytes(&PathBuf::from("report.md"), text.as_bytes())?;
    let report = Report { settings, real_pictures: real, experiments: &sections };
    study.folder.write(&PathBuf::from("report.json"), &report)?;
    Ok(text)
}

fn file(experiment: Experiment, extension: &str) -> PathBuf {
    PathBuf::from(experiment.name()).with_extension(extension)
}

fn section<B: Backend>(
    study: &Study<'_, B>,
    experiment: Experiment,
    conditions: &[Condition],
    seeds: Vec<u64>,
    measures: &[Vec<Measures>],
) -> Section {
    let cell = |index: usize, column: Column| {
        let values: Option<Vec<f64>> = measures.iter().map(|seed| column.of(&seed[index])).collect();
        values.map(|values| Spread::of(&values))
    };
    let columns = experiment.columns();
    let row = |(index, condition): (usize, &Condition)| Row {
        condition: condition.label.clone(),
        cells: columns.iter().map(|&column| cell(index, column)).collect(),
    };
    let outcomes = experiment.claims(study.scale).into_iter().map(|claim| {
        let differences: Vec<f64> = measures.iter().map(|seed| (claim.difference)(seed)).collect();
        let verdict = Verdict::of(&differences);
        Outcome { paper: claim.paper, tested: claim.tested, differences, verdict }
    });
    Section {
        experiment: experiment.name(),
        title: experiment.title(),
        note: experiment.note(study.scale),
        seeds,
        columns: columns.iter().map(|column| column.name()).collect(),
        rows: conditions.iter().enumerate().map(row).collect(),
        claims: outcomes.collect(),
    }
}

/// Writes the strips of a seed side by side.
fn write_grid<B: Backend>(
    study: &Study<'_, B>,
    experiment: Experiment,
    conditions: &[Condition],
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    let mut strips = Vec::new();
    for condition in conditions {
        let path = study.folder.path(&condition.set.strip_file(seed));
        let png = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        strips.push(Grey::from_png(&png).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    let grid = side_by_side(&strips, ENLARGEMENT).ok_or("strips of one height were expected")?;
    Ok(study.folder.write_bytes(&file(experiment, "png"), &grid.to_png()?)?)
}

fn markdown<B: Backend>(study: &Study<'_, B>, sections: &[Section], real: RealPictures) -> String {
    let RealPictures { accuracy, inception_score, frechet_distance } = real;
    let images = study.scale.images;
    let mut text = format!(
        "# The paper in miniature\n\n\
         Fashion-MNIST, measured with the features of a classifier: accuracy {accuracy:.3} and Inception Score \
         {inception_score:.2} on the {} held-out pictures; {images} training pictures are at a Fréchet distance of \
         {frechet_distance:.2}. Sets have {images} images. Numbers are means ± standard deviations over seeds.\n\n\
         A claim is tested per seed by a number that is positive if it holds. It \"agrees\" if the mean is above 0 by more \
         than Student's t (95 %, two-sided) times the standard error, \"does not agree\" if it is as far below, and is \
         \"within noise\" otherwise, as always with one seed.\n",
        study.held_out.labels.len()
    );
    // Writing to a string cannot fail.
    let _ = sections.iter().try_for_each(|section| section.write(&mut text));
    text
}

impl Section {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        let seeds = self.seeds.len();
        let Self { title, note, experiment, .. } = self;
        writeln!(
            text,
            "\n## {title}\n\n{note}\n\nSeeds: {seeds}. Plot: `{experiment}.svg`; images: `{experiment}.png`.\n"
        )?;
        writeln!(text, "| | {} |", self.columns.join(" | "))?;
        writeln!(text, "|---{}|", "|---".repeat(self.columns.len()))?;
        for Row { condition, cells } in &self.rows {
            let cells = cells.iter().map(|cell| cell.as_ref().map_or("–".to_owned(), plain));
            writeln!(text, "| {condition} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
        writeln!(text, "\n| paper | tested | mean ± standard error | verdict |\n|---|---|---|---|")?;
        for Outcome { paper, tested, differences, verdict } in &self.claims {
            let spread = Spread::of(differences);
            let error = match seeds {
                1 => String::new(),
                _ => format!(" ± {:.3}", spread.standard_error()),
            };
            writeln!(text, "| {paper} | {tested} | {:.3}{error} | **{verdict}** |", spread.mean)?;
        }
        Ok(())
    }
}

fn plain(spread: &Spread) -> String {
    match spread.seeds {
        1 => format!("{:.3}", spread.mean),
        _ => format!("{:.3} ± {:.3}", spread.mean, spread.deviation),
    }
}
