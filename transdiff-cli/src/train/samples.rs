//! Grids of samples from the EMA weights, at fixed seeds.

use transdiff::diffusion::{KeyedNoise, NoopObserver, Preset, SamplingSettings};
use transdiff::models::transdiff::Session;
use transdiff::models::{Codec, GeneratorInfo, Model};
use transdiff::pipeline::Output;
use transdiff::{Backend, CancellationToken, DType, TransDiff};

use crate::failure::Result;
use crate::grid::Grid;
use crate::sample::preview::PreviewMode;

/// Classes that a grid shows at most, and samples per class.
const CLASSES: usize = 8;
const PER_CLASS: usize = 4;

/// Settings of the grids of a run.
#[derive(Clone, Copy)]
pub struct SampleGrid {
    /// Sampling steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
}

impl SampleGrid {
    /// PNG file of samples of `model`, a row per class; none if there is no codec and latents cannot be shown.
    pub fn draw<B: Backend>(
        self,
        model: &TransDiff<B>,
        codec: Option<&dyn Codec<B>>,
    ) -> Result<Option<Vec<u8>>> {
        let config = model.config();
        let mode = match codec.map(Codec::info) {
            Some(info) => {
                let (downsampling, channels) = (info.downsampling, info.image_channels);
                Some(PreviewMode::Images { downsampling, channels })
            }
            None => PreviewMode::for_latents(config.latent_channels),
        };
        let Some(mode) = mode else { return Ok(None) };
        let classes = config.classes.min(CLASSES);
        let labels: Vec<usize> = (0..classes * PER_CLASS).map(|i| i / PER_CLASS).collect();
        let seeds: Vec<u64> = (0..labels.len()).map(|i| (i % PER_CLASS) as u64).collect();
        let generator = GeneratorInfo { preset: Preset::PLAIN, ..config.generator_info() };
        // Guidance is part of a distilled model.
        let guidance = if generator.distilled { 1.0 } else { self.guidance };
        let settings = SamplingSettings { guidance: vec![guidance], ..generator.settings() };
        let sampling = settings.with_steps(self.steps).build(config.groups())?;
        let mut noise = KeyedNoise::new(model.backend(), DType::F32, &seeds);
        let mut session = Session::new(model);
        let made = session.generate(&labels, &[], &sampling, &mut noise, &mut NoopObserver)?;
        let images = match codec {
            Some(codec) => {
                let images = codec.decode_codes(&made.codes, &CancellationToken::new())?;
                Some(images.cast(DType::F32)?.to_host()?)
            }
            None => None,
        };
        let latents = made.codes.cast(DType::F32)?.to_host()?;
        let output = Output { latents, references: Vec::new(), features: None, images };
        let mut grid = Grid::new(labels.len(), PER_CLASS);
        for (index, bitmap) in mode.render(&output)?.iter().enumerate() {
            grid.add(index, bitmap)?;
        }
        grid.png()
    }
}
