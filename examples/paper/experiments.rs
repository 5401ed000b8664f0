//! The experiments: sets of images, tables and plots.

use transdiff::diffusion::{Preset, SolverKind};

use crate::judge::Measures;
use crate::plots::{Panel, Series};
use crate::scale::Scale;
use crate::units::{Content, ImageSet, ModelName, Sampled};

/// Guidance scales of the sweep.
const GUIDANCE: [f64; 6] = [1.0, 1.15, 1.3, 1.6, 2.0, 3.0];
/// The paper's guidance scale, which all other experiments sample with.
pub const PAPER_GUIDANCE: f64 = 1.3;
/// Drift scales s₀ and noise scales s₁ of the grid.
const DRIFT: [f64; 3] = [0.87, 0.93, 1.0];
const NOISE: [f64; 2] = [0.91, 1.0];
/// The paper's scales for its base model.
pub const PAPER_SCALES: [f64; 2] = [0.87, 0.91];
/// Number of AR steps of the paper's MRAR models.
pub const FEW: usize = 4;
/// Larger number of AR steps.
pub const MANY: usize = 16;
/// Solvers whose evaluations are counted; the last is that of students.
const SOLVERS: [SolverKind; 4] = [
    SolverKind::EulerMaruyama,
    SolverKind::ExponentialSde,
    SolverKind::AdamsBashforth,
    SolverKind::Consistency,
];
/// Their numbers of evaluations for each reference, which the base model does not have, and for the image: of the base model,
/// and of MRAR.
const EVALUATIONS: [[&[[usize; 2]]; 2]; 4] = [
    [&[[Preset::STEPS; 2], [25; 2], [16; 2]], &[[Preset::STEPS; 2], [10, 25]]],
    [&[[25; 2], [16; 2], [8; 2]], &[[10, 25], [10, 16], [6, 8]]],
    [&[[25; 2], [16; 2], [8; 2]], &[[10, 25], [10, 16], [6, 8]]],
    [&[[4; 2], [2; 2], [1; 2]], &[[4; 2], [2; 2]]],
];
/// Highest times with guidance that are compared with guidance at all times, for the base model in 16 evaluations.
const GUIDED_UNTIL: [f64; 2] = [0.7, 0.9];

/// An experiment of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Experiment {
    /// Guidance scales.
    Guidance,
    /// Scales of the sampler.
    Scales,
    /// Diversity of the features over training.
    Diversity,
    /// Truncated and mixed features.
    Features,
    /// MRAR against one step.
    Mrar,
    /// Number of references.
    References,
    /// Number of evaluations.
    Evaluations,
}

/// A row of an experiment's table.
pub struct Condition {
    /// Name of the row.
    pub label: String,
    /// Place on the horizontal axis of plots.
    pub x: f64,
    /// Images that are measured.
    pub set: ImageSet,
}

/// Column of tables, and vertical axis of plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Fréchet distance.
    Distance,
    /// Inception Score.
    Score,
    /// Accuracy.
    Accuracy,
    /// Share of the partner's class.
    Partner,
    /// Confidence.
    Confidence,
    /// Root mean square of the cosines.
    RootMeanSquare,
    /// Mean of the cosines.
    MeanCosine,
}

impl Column {
    /// Heading, also in machine-readable reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Distance => "Fréchet distance",
            Self::Score => "Inception Score",
            Self::Accuracy => "accuracy",
            Self::Partner => "partner's class",
            Self::Confidence => "confidence",
            Self::RootMeanSquare => "cosine, rms",
            Self::MeanCosine => "cosine, mean",
        }
    }

    /// The number; none where the set has none.
    pub fn of(self, measures: &Measures) -> Option<f64> {
        match self {
            Self::Distance => Some(measures.frechet_distance),
            Self::Score => Some(measures.inception_score),
            Self::Accuracy => Some(measures.accuracy),
            Self::Partner => Some(measures.partner),
            Self::Confidence => Some(measures.confidence),
            Self::RootMeanSquare => measures.cosines.map(|cosines| cosines.root_mean_square),
            Self::MeanCosine => measures.cosines.map(|cosines| cosines.mean),
        }
    }
}

impl Experiment {
    /// All experiments, in their order.
    pub const ALL: [Self; 7] = [
        Self::Guidance,
        Self::Scales,
        Self::Diversity,
        Self::Features,
        Self::Mrar,
        Self::References,
        Self::Evaluations,
    ];

    /// Name in arguments and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guidance => "guidance",
            Self::Scales => "scales",
            Self::Diversity => "diversity",
            Self::Features => "features",
            Self::Mrar => "mrar",
            Self::References => "references",
            Self::Evaluations => "evaluations",
        }
    }

    /// Heading in the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::Guidance => "Guidance scale (Table 1)",
            Self::Scales => "Drift scale and noise scale of the sampler (Appendix F)",
            Self::Diversity => "Feature diversity and quality over training (Figure 5, Appendix D)",
            Self::Features => "Truncated and mixed features (Figures 1 and 4)",
            Self::Mrar => "MRAR against one step, with equal further training (Tables 2 and 4)",
            Self::References => {
                "Number of AR steps, each of which refers to the earlier ones (Figure 7, Appendix E)"
            }
            Self::Evaluations => "Fewer evaluations than the paper's 100 for each image",
        }
    }

    /// Explanation of what is compared.
    pub fn note(self, scale: &Scale) -> String {
        let Scale { further, distillation, sampling_steps, .. } = scale;
        match self {
            Self::Guidance => format!("The base model, in {sampling_steps} steps of the sampler with both scales 1."),
            Self::Scales => format!(
                "The base model in {sampling_steps} steps with guidance {PAPER_GUIDANCE}; the paper takes 100 steps."
            ),
            Self::Diversity => "EMA weights of the base model in the course of its training. The features of a 1-step model \
                depend on the class alone; cosines are means over classes, once as root mean square and once as mean of the \
                off-diagonal entries."
                .to_owned(),
            Self::Features => "Images are decoded from the first features of their class alone, or from these and the \
                remaining features of another class: t-shirt and trouser, pullover and bag, dress and coat, sandal and ankle \
                boot, shirt and sneaker, in both orders."
                .to_owned(),
            Self::Mrar | Self::References => format!(
                "All models start from the EMA weights of the base model and are trained for {} steps of {} images: the same \
                 number of images, each of which is decoded as often. A sample of MRAR is as many images as it has AR steps.",
                further.steps, further.batch
            ),
            Self::Evaluations => format!(
                "The base model and MRAR in {FEW} AR steps, with guidance {PAPER_GUIDANCE} and both scales 1; numbers are \
                 evaluations, of MRAR for all images together. Solvers are of order 2 where they have orders. Students were \
                 distilled from the guided models in {} steps of {} images with a learning rate of {}, and are sampled without \
                 guidance, in two evaluations at the times 1 and 0.7.",
                distillation.steps, distillation.batch, distillation.peak
            ),
        }
    }

    /// Sets of images, in the order of the table.
    pub fn conditions(self, scale: &Scale) -> Vec<Condition> {
        let models = |models: &[ModelName]| {
            let condition = |&model: &ModelName| Condition {
                label: label(model, scale),
                x: model.groups() as f64,
                set: ImageSet::new(model, PAPER_GUIDANCE),
            };
            models.iter().map(condition).collect()
        };
        match self {
            Self::Guidance => GUIDANCE
                .map(|guidance| Condition {
                    label: format!("guidance {guidance}"),
                    x: guidance,
                    set: ImageSet::new(ModelName::Base, guidance),
                })
                .into(),
            Self::Scales => DRIFT.iter().flat_map(|&drift| NOISE.map(|noise| scaled(drift, noise))).collect(),
            Self::Diversity => training_states(scale),
            Self::Features => contents(scale),
            Self::Mrar => models(&[ModelName::Base, ModelName::OneStep, ModelName::Mrar(FEW)]),
            Self::References => models(&[ModelName::OneStep, ModelName::Mrar(FEW), ModelName::Mrar(MANY)]),
            Self::Evaluations => evaluations(),
        }
    }

    /// Columns of the table.
    pub fn columns(self) -> &'static [Column] {
        use Column::{Accuracy, Confidence, Distance, MeanCosine, Partner, RootMeanSquare, Score};
        match self {
            Self::Guidance | Self::Scales | Self::Evaluations => &[Distance, Score, Accuracy],
            Self::Features => &[Accuracy, Partner, Confidence, Distance],
            Self::Diversity | Self::Mrar | Self::References => {
                &[Distance, Score, Accuracy, RootMeanSquare, MeanCosine]
            }
        }
    }

    /// Panels of the plot, for the measures of all seeds.
    pub fn panels(self, scale: &Scale, measures: &[Vec<Measures>]) -> Vec<Panel> {
        let conditions = self.conditions(scale);
        let series = |name: &str, column: Column, keep: &dyn Fn(&Condition) -> bool| {
            let kept = conditions.iter().enumerate().filter(|(_, condition)| keep(condition));
            let values = |index: usize| measures.iter().filter_map(|seed| column.of(&seed[index])).collect();
            let mut points: Vec<(f64, Vec<f64>)> = kept.map(|(i, found)| (found.x, values(i))).collect();
            // The table's order may be another.
            points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            Series { name: name.to_owned(), points }
        };
        let one = |column: Column| vec![series("", column, &|_| true)];
        let panel = |x: &str, log: bool, column: Column, series: Vec<Series>| Panel {
            x: x.to_owned(),
            y: column.name().to_owned(),
            log,
            series,
        };
        match self {
            Self::Guidance => [Column::Distance, Column::Score]
                .map(|column| panel("guidance scale", false, column, one(column)))
                .into(),
            Self::Scales => {
                let of_drift = |drift: f64| {
                    let keep = move |condition: &Condition| condition.set.scales[0] == drift;
                    series(&format!("drift scale {drift}"), Column::Distance, &keep)
                };
                vec![panel("noise scale", false, Column::Distance, DRIFT.map(of_drift).into())]
            }
            Self::Diversity => [Column::Distance, Column::RootMeanSquare, Column::MeanCosine]
                .map(|column| panel("training step", true, column, one(column)))
                .into(),
            Self::Features => {
                let cut = |condition: &Condition| !matches!(condition.set.content, Content::Mixed(_));
                let mixed = |condition: &Condition| !matches!(condition.set.content, Content::Truncated(_));
                let shares = vec![
                    series("first class", Column::Accuracy, &mixed),
                    series("second class", Column::Partner, &mixed),
                ];
                vec![
                    panel(
                        "first features alone",
                        false,
                        Column::Accuracy,
                        vec![series("", Column::Accuracy, &cut)],
                    ),
                    panel("features of the first class", false, Column::Accuracy, shares),
                ]
            }
            Self::Mrar => {
                let further = |condition: &Condition| condition.set.model != ModelName::Base;
                [Column::Distance, Column::RootMeanSquare]
                    .map(|column| panel("AR steps", true, column, vec![series("", column, &further)]))
                    .into()
            }
            Self::References => vec![panel("AR steps", true, Column::Distance, one(Column::Distance))],
            Self::Evaluations => [(1, "evaluations"), (FEW, "evaluations, MRAR")]
                .map(|(groups, title)| {
                    let by = |kind: SolverKind| {
                        let keep = move |condition: &Condition| {
                            let set = condition.set;
                            let Sampled::By { solver, guided_until, .. } = set.sampled else { return false };
                            solver == kind && guided_until == 1.0 && set.model.groups() == groups
                        };
                        series(kind.name(), Column::Distance, &keep)
                    };
                    panel(title, true, Column::Distance, SOLVERS.map(by).into())
                })
                .into(),
        }
    }
}

/// Images of the base model, from features with this content.
pub fn of(content: Content) -> ImageSet {
    ImageSet { content, ..ImageSet::new(ModelName::Base, PAPER_GUIDANCE) }
}

/// Condition of the base model with both scales.
pub fn scaled(drift: f64, noise: f64) -> Condition {
    let set = ImageSet { scales: [drift, noise], ..of(Content::Class) };
    Condition { label: format!("drift {drift}, noise {noise}"), x: noise, set }
}

fn training_states(scale: &Scale) -> Vec<Condition> {
    let before = scale.snapshots.iter().map(|&step| (step, ModelName::BaseAt(step)));
    let states = before.chain([(scale.base.steps, ModelName::Base)]);
    let condition = |(step, model)| Condition {
        label: format!("step {step}"),
        x: step as f64,
        set: ImageSet::new(model, PAPER_GUIDANCE),
    };
    states.map(condition).collect()
}

fn contents(scale: &Scale) -> Vec<Condition> {
    let all = scale.features();
    let cut = [1, all / 8, all / 4, all / 2, 3 * all / 4].map(|count| Condition {
        label: format!("first {count} features"),
        x: count as f64,
        set: of(Content::Truncated(count)),
    });
    let whole = Condition { label: format!("all {all} features"), x: all as f64, set: of(Content::Class) };
    let mixed = [all / 4, all / 2, 3 * all / 4].map(|count| Condition {
        label: format!("{count} of one class, {} of another", all - count),
        x: count as f64,
        set: of(Content::Mixed(count)),
    });
    cut.into_iter().chain([whole]).chain(mixed).collect()
}

fn evaluations() -> Vec<Condition> {
    let mut conditions = Vec::new();
    let mut add = |groups: usize, solver: SolverKind, [references, image]: [usize; 2], guided_until: f64| {
        let (model, guidance) = match (solver, groups) {
            // A student has learnt its guidance.
            (SolverKind::Consistency, _) => (ModelName::Student(groups), 1.0),
            (_, 1) => (ModelName::Base, PAPER_GUIDANCE),
            _ => (ModelName::Mrar(groups), PAPER_GUIDANCE),
        };
        let total = (groups - 1) * references + image;
        let mrar = if groups > 1 { "MRAR, " } else { "" };
        let until =
            if guided_until < 1.0 { format!(", guided for t ≤ {guided_until}") } else { String::new() };
        let sampled = Sampled::By { solver, references, image, guided_until };
        conditions.push(Condition {
            label: format!("{mrar}{}, {total}{until}", solver.name()),
            x: total as f64,
            set: ImageSet { sampled, ..ImageSet::new(model, guidance) },
        });
    };
    for (index, groups) in [1, FEW].into_iter().enumerate() {
        for (solver, steps) in SOLVERS.into_iter().zip(EVALUATIONS) {
            steps[index].iter().for_each(|&steps| add(groups, solver, steps, 1.0));
        }
    }
    GUIDED_UNTIL.into_iter().for_each(|until| add(1, SolverKind::AdamsBashforth, [16; 2], until));
    conditions
}

fn label(model: ModelName, scale: &Scale) -> String {
    let references = |groups: usize| format!("{groups} AR steps, up to {} references", groups - 1);
    match model {
        ModelName::Base => "base, before further training".to_owned(),
        ModelName::BaseAt(step) => format!("base, step {step} of {}", scale.base.steps),
        ModelName::OneStep => "1-step".to_owned(),
        ModelName::Mrar(groups) => format!("MRAR, {}", references(groups)),
        ModelName::Student(_) => "student".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use transdiff::diffusion::{Quality, SamplingSettings};

    use super::*;

    #[test]
    fn qualities_are_among_the_numbers_of_evaluations() {
        for (groups, quality) in
            [(1, Quality::Fast), (1, Quality::Draft), (FEW, Quality::Fast), (FEW, Quality::Draft)]
        {
            let settings = SamplingSettings::from(Preset::new(PAPER_GUIDANCE, 1.0, 1.0));
            let expected = quality.apply(settings, groups).build(groups).unwrap();
            let same = |condition: &Condition| {
                let set = condition.set;
                set.model.groups() == groups && set.sampling(1).unwrap() == expected
            };
            assert!(evaluations().iter().any(same), "{quality:?} of {groups}");
        }
    }

    #[test]
    fn lines_run_from_left_to_right() {
        let scale = Scale::miniature();
        for experiment in Experiment::ALL {
            let panels = experiment.panels(&scale, &[]);
            assert!(!panels.is_empty());
            for series in panels.iter().flat_map(|panel| &panel.series) {
                assert!(
                    series.points.len() > 1 && series.points.is_sorted_by(|a, b| a.0 < b.0),
                    "{series:?}"
                );
            }
        }
    }
}
