//! A second model, generator and codec, through the unchanged trainer and pipeline: the interfaces fit more than
//! TransDiff.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::tiny::bits;
use serde::{Deserialize, Serialize};
use transdiff::autograd::{Context, Param, Var};
use transdiff::checkpoint::WeightView;
use transdiff::data::{LoaderOptions, MemoryDataset};
use transdiff::diffusion::{ArStep, KeyedNoise, NoiseSource, Preset, SamplingSettings, SamplingStep};
use transdiff::models::{
    Advance, Codec, CodecInfo, Conditioning, Generation, GenerationInput, Generator, GeneratorInfo, Model,
    ParamGroup, SampleKey, SampleShape, Samples, Trainable, WeightSet,
};
use transdiff::nn::{Init, Module};
use transdiff::pipeline::{OutputSelection, Pipeline, Request};
use transdiff::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig, Trainer};
use transdiff::{Backend, CancellationToken, Cpu, DType, Error, Precision, Result, Tensor};

const LATENT: [usize; 3] = [1, 2, 2];

/// One mean latent per class, and a scale that is never trained.
#[derive(Clone, Debug)]
struct Means<B: Backend> {
    means: Param<B>,
    scale: Param<B>,
    config: MeansConfig,
    backend: B,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct MeansConfig {
    classes: usize,
}

impl<B: Backend> Module<B> for Means<B> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>)) {
        f(format!("{prefix}means"), &self.means);
        f(format!("{prefix}scale"), &self.scale);
    }

    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>)) {
        f(format!("{prefix}means"), &mut self.means);
        f(format!("{prefix}scale"), &mut self.scale);
    }
}

impl<B: Backend> Model<B> for Means<B> {
    type Config = MeansConfig;

    const CONFIG_KEY: &'static str = "toy.config";

    fn placeholder(backend: &B, config: &MeansConfig, precision: impl Into<Precision>) -> Result<Self> {
        let dtype = precision.into().dtype();
        let mut init = Init::placeholder(backend, dtype);
        let means = init.normal(&[config.classes, 4], 1.0)?;
        let scale = init.constant(&[1], 1.0)?;
        Ok(Self { means, scale, config: config.clone(), backend: backend.clone() })
    }

    fn check_config(config: &MeansConfig, _: &WeightView<'_>) -> Result<()> {
        if config.classes == 0 { Err(Error::config("classes", "at least 1", 0)) } else { Ok(()) }
    }

    fn config(&self) -> &MeansConfig {
        &self.config
    }

    fn backend(&self) -> &B {
        &self.backend
    }

    fn dtype(&self) -> DType {
        self.means.value().dtype()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct MeansObjective;

impl<B: Backend> Trainable<B> for Means<B> {
    type Objective = MeansObjective;
    type Draws = ();
    type Batch = Samples<B>;

    fn check_objective(_: &MeansObjective) -> Result<()> {
        Ok(())
    }

    fn sample_shape(&self) -> SampleShape {
        SampleShape { latent: LATENT, latents_per_sample: 1, classes: self.config.classes }
    }

    fn draw(_: &SampleShape, _: &MeansObjective, _: SampleKey) {}

    fn batch(&self, samples: Samples<B>, _: Vec<()>) -> Result<Samples<B>> {
        Ok(samples)
    }

    fn batch_len(batch: &Samples<B>) -> usize {
        batch.labels.len()
    }

    fn loss(&self, ctx: &Context<B>, batch: &Samples<B>, _: &MeansObjective) -> Result<Var<B>> {
        let predicted = ctx.param(&self.means)?.embedding(&batch.labels)?;
        predicted.mul(&ctx.param(&self.scale)?)?.mse(&batch.latents[0].reshape(&[batch.labels.len(), 4])?)
    }

    fn param_group(&self, name: &str, _: usize) -> ParamGroup {
        ParamGroup { frozen: name == "scale", lr_factor: 2.0, ..ParamGroup::trained(false) }
    }
}

/// The class mean plus noise that each of `STEPS` steps halves.
#[derive(Debug)]
struct MeansGenerator {
    model: Means<Cpu>,
    info: GeneratorInfo,
    token: CancellationToken,
    current: Option<(Tensor<Cpu>, Tensor<Cpu>, usize)>,
}

const STEPS: usize = 3;

impl MeansGenerator {
    fn new(model: &Means<Cpu>) -> Self {
        let info = GeneratorInfo {
            model: "means",
            classes: model.config.classes,
            code_shape: LATENT,
            ar_steps: 1,
            multi_reference: false,
            features: None,
            preset: Preset::PLAIN,
            distilled: false,
        };
        Self { model: model.clone(), info, token: CancellationToken::new(), current: None }
    }
}

impl Generator<Cpu> for MeansGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn backend(&self) -> &Cpu {
        &self.model.backend
    }

    fn precision(&self) -> Precision {
        self.model.dtype().into()
    }

    fn param_count(&self) -> usize {
        self.model.param_count()
    }

    fn fork(&self) -> Box<dyn Generator<Cpu>> {
        Box::new(Self::new(&self.model))
    }

    fn set_cancellation(&mut self, token: &CancellationToken) {
        self.token = token.clone();
    }

    fn begin(&mut self, input: GenerationInput<Cpu>) -> Result<()> {
        let Conditioning::Classes(labels) = input.conditioning else {
            return Err(Error::argument("features", "classes", "features"));
        };
        let shape = self.info.codes_shape(labels.len());
        let mean = Var::from(self.model.means.value().clone()).embedding(&labels)?;
        let noise = KeyedNoise::new(&self.model.backend, DType::F32, &input.seeds).initial(&shape)?;
        self.current = Some((mean.into_value().reshape(&shape)?, noise, 0));
        Ok(())
    }

    fn advance(&mut self) -> Result<Advance> {
        self.token.check()?;
        let (_, noise, done) =
            self.current.as_mut().ok_or_else(|| Error::argument("advance", "a generation", "none"))?;
        *noise = noise.affine(0.5, 0.0)?;
        *done += 1;
        let t = 1.0 - (*done - 1) as f64 / STEPS as f64;
        let step =
            SamplingStep { ar_step: ArStep::ONLY, done: *done, total: STEPS, before: 0, all: STEPS, t };
        Ok(if step.is_last() { Advance::Done(step) } else { Advance::More(step) })
    }

    fn preview(&self) -> Result<Tensor<Cpu>> {
        let none = || Error::argument("preview", "a generation", "none");
        Ok(self.current.as_ref().ok_or_else(none)?.0.clone())
    }

    fn finish(&mut self) -> Result<Generation<Cpu>> {
        let none = || Error::argument("finish", "a generation", "none");
        let (mean, noise, _) = self.current.take().ok_or_else(none)?;
        Ok(Generation { codes: mean.add(&noise)?, references: Vec::new(), features: None })
    }
}

/// Grey pixels, one per element of the codes.
#[derive(Debug)]
struct Grey;

impl Codec<Cpu> for Grey {
    fn info(&self) -> CodecInfo {
        CodecInfo { codec: "grey", image_channels: 3, code_channels: 1, downsampling: 1, latent_scale: None }
    }

    fn param_count(&self) -> usize {
        0
    }

    fn encode_images(
        &self,
        images: &Tensor<Cpu>,
        _: Option<&[u64]>,
        token: &CancellationToken,
    ) -> Result<Tensor<Cpu>> {
        token.check()?;
        images.narrow(1, 0, 1)
    }

    fn decode_codes(&self, codes: &Tensor<Cpu>, token: &CancellationToken) -> Result<Tensor<Cpu>> {
        token.check()?;
        Tensor::cat(&[codes, codes, codes], 1)
    }
}

fn cpu() -> Cpu {
    Cpu::new(Some(1)).unwrap()
}

fn model(classes: usize) -> Means<Cpu> {
    let mut init = Init::random(&cpu(), DType::F32, 3);
    let means = init.normal(&[classes, 4], 1.0).unwrap();
    let scale = init.constant(&[1], 1.0).unwrap();
    Means { means, scale, config: MeansConfig { classes }, backend: cpu() }
}

/// Two latents per class, 1 apart: their mean is the class plus ½.
fn dataset() -> MemoryDataset {
    let values = [0.0, 1.0, 1.0, 2.0].into_iter().flat_map(|x| [x; 4]).collect();
    MemoryDataset::new(LATENT, values, vec![0, 0, 1, 1]).unwrap()
}

fn config() -> TrainConfig<MeansObjective> {
    TrainConfig {
        dropout: 0.0,
        weight_decay: 0.0,
        lr: LrSchedule { peak: 0.02, warmup: 0, total: 300, decay: LrDecay::Linear { from: 0.5 } },
        ema: EmaConfig { decay: 0.9, warmup: true },
        ..TrainConfig::new(4, 300)
    }
}

fn steps(trainer: &mut Trainer<Cpu, Means<Cpu>>, count: usize) {
    let mut data = trainer.loader(Arc::new(dataset()), LoaderOptions::default()).unwrap();
    for _ in 0..count {
        trainer.step(&mut data).unwrap();
    }
}

fn trained() -> Trainer<Cpu, Means<Cpu>> {
    let mut trainer = Trainer::new(model(2), config()).unwrap();
    steps(&mut trainer, 300);
    trainer
}

#[test]
fn toy_model_trains_to_the_class_means() {
    let trainer = trained();
    let means = trainer.ema().means.value().to_f32().unwrap();
    let expected = [0.5, 1.5].into_iter().flat_map(|x| [x; 4]);
    assert!(means.iter().zip(expected).all(|(got, want)| (got - want).abs() < 0.05), "{means:?}");
    assert_eq!(trainer.model().scale.value().to_f32().unwrap(), [1.0], "a frozen parameter moved");
}

/// lr_factor 2 at rate ½·lr is rate lr.
#[test]
fn learning_rate_factors_of_groups_apply() {
    let first_move = |peak: f64| {
        let lr = LrSchedule { peak, decay: LrDecay::Constant, ..config().lr };
        let mut trainer = Trainer::new(model(2), TrainConfig { lr, ..config() }).unwrap();
        let before = trainer.model().means.value().to_f32().unwrap();
        steps(&mut trainer, 1);
        let after = trainer.model().means.value().to_f32().unwrap();
        (after[0] - before[0]).abs()
    };
    // Adam's first step has the length of the learning rate.
    assert!((first_move(0.01) / 0.02 - 1.0).abs() < 1e-3, "{}", first_move(0.01));
}

#[test]
fn toy_run_resumes_bitwise_identically() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut trainer: Trainer<Cpu, Means<Cpu>> = Trainer::new(model(2), config()).unwrap();
    steps(&mut trainer, 5);
    trainer.save(&path).unwrap();
    let mut resumed: Trainer<Cpu, Means<Cpu>> = Trainer::resume(&cpu(), &path).unwrap();
    for trainer in [&mut trainer, &mut resumed] {
        steps(trainer, 5);
    }
    assert_eq!(bits(resumed.model().means.value()), bits(trainer.model().means.value()));
    assert_eq!(bits(resumed.ema().means.value()), bits(trainer.ema().means.value()));
    // A checkpoint of another model is refused.
    let other: Result<Trainer<Cpu>> = Trainer::resume(&cpu(), &path);
    assert!(matches!(other, Err(Error::Format { .. })));
}

#[test]
fn toy_generator_and_codec_run_in_a_pipeline() {
    let trainer = trained();
    let generator = Box::new(MeansGenerator::new(trainer.ema()));
    let pipeline = Pipeline::new(generator, Some(Box::new(Grey)), WeightSet::Single).unwrap();
    assert_eq!(pipeline.info().image_size(), Some([2, 2]));
    let sampling = SamplingSettings::from(Preset::PLAIN).build(1).unwrap();
    let request = Request {
        outputs: OutputSelection { images: true, features: false },
        batch: NonZeroUsize::new(2),
        ..Request::new(vec![0, 1, 1], vec![5, 6, 7], sampling)
    };
    let mut session = pipeline.session();
    let mut fractions = Vec::new();
    let mut observer = |progress: &transdiff::pipeline::Progress<'_>| {
        assert_eq!(progress.preview().unwrap().shape()[1..], LATENT);
        fractions.push(progress.fraction);
        ControlFlow::Continue(())
    };
    let batches: Vec<_> = session.batches(&request, &mut observer).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(batches.iter().map(|batch| batch.images.clone()).collect::<Vec<_>>(), [0..2, 2..3]);
    assert_eq!(fractions.len(), 2 * STEPS);
    assert!(fractions.is_sorted() && (fractions[5] - 1.0).abs() < 1e-12, "{fractions:?}");

    let whole =
        session.generate(&Request { batch: None, ..request.clone() }, &mut |_| ControlFlow::Continue(()));
    let whole = whole.unwrap();
    assert_eq!(whole.images.as_ref().unwrap().shape(), [3, 3, 2, 2]);
    let joined: Vec<f32> = batches.iter().flat_map(|batch| batch.output.latents.to_f32()).collect();
    assert_eq!(whole.latents.to_f32(), joined);
    assert_eq!(session.encode(whole.images.as_ref().unwrap(), None).unwrap(), whole.latents);

    // A break in the second batch leaves the first; the iterator then ends.
    let mut calls = 0;
    let mut stop = |_: &transdiff::pipeline::Progress<'_>| {
        calls += 1;
        if calls > STEPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut batches = session.batches(&request, &mut stop).unwrap();
    assert!(batches.next().unwrap().is_ok());
    assert!(matches!(batches.next(), Some(Err(Error::Cancelled))));
    assert!(batches.next().is_none());

    // Without features, what needs them is an error that names them.
    let error = session.features(&[0], &[]).unwrap_err();
    assert!(matches!(error, Error::Argument { argument: "features", .. }), "{error}");
    let token = CancellationToken::new();
    token.cancel();
    session.set_cancellation(&token);
    let cancelled = session.generate(&request, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn codec_of_other_channels_is_refused() {
    #[derive(Debug)]
    struct Wide;
    impl Codec<Cpu> for Wide {
        fn info(&self) -> CodecInfo {
            CodecInfo { code_channels: 2, ..Grey.info() }
        }
        fn param_count(&self) -> usize {
            0
        }
        fn encode_images(
            &self,
            images: &Tensor<Cpu>,
            seeds: Option<&[u64]>,
            token: &CancellationToken,
        ) -> Result<Tensor<Cpu>> {
            Grey.encode_images(images, seeds, token)
        }
        fn decode_codes(&self, codes: &Tensor<Cpu>, token: &CancellationToken) -> Result<Tensor<Cpu>> {
            Grey.decode_codes(codes, token)
        }
    }
    let generator = Box::new(MeansGenerator::new(&model(2)));
    let refused = Pipeline::new(generator, Some(Box::new(Wide)), WeightSet::Single);
    assert!(matches!(refused, Err(Error::Config { field: "latent_channels", .. })));
}
