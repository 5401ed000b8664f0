//! The paper's claims about the experiments, as numbers that are positive where a claim holds.

use transdiff::diffusion::{Preset, SolverKind};

use crate::experiments::{
    Column, Condition, Experiment, FEW, MANY, PAPER_GUIDANCE, PAPER_SCALES, of, scaled,
};
use crate::judge::Measures;
use crate::scale::Scale;
use crate::statistics::rank_correlation;
use crate::units::{Content, ImageSet, ModelName, Sampled};

/// Number computed from the measures of one seed.
pub type Difference = Box<dyn Fn(&[Measures]) -> f64>;

/// A claim of the paper, and its test on the measures of one seed, in the order of the conditions.
pub struct Claim {
    /// The claim, with its place in the paper.
    pub paper: &'static str,
    /// The number that is positive if the claim holds.
    pub tested: String,
    /// Computes it.
    pub difference: Difference,
}

impl Experiment {
    /// Claims of the paper.
    pub fn claims(self, scale: &Scale) -> Vec<Claim> {
        let conditions = self.conditions(scale);
        let place = |set: ImageSet| {
            let found = conditions.iter().position(|condition| condition.set == set);
            found.expect("claims are about sets of the experiment")
        };
        let of_model = |model| place(ImageSet::new(model, PAPER_GUIDANCE));
        match self {
            Self::Guidance => guidance_claims(
                place(ImageSet::new(ModelName::Base, 1.0)),
                place(ImageSet::new(ModelName::Base, PAPER_GUIDANCE)),
            ),
            Self::Scales => vec![less(
                "With drift scale 0.87 and noise scale 0.91 the FID is lower than with 1 and 1 (Appendix F).",
                Column::Distance,
                place(scaled(PAPER_SCALES[0], PAPER_SCALES[1]).set),
                place(scaled(1.0, 1.0).set),
                &conditions,
            )],
            Self::Diversity => [Column::RootMeanSquare, Column::MeanCosine].map(diversity_claim).into(),
            Self::Features => {
                let half = scale.features() / 2;
                content_claims(place(of(Content::Truncated(half))), place(of(Content::Mixed(half))))
            }
            Self::Mrar => {
                let (before, after) = (of_model(ModelName::OneStep), of_model(ModelName::Mrar(FEW)));
                vec![
                    less(
                        "MRAR has a lower FID than one step: 1.49 against 1.69, large model (Table 2).",
                        Column::Distance,
                        after,
                        before,
                        &conditions,
                    ),
                    less(
                        "The features of MRAR are more diverse: cosine 0.39 against 0.44 (Appendix D).",
                        Column::RootMeanSquare,
                        after,
                        before,
                        &conditions,
                    ),
                ]
            }
            Self::References => {
                let paper = "Of 0, 4, 16 and 64 references the paper chooses 4 (Figure 7, Appendix E).";
                let few = of_model(ModelName::Mrar(FEW));
                let others = [ModelName::OneStep, ModelName::Mrar(MANY)];
                others.map(|other| less(paper, Column::Distance, few, of_model(other), &conditions)).into()
            }
            Self::Evaluations => {
                let paper =
                    "100 steps of Euler–Maruyama, as the paper takes, are better than fewer evaluations.";
                let sampled = Sampled::By {
                    solver: SolverKind::EulerMaruyama,
                    references: Preset::STEPS,
                    image: Preset::STEPS,
                    guided_until: 1.0,
                };
                let full = |groups| {
                    let model = if groups == 1 { ModelName::Base } else { ModelName::Mrar(groups) };
                    place(ImageSet { sampled, ..ImageSet::new(model, PAPER_GUIDANCE) })
                };
                let against_full = |index: usize| {
                    let full = full(conditions[index].set.model.groups());
                    (index != full).then(|| less(paper, Column::Distance, full, index, &conditions))
                };
                (0..conditions.len()).filter_map(against_full).collect()
            }
        }
    }
}

/// The claim that `column` is lower in condition `lower` than in condition `higher`.
fn less(paper: &'static str, column: Column, lower: usize, higher: usize, conditions: &[Condition]) -> Claim {
    let [low, high] = [lower, higher].map(|index| &conditions[index].label);
    let tested = format!("{}: {high} minus {low}", column.name());
    let value = move |measures: &[Measures], index: usize| column.of(&measures[index]).unwrap_or(0.0);
    Claim { paper, tested, difference: Box::new(move |seed| value(seed, higher) - value(seed, lower)) }
}

fn guidance_claims(without: usize, with: usize) -> Vec<Claim> {
    vec![
        Claim {
            paper: "Guidance lowers the FID (Table 1).",
            tested: format!("Fréchet distance: guidance 1 minus guidance {PAPER_GUIDANCE}"),
            difference: Box::new(move |m| m[without].frechet_distance - m[with].frechet_distance),
        },
        Claim {
            paper: "Guidance raises the Inception Score (Table 1).",
            tested: format!("Inception Score: guidance {PAPER_GUIDANCE} minus guidance 1"),
            difference: Box::new(move |m| m[with].inception_score - m[without].inception_score),
        },
    ]
}

fn diversity_claim(column: Column) -> Claim {
    let difference = move |measures: &[Measures]| {
        let values = |column: Column| measures.iter().filter_map(move |m| column.of(m)).collect::<Vec<_>>();
        rank_correlation(&values(column), &values(Column::Distance))
    };
    Claim {
        paper: "Over training, images become better as features become more diverse (Figure 5).",
        tested: format!("rank correlation of {} and Fréchet distance over training", column.name()),
        difference: Box::new(difference),
    }
}

fn content_claims(truncated: usize, mixed: usize) -> Vec<Claim> {
    vec![
        Claim {
            paper: "The first features alone give an image of the class (Figure 1).",
            tested: "accuracy with half of the features minus 1/2".to_owned(),
            difference: Box::new(move |m| m[truncated].accuracy - 0.5),
        },
        Claim {
            paper: "Features of two classes give an image with properties of both (Figure 4).",
            tested: "half of the features from each class: the smaller of both classes' shares minus 1/10"
                .to_owned(),
            difference: Box::new(move |m| m[mixed].accuracy.min(m[mixed].partner) - 0.1),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Cosines;

    /// Differences of all claims, where `badness` of a set is its Fréchet distance, the cosine of its features, the share
    /// of images not recognised, and lowers its Inception Score.
    fn differences(experiment: Experiment, badness: impl Fn(&ImageSet) -> f64) -> Vec<f64> {
        let scale = Scale::miniature();
        let measures = |condition: &Condition| {
            let bad = badness(&condition.set);
            Measures {
                frechet_distance: bad,
                inception_score: 10.0 - bad,
                accuracy: 1.0 - bad,
                partner: 1.0 - bad,
                confidence: 0.5,
                cosines: Some(Cosines { root_mean_square: bad, mean: bad }),
            }
        };
        let measures: Vec<Measures> = experiment.conditions(&scale).iter().map(measures).collect();
        experiment.claims(&scale).into_iter().map(|claim| (claim.difference)(&measures)).collect()
    }

    fn check(experiment: Experiment, is_better: impl Fn(&ImageSet) -> bool, expected: &[f64]) {
        let found = differences(experiment, |set| if is_better(set) { 0.2 } else { 0.95 });
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{experiment:?}: {found:?}");
    }

    #[test]
    fn differences_are_positive_where_the_paper_is_right() {
        check(Experiment::Guidance, |set| set.guidance == 1.3, &[0.75, 0.75]);
        check(Experiment::Guidance, |set| set.guidance == 1.0, &[-0.75, -0.75]);
        check(Experiment::Guidance, |set| set.guidance == 2.0, &[0.0, 0.0]);
        check(Experiment::Scales, |set| set.scales == [0.87, 0.91], &[0.75]);
        check(Experiment::Scales, |set| set.scales == [1.0, 1.0], &[-0.75]);
        check(Experiment::Features, |_| true, &[0.3, 0.7]);
        check(Experiment::Features, |_| false, &[-0.45, -0.05]);
        check(Experiment::Mrar, |set| set.model == ModelName::Mrar(4), &[0.75, 0.75]);
        check(Experiment::Mrar, |set| set.model == ModelName::OneStep, &[-0.75, -0.75]);
        check(Experiment::References, |set| set.model == ModelName::Mrar(4), &[0.75, 0.75]);
        check(Experiment::References, |set| set.model == ModelName::Mrar(16), &[0.0, -0.75]);
        let in_100 = |set: &ImageSet| matches!(set.sampled, Sampled::By { image: 100, .. });
        check(Experiment::Evaluations, in_100, &[0.75; 22]);
        check(Experiment::Evaluations, |set| !in_100(set), &[-0.75; 22]);
        check(Experiment::Diversity, |set| set.model == ModelName::Base, &[1.0, 1.0]);
        check(Experiment::Diversity, |_| true, &[0.0, 0.0]);
    }

    #[test]
    fn diversity_without_quality_does_not_agree() {
        let scale = Scale::miniature();
        let conditions = Experiment::Diversity.conditions(&scale);
        let measures: Vec<Measures> = (0..conditions.len())
            .map(|index| Measures {
                frechet_distance: 1.0 + index as f64,
                inception_score: 1.0,
                accuracy: 1.0,
                partner: 0.0,
                confidence: 1.0,
                cosines: Some(Cosines { root_mean_square: 1.0 / (1.0 + index as f64), mean: 0.5 }),
            })
            .collect();
        let found =
            Experiment::Diversity.claims(&scale).into_iter().map(|claim| (claim.difference)(&measures));
        assert_eq!(found.collect::<Vec<_>>(), [-1.0, 0.0]);
    }
}
