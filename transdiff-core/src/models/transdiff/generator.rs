//! The session as a [`Generator`]: noise from seeds, advanced by the caller.

use super::run::{Run, SeededRun, not_done};
use super::{Session, latent_tokens};
use crate::diffusion::KeyedNoise;
use crate::models::{
    Advance, Conditioning, Features, Generation, GenerationInput, Generator, GeneratorInfo, Model,
};
use crate::nn::Module;
use crate::{Backend, CancellationToken, DType, Error, Precision, Result, Tensor};

impl<B: Backend> Generator<B> for Session<B> {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn backend(&self) -> &B {
        self.model.backend()
    }

    fn precision(&self) -> Precision {
        self.model.precision()
    }

    fn param_count(&self) -> usize {
        self.model.param_count()
    }

    fn fork(&self) -> Box<dyn Generator<B>> {
        Box::new(Self::new(&self.model))
    }

    fn set_cancellation(&mut self, token: &CancellationToken) {
        self.set_cancellation(token);
    }

    fn begin(&mut self, input: GenerationInput<B>) -> Result<()> {
        self.current = None;
        let GenerationInput { conditioning, seeds, references, initial_noise, sampling } = input;
        let conditioning = match conditioning {
            Conditioning::Classes(labels) => Conditioning::Classes(labels),
            Conditioning::Features { features, unconditional } => Conditioning::Features {
                features: Features::new(features)?,
                unconditional: unconditional.map(Features::new).transpose()?,
            },
        };
        // States are f32 whatever the model computes in, which may be too narrow for their small steps.
        let mut noise = KeyedNoise::new(self.model.backend(), DType::F32, &seeds);
        if let Some(initial) = initial_noise {
            noise = noise.with_initial(latent_tokens(&initial)?);
        }
        let run = Run::new(&self.model, &self.token, conditioning, references, &sampling)?;
        self.current = Some(SeededRun { run, noise });
        Ok(())
    }

    fn advance(&mut self) -> Result<Advance> {
        let none = || Error::argument("advance", "a generation that was begun", "none");
        let SeededRun { mut run, mut noise } = self.current.take().ok_or_else(none)?;
        let advanced = run.advance(&mut noise, &mut |count| self.cached_unconditional(count))?;
        self.current = Some(SeededRun { run, noise });
        Ok(advanced)
    }

    fn preview(&self) -> Result<Tensor<B>> {
        let none = || Error::argument("preview", "a generation that was begun", "none");
        self.current.as_ref().ok_or_else(none)?.run.preview()
    }

    fn finish(&mut self) -> Result<Generation<B>> {
        self.current.take().ok_or_else(not_done)?.run.finish()
    }

    fn features(&mut self, labels: &[usize], references: &[Tensor<B>]) -> Result<Features<B>> {
        Session::features(self, labels, references)
    }

    fn unconditional_features(&mut self, images: usize, references: &[Tensor<B>]) -> Result<Features<B>> {
        Session::unconditional_features(self, images, references)
    }
}
