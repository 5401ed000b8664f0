//! Generation: sessions, features, references, guidance, cancellation and noise.

use std::ops::ControlFlow;

use crate::common::tiny::{self, bits, differing};
use proptest::prelude::*;
use transdiff_core::autograd::Context;
use transdiff_core::autograd::Var;
use transdiff_core::diffusion::{
    Euler, EulerMaruyama, Guidance, Interpolant, KeyedNoise, NoiseSource, NoopObserver, Preset, Progress,
    Sampling, SamplingSettings, SamplingStep, Schedule, Solver, SolverKind, Timesteps,
};
use transdiff_core::models::transdiff::{Mode, Session, Size, TransDiff, TransDiffConfig};
use transdiff_core::models::{Features, Generation, Model, cosine_mean};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_core::{Backend, CancellationToken, DType, Error, Result, Tensor};
use transdiff_cpu::Cpu;

const STEPS: usize = 4;

fn cpu() -> Cpu {
    Cpu::new(Some(2)).unwrap()
}

fn solver() -> Solver {
    EulerMaruyama::new(Timesteps::paper(STEPS).unwrap(), Interpolant::Linear, 0.9, 0.95).unwrap().into()
}

fn guided(scales: &[f64]) -> Sampling {
    let guidance = scales.iter().map(|&scale| Guidance::new(scale).unwrap()).collect();
    Sampling { solvers: vec![solver()], guidance }
}

fn configs() -> [TransDiffConfig; 3] {
    [tiny::one_step(), tiny::mrar(), tiny::mrar_of_singles()]
}

/// (label, seed) per image.
type Images<'a> = &'a [(usize, u64)];

/// Generates with a new session.
fn generate<B: Backend>(model: &TransDiff<B>, images: Images<'_>, sampling: &Sampling) -> Generation<B> {
    generate_from(&mut Session::new(model), images, &[], sampling).unwrap()
}

fn generate_from<B: Backend>(
    session: &mut Session<B>,
    images: Images<'_>,
    references: &[Tensor<B>],
    sampling: &Sampling,
) -> Result<Generation<B>> {
    let (labels, seeds): (Vec<usize>, Vec<u64>) = images.iter().copied().unzip();
    let model = session.model();
    let mut noise = KeyedNoise::new(model.backend(), model.dtype(), &seeds);
    session.generate(&labels, references, sampling, &mut noise, &mut NoopObserver)
}

/// Bits of image `index` in the latents, features and references of a generation.
fn image<B: Backend>(generation: &Generation<B>, index: usize) -> Vec<Vec<u64>> {
    let of = |t: &Tensor<B>| bits(&t.narrow(0, index, 1).unwrap());
    let tensors = [&generation.codes, generation.features.as_ref().unwrap().tensor()];
    tensors.into_iter().chain(&generation.references).map(of).collect()
}

/// Layouts of groups that fit a latent of side 4, each with a number of references.
fn group_layouts() -> impl Strategy<Value = (TransDiffConfig, usize)> {
    let sizes = (1usize..=5, prop::sample::select(vec![1usize, 2, 4]), 1usize..=4, 1usize..=3);
    sizes.prop_flat_map(|(groups, side, buffer_size, encoder_blocks)| {
        let config = TransDiffConfig {
            feature_tokens: groups * side * side,
            latent_size: 4,
            buffer_size,
            encoder_blocks,
            mode: Mode::MultiReference { groups },
            ..tiny::one_step()
        };
        (Just(config), 0..groups)
    })
}

proptest! {
    #![proptest_config(crate::common::cases(40))]

    /// Features computed group by group, with cached keys and values of earlier groups, equal those of a single pass.
    #[test]
    fn cached_features_equal_uncached_ones((config, references) in group_layouts(), seed: u64) {
        let model = tiny::model(&Reference, &config, DType::F64);
        let (ar, ctx, labels) = (model.ar(), Context::inference(), [2, 0]);
        let class = ar.class_embedding(&ctx, &labels).unwrap();
        let shape = config.latent_shape(labels.len());
        let latent = |i: usize| {
            let values = StreamKey::new(seed, Purpose::Data, i as u32, 0).normals(shape.iter().product());
            Tensor::from_f32(&Reference, &shape, values, DType::F64).unwrap()
        };
        let latents: Vec<_> = (0..references).map(latent).collect();
        let mut cache = ar.prefix_cache();
        let mut parts = vec![ar.next_features(&ctx, &class, None, &mut cache).unwrap()];
        for latent in &latents {
            parts.push(ar.next_features(&ctx, &class, Some(latent), &mut cache).unwrap());
        }
        prop_assert_eq!(cache.groups(), 1 + references);
        let cached = Var::cat(&parts.iter().collect::<Vec<_>>(), 1).unwrap().into_value();
        let whole = ar.features(&ctx, &class, &latents).unwrap().into_value();
        prop_assert_eq!(cached.shape(), whole.shape());
        let difference = cached.sub(&whole).unwrap().to_f64().unwrap();
        prop_assert!(difference.iter().all(|d| d.abs() < 1e-12), "{:?}", difference);
        // Later references do not change the features of earlier groups.
        if let Some(last) = latents.len().checked_sub(1) {
            let fewer = ar.features(&ctx, &class, &latents[..last]).unwrap();
            let kept = whole.narrow(1, 0, fewer.dim(1)).unwrap();
            let difference = fewer.value().sub(&kept).unwrap().to_f64().unwrap();
            prop_assert!(difference.iter().all(|d| d.abs() < 1e-12), "{:?}", difference);
        }
    }

    /// An image is bitwise identical alone and in any batch, in any order.
    #[test]
    fn images_are_batch_invariant(
        which in 0usize..3,
        images in prop::collection::vec((0usize..3, 0u64..1000), 1..7),
        scale in prop::sample::select(vec![1.0, 1.4]),
    ) {
        let model = tiny::model(&cpu(), &TransDiffConfig { width: 24, ..configs()[which].clone() }, DType::F32);
        let together = generate(&model, &images, &guided(&[scale]));
        for (index, &one) in images.iter().enumerate() {
            prop_assert!(image(&together, index) == image(&generate(&model, &[one], &guided(&[scale])), 0));
        }
    }
}

/// Latents depend on label, seed and guidance, and not on the number of threads.
#[test]
fn latents_depend_on_label_seed_and_guidance_only() {
    for config in configs() {
        let config = TransDiffConfig { width: 48, ..config };
        let model = tiny::model(&cpu(), &config, DType::F32);
        let one = |image: (usize, u64), scale| bits(&generate(&model, &[image], &guided(&[scale])).codes);
        let base = one((1, 5), 1.4);
        assert_eq!(base, one((1, 5), 1.4));
        for other in [one((2, 5), 1.4), one((1, 6), 1.4), one((1, 5), 1.5), one((1, 5), 1.0)] {
            assert_ne!(base, other);
        }
        let images: Vec<(usize, u64)> = (0..9).map(|i| (i % 3, i as u64)).collect();
        let on = |threads| {
            let model = tiny::model(&Cpu::new(Some(threads)).unwrap(), &config, DType::F32);
            bits(&generate(&model, &images, &guided(&[1.4])).codes)
        };
        assert!(on(1) == on(2));
    }
}

/// With guidance 1 the unconditional embedding is not read.
#[test]
fn guidance_one_ignores_the_unconditional_embedding() {
    for config in configs() {
        let model = tiny::model(&cpu(), &config, DType::F32);
        let mut other = model.clone();
        let (_, param) = other.params_mut().into_iter().find(|(name, _)| name == "fake_latent").unwrap();
        let doubled = param.value().affine(2.0, 1.0).unwrap();
        param.set(&doubled).unwrap();
        let image =
            |model: &TransDiff<Cpu>, scale| bits(&generate(model, &[(1, 2)], &guided(&[scale])).codes);
        assert_eq!(image(&model, 1.0), image(&other, 1.0));
        assert_ne!(image(&model, 1.2), image(&other, 1.2));
    }
}

/// Guidance is v = v_u + w (v_c − v_u): linear in w for a single step.
#[test]
fn guided_latents_are_linear_in_the_scale() {
    let model = tiny::model(&Reference, &tiny::one_step(), DType::F64);
    let euler = Euler::new(Timesteps::uniform(1).unwrap(), Interpolant::Linear);
    let image = |scale| {
        let sampling = Sampling::new(euler.clone(), Guidance::new(scale).unwrap());
        generate(&model, &[(1, 2), (0, 3)], &sampling).codes
    };
    let [one, two, three] = [1.0, 2.0, 3.0].map(image);
    let expected = two.affine(2.0, 0.0).unwrap().sub(&one).unwrap();
    assert!(expected.sub(&three).unwrap().to_f64().unwrap().iter().all(|d| d.abs() < 1e-12));
    // w = 0 would be the unconditional branch, so v_u = 2 v(1) − v(2).
    let features = model.unconditional_features(&model.inference(), &[]).unwrap();
    let both = Features::new(Tensor::cat(&[features.tensor(), features.tensor()], 0).unwrap()).unwrap();
    let mut noise = KeyedNoise::new(&Reference, DType::F64, &[2, 3]);
    let sampling = Sampling::new(euler, Guidance::NONE);
    let bare = Session::new(&model).decode(&both, &sampling, &mut noise, &mut NoopObserver).unwrap();
    let expected = one.affine(2.0, 0.0).unwrap().sub(&two).unwrap();
    assert!(expected.sub(&bare).unwrap().to_f64().unwrap().iter().all(|d| d.abs() < 1e-12));
}

/// Each AR step has its own guidance scale, which changes its latents and those of later AR steps only.
#[test]
fn guidance_acts_from_its_ar_step_on() {
    let model = tiny::model(&cpu(), &tiny::mrar_of_singles(), DType::F32);
    let run = |scales: &[f64]| generate(&model, &[(1, 2), (2, 9)], &guided(scales));
    let steps = |scales: &[f64]| {
        let Generation { codes: latents, references, .. } = run(scales);
        references.iter().chain([&latents]).map(bits).collect::<Vec<_>>()
    };
    assert_eq!(steps(&[1.3; 4]), steps(&[1.3]));
    assert_eq!(steps(&[1.0; 4]), steps(&[1.0]));
    let plain = steps(&[1.0]);
    for place in 0..4 {
        let mut scales = [1.0; 4];
        scales[place] = 1.6;
        // The unconditional branch, not run so far, computes all earlier groups first.
        let changed = steps(&scales);
        assert_eq!(changed[..place], plain[..place]);
        assert!((place..4).all(|i| changed[i] != plain[i]), "{place}");
    }
}

/// Each AR step has its own number of sampling steps, which changes its latents and those of later AR steps only.
#[test]
fn every_ar_step_has_its_own_number_of_sampling_steps() {
    let model = tiny::model(&cpu(), &tiny::mrar_of_singles(), DType::F32);
    let settings = |steps: &[usize]| SamplingSettings {
        schedule: Schedule::Steps(steps.to_vec()),
        ..SamplingSettings::from(Preset::PLAIN).with_solver(SolverKind::AdamsBashforth)
    };
    let latents = |steps: &[usize]| {
        let (mut totals, mut fractions) = (Vec::new(), Vec::new());
        let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[2, 9]);
        let mut observer = |progress: &Progress<'_, Cpu>| {
            let SamplingStep { ar_step, done, total, .. } = progress.step;
            fractions.push(progress.fraction());
            if done == total {
                assert_eq!(ar_step.index, totals.len());
                totals.push(total);
            }
            ControlFlow::Continue(())
        };
        let sampling = settings(steps).build(4).unwrap();
        let made = Session::new(&model).generate(&[1, 2], &[], &sampling, &mut noise, &mut observer).unwrap();
        assert_eq!(totals, if steps.len() == 1 { vec![steps[0]; 4] } else { steps.to_vec() });
        let all: usize = totals.iter().sum();
        assert_eq!(fractions, (1..=all).map(|i| i as f64 / all as f64).collect::<Vec<_>>());
        made.references.iter().chain([&made.codes]).map(bits).collect::<Vec<_>>()
    };
    let plain = latents(&[3]);
    assert_eq!(latents(&[3; 4]), plain);
    for place in 0..4 {
        let mut steps = [3; 4];
        steps[place] = 5;
        let changed = latents(&steps);
        assert_eq!(changed[..place], plain[..place]);
        assert!((place..4).all(|i| changed[i] != plain[i]), "{place}");
    }
    let one_step = tiny::model(&cpu(), &tiny::one_step(), DType::F32);
    let sampling = settings(&[3; 4]).build(4).unwrap();
    let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[2]);
    let refused = Session::new(&one_step).generate(&[1], &[], &sampling, &mut noise, &mut NoopObserver);
    assert!(matches!(refused, Err(Error::Argument { argument: "solvers", .. })));
}

/// The first references of a generation, given by the caller, reproduce it.
#[test]
fn given_references_reproduce_the_generation() {
    for config in [tiny::mrar(), tiny::mrar_of_singles()] {
        let (model, images) = (tiny::model(&cpu(), &config, DType::F32), [(1, 2), (2, 9), (0, 4)]);
        for scale in [1.0, 1.4] {
            let sampling = guided(&[scale]);
            let own = generate(&model, &images, &sampling);
            assert_eq!(own.references.len(), config.groups() - 1);
            for count in 0..=own.references.len() {
                let given = &own.references[..count];
                let run = generate_from(&mut Session::new(&model), &images, given, &sampling).unwrap();
                assert_eq!(run.references.len(), own.references.len());
                assert!((0..3).all(|i| image(&run, i) == image(&own, i)), "{count} references given");
            }
            // Other references give other latents.
            let other = own.references[0].affine(0.5, 0.1).unwrap();
            let run = generate_from(&mut Session::new(&model), &images, &[other], &sampling).unwrap();
            assert_ne!(bits(&run.codes), bits(&own.codes));
        }
    }
}

/// The features of a generation equal those of its labels and references.
#[test]
fn generations_return_the_features_of_their_references() {
    for config in configs() {
        let model = tiny::model(&Reference, &config, DType::F64);
        let generation = generate(&model, &[(1, 2), (2, 9)], &guided(&[1.0]));
        let features = model.features(&model.inference(), &[1, 2], &generation.references).unwrap();
        let difference =
            features.tensor().sub(generation.features.as_ref().unwrap().tensor()).unwrap().to_f64().unwrap();
        assert!(difference.iter().all(|d| d.abs() < 1e-12));
    }
}

/// A session stopped after any step fails with `Cancelled` and can be used again; the observer sees every step once.
#[test]
fn cancelled_sessions_are_reusable() {
    for config in configs() {
        let model = tiny::model(&cpu(), &config, DType::F32);
        let (images, sampling) = ([(1usize, 2u64), (0, 3)], guided(&[1.4]));
        let expected = generate(&model, &images, &sampling);
        let mut session = Session::new(&model);
        let steps = STEPS * config.groups();
        for stop in 1..=steps {
            let mut seen = Vec::new();
            let mut observer = |progress: &Progress<'_, Cpu>| {
                let preview = progress.preview().unwrap().to_f64().unwrap();
                assert!(preview.iter().all(|x| x.is_finite()));
                seen.push(progress.fraction());
                if seen.len() == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[2, 3]);
            let result = session.generate(&[1, 0], &[], &sampling, &mut noise, &mut observer);
            assert!(matches!(result, Err(Error::Cancelled)), "stopped after step {stop}");
            let fractions: Vec<f64> = (1..=stop).map(|i| i as f64 / steps as f64).collect();
            assert!(seen.iter().zip(&fractions).all(|(a, b)| (a - b).abs() < 1e-12) && seen.len() == stop);
        }
        let after = generate_from(&mut session, &images, &[], &sampling).unwrap();
        assert!((0..2).all(|i| image(&after, i) == image(&expected, i)));
    }
}

/// Progress leaves out the AR steps of given references.
#[test]
fn progress_excludes_given_references() {
    let model = tiny::model(&cpu(), &tiny::mrar_of_singles(), DType::F32);
    let (images, sampling) = ([(1usize, 2u64)], guided(&[1.4]));
    let own = generate(&model, &images, &sampling).references;
    for given in 0..=own.len() {
        let mut seen = Vec::new();
        let mut observer = |progress: &Progress<'_, Cpu>| {
            seen.push(progress.fraction());
            ControlFlow::Continue(())
        };
        let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[2]);
        let mut session = Session::new(&model);
        session.generate(&[1], &own[..given], &sampling, &mut noise, &mut observer).unwrap();
        let steps = STEPS * (own.len() + 1 - given);
        let fractions: Vec<f64> = (1..=steps).map(|i| i as f64 / steps as f64).collect();
        assert_eq!(seen.len(), steps);
        assert!(seen.iter().zip(&fractions).all(|(a, b)| (a - b).abs() < 1e-12), "{given} given: {seen:?}");
    }
}

/// Sessions on several threads share a model.
#[test]
fn sessions_share_a_model_between_threads() {
    let model = tiny::model(&cpu(), &tiny::mrar(), DType::F32);
    let images = [[(0, 1), (1, 2)], [(2, 3), (0, 4)], [(1, 5), (1, 6)]];
    let run = |images: Images<'_>| bits(&generate(&model, images, &guided(&[1.4])).codes);
    let alone: Vec<_> = images.iter().map(|i| run(i)).collect();
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> = images.iter().map(|i| scope.spawn(|| run(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(alone == together);
}

/// Truncated and spliced features decode to different latents.
#[test]
fn truncated_and_spliced_features_decode_differently() {
    let model = tiny::model(&cpu(), &tiny::one_step(), DType::F32);
    let mut session = Session::new(&model);
    let mut decode = |features: &Features<Cpu>, scale| {
        let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[7]);
        let latents = session.decode(features, &guided(&[scale]), &mut noise, &mut NoopObserver).unwrap();
        assert_eq!(latents.shape(), [1, 2, 2, 2]);
        bits(&latents)
    };
    let [a, b] = [0, 1].map(|label| model.features(&model.inference(), &[label], &[]).unwrap());
    for scale in [1.0, 1.4] {
        let whole = decode(&a, scale);
        assert_eq!(whole, bits(&generate(&model, &[(0, 7)], &guided(&[scale])).codes));
        assert_eq!(whole, decode(&a.truncate(4).unwrap(), scale));
        let mut all: Vec<Vec<u64>> = (1..4).map(|k| decode(&a.truncate(k).unwrap(), scale)).collect();
        all.extend((0..4).map(|k| decode(&a.splice(&b, k).unwrap(), scale)));
        all.push(whole);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "every truncation and every splice gives other latents");
    }
    assert_eq!(bits(a.splice(&b, 4).unwrap().tensor()), bits(a.tensor()));
    assert_eq!(bits(a.splice(&b, 0).unwrap().tensor()), bits(b.tensor()));
    let mixed = a.splice(&b, 1).unwrap();
    assert_eq!(bits(mixed.truncate(1).unwrap().tensor()), bits(a.truncate(1).unwrap().tensor()));
    let rest = |f: &Features<Cpu>| bits(&f.tensor().narrow(1, 1, 3).unwrap());
    assert_eq!(rest(&mixed), rest(&b));
}

/// The velocity of two latents under the conditions of both branches of guidance has the bits of that of the latents
/// repeated. Neither several timesteps nor a number of images that the latents do not divide has such a meaning.
#[test]
fn latents_serve_the_conditions_of_both_branches() {
    let model = tiny::model(&cpu(), &tiny::one_step(), DType::F32);
    let (ctx, decoder) = (model.inference(), model.decoder());
    let features = model.features(&ctx, &[0, 1, 2, 0], &[]).unwrap();
    let condition = model.condition(&ctx, &features).unwrap();
    let shape = [2, model.config().decoder_tokens(), model.config().latent_channels];
    let values = StreamKey::new(3, Purpose::Data, 0, 0).normals(shape.iter().product());
    let x = Tensor::from_f32(&cpu(), &shape, values, DType::F32).unwrap();
    let repeated = Var::from(Tensor::cat(&[&x, &x], 0).unwrap());
    let (x, time) = (Var::from(x), decoder.time(&ctx, &[400.0]).unwrap());
    let velocity = |x: &Var<Cpu>| decoder.velocity(&ctx, x, &time, &condition).unwrap().into_value();
    assert_eq!(bits(&velocity(&x)), bits(&velocity(&repeated)));

    let per_latent = decoder.time(&ctx, &[400.0, 500.0]).unwrap();
    assert!(matches!(decoder.velocity(&ctx, &x, &per_latent, &condition), Err(Error::Argument { .. })));
    let three = condition.narrow(0, 3).unwrap();
    assert!(matches!(decoder.velocity(&ctx, &x, &time, &three), Err(Error::Argument { .. })));
}

/// Diversity against its definition, pair by pair.
#[test]
fn diversity_matches_its_definition() {
    let (images, n, d) = (2, 5, 3);
    let values = crate::common::difference::normals(3, images * n * d);
    let features =
        Features::new(crate::common::difference::tensor(&Reference, &[images, n, d], values.clone()))
            .unwrap();
    let row = |image: usize, i: usize| &values[(image * n + i) * d..][..d];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let mut all = 0.0;
    for (image, found) in features.diversity().unwrap().into_iter().enumerate() {
        let pairs: Vec<f64> = (0..n * n).map(|p| cosine(row(image, p / n), row(image, p % n))).collect();
        all += pairs.iter().sum::<f64>() / (n * n * images) as f64;
        let off: Vec<f64> =
            pairs.iter().enumerate().filter(|(p, _)| p / n != p % n).map(|(_, &c)| c).collect();
        let count = off.len() as f64;
        assert_eq!(off.len(), n * (n - 1));
        assert!((found.mean - off.iter().sum::<f64>() / count).abs() < 1e-12);
        assert!(
            (found.root_mean_square - (off.iter().map(|c| c * c).sum::<f64>() / count).sqrt()).abs() < 1e-12
        );
    }
    let mean = cosine_mean(&Var::from(features.tensor().clone())).unwrap().value().item().unwrap();
    assert!((mean - all).abs() < 1e-12, "the training term includes the diagonal");
    let zeros = Features::new(Tensor::zeros(&Reference, &[1, 3, 2], DType::F32).unwrap()).unwrap();
    assert_eq!(zeros.diversity().unwrap()[0].mean, 0.0);
    assert!(matches!(zeros.truncate(1).unwrap().diversity(), Err(Error::Argument { .. })));
}

#[test]
fn invalid_arguments_are_refused() {
    let [one_step, mrar] =
        [tiny::one_step(), tiny::mrar_of_singles()].map(|c| tiny::model(&cpu(), &c, DType::F32));
    let latent = |batch: usize| Tensor::zeros(&cpu(), &[batch, 2, 2, 2], DType::F32).unwrap();
    let run = |model: &TransDiff<Cpu>, labels: &[usize], references: &[Tensor<Cpu>], scales: &[f64]| {
        let images: Vec<(usize, u64)> = labels.iter().map(|&label| (label, 1)).collect();
        generate_from(&mut Session::new(model), &images, references, &guided(scales)).map(drop)
    };
    let argument = |result: Result<()>, name: &str| {
        let error = result.expect_err(name);
        assert!(matches!(&error, Error::Argument { argument, .. } if *argument == name), "{name}: {error}");
    };
    for model in [&one_step, &mrar] {
        argument(run(model, &[], &[], &[1.0]), "labels");
        argument(run(model, &[0, 3], &[], &[1.0]), "class");
        argument(run(model, &[usize::MAX], &[], &[1.4]), "class");
        argument(run(model, &[0], &[], &[]), "guidance");
        argument(run(model, &[0], &[], &[1.0, 1.2]), "guidance");
        argument(run(model, &[0], &vec![latent(1); 4], &[1.0]), "references");
    }
    argument(run(&one_step, &[0], &[latent(1)], &[1.0]), "references");
    let shape = |result: Result<()>| assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
    // One reference per image, of the shape of the model's latents.
    shape(run(&mrar, &[0, 1], &[latent(1)], &[1.0]));
    shape(run(&mrar, &[0], &[latent(2)], &[1.4]));
    shape(run(&mrar, &[0], &[Tensor::zeros(&cpu(), &[1, 2, 4, 4], DType::F32).unwrap()], &[1.0]));
    // One seed per image.
    let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[1, 2]);
    shape(
        Session::new(&one_step).generate(&[0], &[], &guided(&[1.0]), &mut noise, &mut NoopObserver).map(drop),
    );

    let features = one_step.features(&one_step.inference(), &[0], &[]).unwrap();
    argument(features.truncate(0).map(drop), "k");
    argument(features.truncate(5).map(drop), "k");
    argument(features.splice(&features, 5).map(drop), "k");
    shape(features.splice(&features.truncate(2).unwrap(), 1).map(drop));
    shape(Features::new(latent(1)).map(drop));
    let decode = |features: &Features<Cpu>| {
        let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[1]);
        let mut session = Session::new(&one_step);
        session.decode(features, &guided(&[1.4]), &mut noise, &mut NoopObserver).map(drop)
    };
    decode(&features).unwrap();
    argument(decode(&features.concat(&features).unwrap()), "k");
    shape(decode(&Features::new(Tensor::zeros(&cpu(), &[1, 4, 6], DType::F32).unwrap()).unwrap()));

    let (ctx, ar) = (Context::inference(), mrar.ar());
    let class = ar.class_embedding(&ctx, &[0]).unwrap();
    let mut cache = ar.prefix_cache();
    argument(ar.next_features(&ctx, &class, Some(&latent(1)), &mut cache).map(drop), "reference");
    ar.next_features(&ctx, &class, None, &mut cache).unwrap();
    argument(ar.next_features(&ctx, &class, None, &mut cache).map(drop), "reference");
    let single = one_step.ar().next_features(&ctx, &class, None, &mut one_step.ar().prefix_cache());
    assert!(matches!(single, Err(Error::Config { field: "mode", .. })));
}

/// A token cancels a generation within a step, from any thread, and the session stays usable.
#[test]
fn tokens_cancel_within_a_step() {
    for config in configs() {
        let model = tiny::model(&cpu(), &config, DType::F32);
        let (mut session, token) = (Session::new(&model), CancellationToken::new());
        session.set_cancellation(&token);
        let whole = generate_from(&mut session, &[(1, 5)], &[], &guided(&[1.4])).unwrap();
        token.clone().cancel();
        let stopped = generate_from(&mut session, &[(1, 5)], &[], &guided(&[1.4]));
        assert!(matches!(stopped, Err(Error::Cancelled)), "before the first block");
        token.reset();
        let again = generate_from(&mut session, &[(1, 5)], &[], &guided(&[1.4])).unwrap();
        assert_eq!(again.codes.to_f32().unwrap(), whole.codes.to_f32().unwrap());
        let mut noise = KeyedNoise::new(&cpu(), DType::F32, &[5]);
        let mut steps = 0;
        let mut in_step = |_: &Progress<'_, Cpu>| {
            steps += 1;
            token.cancel();
            ControlFlow::Continue(())
        };
        let stopped = session.generate(&[1], &[], &guided(&[1.4]), &mut noise, &mut in_step);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert_eq!(steps, 1, "the next step does not run");
    }
}

/// Given initial noise replaces the drawn noise; injected noise still follows the seed.
#[test]
fn given_initial_noise_replaces_the_drawn_noise() {
    let model = tiny::model(&cpu(), &tiny::one_step(), DType::F32);
    let sampling = guided(&[1.0]);
    let keyed = || KeyedNoise::<Cpu>::new(&cpu(), DType::F32, &[9]);
    let run = |mut noise: KeyedNoise<Cpu>| {
        let made = Session::new(&model).generate(&[1], &[], &sampling, &mut noise, &mut NoopObserver);
        made.map(|made| made.codes.to_f32().unwrap())
    };
    let shape = [1, model.config().decoder_tokens(), model.config().latent_channels];
    let drawn = keyed().initial(&shape).unwrap();
    assert_eq!(run(keyed().with_initial(drawn.clone())).unwrap(), run(keyed()).unwrap());
    let other = drawn.affine(0.5, 0.1).unwrap();
    assert_ne!(run(keyed().with_initial(other)).unwrap(), run(keyed()).unwrap());
    let wrong = drawn.narrow(1, 0, 1).unwrap();
    assert!(matches!(run(keyed().with_initial(wrong)), Err(Error::Shape { .. })));
}

/// Non-finite weights are an error.
#[test]
fn non_finite_weights_are_an_error() {
    let mut model = tiny::model(&cpu(), &tiny::one_step(), DType::F32);
    let (_, param) = model.params_mut().into_iter().find(|(name, _)| name == "z_proj_ln.bias").unwrap();
    let infinite = param.value().affine(0.0, f64::INFINITY).unwrap();
    param.set(&infinite).unwrap();
    let result = generate_from(&mut Session::new(&model), &[(0, 1)], &[], &guided(&[1.0]));
    assert!(matches!(result, Err(Error::NonFinite { .. })), "{result:?}");
}

#[test]
fn initial_weights_follow_the_seed() {
    let new = |config: &TransDiffConfig, seed| TransDiff::new(&cpu(), config, DType::F32, seed).unwrap();
    for config in configs() {
        let model = new(&config, 1);
        assert_eq!(differing(&model, &new(&config, 1)), [""; 0]);
        let reference = TransDiff::new(&Reference, &config, DType::F32, 1).unwrap();
        assert_eq!(differing(&model, &reference), [""; 0], "independent of the backend");
        let other = differing(&model, &new(&config, 2));
        for (name, param) in model.params() {
            let values = param.value().to_f64().unwrap();
            let constant = values.iter().all(|&v| v == values[0]);
            assert_eq!(constant, !other.contains(&name), "{name}: random exactly if it depends on the seed");
            let is_norm = name.contains("norm") || name.contains("_ln");
            let expected = if is_norm && name.ends_with("weight") { 1.0 } else { 0.0 };
            assert!(!constant || values[0] == expected, "{name}");
        }
    }
}

/// Published sizes (the paper's table) in millions of parameters: of MRAR models; of 1-step models, their encoders and
/// their decoders.
#[test]
fn presets_have_the_published_numbers_of_parameters() {
    let published = [
        (Size::Base, 290.04, [289.96, 171.34, 118.62]),
        (Size::Large, 682.63, [682.52, 404.72, 277.80]),
        (Size::Huge, 1328.03, [1327.89, 789.14, 538.75]),
    ];
    let millions = |count: usize| (count as f64 / 1e4).round() / 100.0;
    for (size, mrar, one_step) in published {
        let model = |mode| {
            let config = TransDiffConfig::published(size, 256, mode).unwrap();
            TransDiff::placeholder(&cpu(), &config, DType::F32).unwrap()
        };
        let single = model(Mode::OneStep);
        let counts = [single.param_count(), single.ar().param_count(), single.decoder().param_count()];
        assert_eq!(counts.map(millions), one_step, "{size:?}");
        assert_eq!(millions(model(Mode::MultiReference { groups: 4 }).param_count()), mrar, "{size:?}");
    }
}
