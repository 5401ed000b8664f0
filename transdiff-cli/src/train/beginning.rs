//! The trainer that a run begins or goes on with.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use transdiff::checkpoint::sha256_of;
use transdiff::distributed::Collectives;
use transdiff::models::Codec;
use transdiff::train::{Distribution, Trainer};
use transdiff::{Backend, DType, Tensor};
use transdiff_run::settings::GradientType;

use super::plan::Plan;
use super::run_model::RunModel;
use crate::failure::Result;
use crate::output::print_to_stderr;

/// A run's ranks and files, from which its trainer is made.
pub struct Beginning<'a, B: Backend> {
    pub plan: &'a Plan<'a>,
    pub backend: &'a B,
    pub codec: Option<Arc<dyn Codec<B>>>,
    pub collectives: Arc<dyn Collectives<B>>,
}

/// Checkpoint that a run goes on from.
#[derive(Serialize, Deserialize)]
struct Newest {
    path: PathBuf,
    step: u64,
}

impl<B: Backend> Beginning<'_, B> {
    /// The trainer: of the newest checkpoint, or of a new run. Rank 0 chooses, and the others read the same file.
    pub fn trainer<M: RunModel<B>>(&self) -> Result<Trainer<B, M>> {
        let job = self.plan.job;
        let mut own = None;
        let newest: Option<Newest> = job.made_by_main(|| {
            let Some((newest, trainer)) = self.newest()? else { return Ok(None) };
            own = Some(trainer);
            Ok(Some(newest))
        })?;
        let trainer = job.each(|| {
            let trainer = match (own, &newest) {
                (Some(trainer), _) => trainer,
                (None, Some(newest)) => self.of_this_model(
                    Trainer::resume_distributed(self.backend, &newest.path, self.distribution())?,
                    newest,
                )?,
                (None, None) => M::begin(self.plan, self.backend)?.with_distribution(self.distribution())?,
            };
            let trainer = trainer.with_images(self.plan.data.images.clone());
            Ok(match &self.codec {
                Some(codec) if self.plan.data.are_images => trainer.with_codec(Arc::clone(codec)),
                _ => trainer,
            })
        })?;
        self.check_equal(&trainer)?;
        Ok(trainer)
    }

    /// Fails, on all ranks alike, if a rank has other weights, or another place in the run, than rank 0: it may have read another
    /// file of the same name.
    fn check_equal<M: RunModel<B>>(&self, trainer: &Trainer<B, M>) -> Result<()> {
        let job = self.plan.job;
        if job.size() == 1 {
            return Ok(());
        }
        let state = || {
            let params = trainer.model().params();
            let values: Vec<&Tensor<B>> = params.iter().map(|(_, param)| param.value()).collect();
            let norms = Tensor::squared_norms(self.backend, &values)?;
            let bytes: Vec<u8> = norms.iter().flat_map(|norm| norm.to_bits().to_le_bytes()).collect();
            Ok((trainer.steps_done(), trainer.samples_done(), sha256_of(&bytes)))
        };
        let all = job.agree(state())?;
        match all.iter().position(|state| *state != all[0]) {
            Some(rank) => {
                let step = all[rank].0;
                let message = format!(
                    "rank {rank}: expected the weights of rank 0 after step {}, got others after step {step}; the run's \
                     directory has to be the same on all machines",
                    all[0].0
                );
                Err(job.known_to_all(message))
            }
            None => Ok(()),
        }
    }

    fn distribution(&self) -> Distribution<B> {
        Distribution {
            shard_optimizer: self.plan.shard_optimizer,
            gradient_dtype: match self.plan.settings.train.gradient_type {
                GradientType::F32 => None,
                GradientType::Bf16 => Some(DType::BF16),
            },
            ..Distribution::new(Arc::clone(&self.collectives))
        }
    }

    /// The newest checkpoint in the run's directory, and the trainer of rank 0 that it gives.
    fn newest<M: RunModel<B>>(&self) -> Result<Option<(Newest, Trainer<B, M>)>> {
        let directory = self.plan.directory.as_ref().expect("rank 0 has the run's directory");
        let resume = |path: &PathBuf| Trainer::resume_distributed(self.backend, path, self.distribution());
        match directory.load_newest(|file| resume(&file.path), print_to_stderr)? {
            Some((file, trainer)) => {
                let newest = Newest { path: file.path, step: file.step };
                let trainer = self.of_this_model(trainer, &newest)?;
                let path = newest.path.display();
                print_to_stderr(&format!("going on after step {}: {path}", newest.step));
                Ok(Some((newest, trainer)))
            }
            // A model is written after a checkpoint: to begin anew would replace what can no longer be trained on.
            None if directory.model().exists() => {
                let path = directory.path().display();
                let message = format!(
                    "{path}: expected a checkpoint beside model.safetensors, got none; put one back, or begin a new run \
                     with --out and --init"
                );
                Err(message.into())
            }
            None => Ok(None),
        }
    }

    /// The trainer of a checkpoint, if it is of the run's model, with the run's settings.
    fn of_this_model<M: RunModel<B>>(
        &self,
        mut trainer: Trainer<B, M>,
        newest: &Newest,
    ) -> Result<Trainer<B, M>> {
        if trainer.model().config() != &self.plan.settings.transdiff_config()? {
            let path = newest.path.display();
            return Err(format!("{path}: a checkpoint of a model of other sizes than config.toml").into());
        }
        trainer.reconfigure(M::train_config(self.plan)?)?;
        M::resume(self.plan, trainer)
    }
}
