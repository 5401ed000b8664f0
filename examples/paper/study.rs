//! The study: works off its units.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use transdiff::checkpoint::WeightFile;
use transdiff::models::patch::PatchCodec;
use transdiff::models::transdiff::Distillation;
use transdiff::models::{Codec, Model};
use transdiff::train::Trainer;
use transdiff::{Backend, Cpu, DType, TransDiff};

use crate::classifier::{Classifier, ClassifierConfig};
use crate::folder::Folder;
use crate::grids::strip;
use crate::judge::{Judge, Measures};
use crate::pictures::{CLASSES, Pictures};
use crate::sampling::Sampler;
use crate::scale::Scale;
use crate::training::Training;
use crate::units::{ImageSet, ModelName, Unit, model_file};

/// Seed of the classifier, which all seeds share: their measures can be compared.
const CLASSIFIER_SEED: u64 = 0;

/// Everything that units need.
pub struct Study<'a, B: Backend> {
    /// Backend that trains and generates.
    pub backend: &'a B,
    /// CPU that computes statistics.
    pub cpu: Cpu,
    /// Output directory.
    pub folder: &'a Folder,
    /// Sizes and recipes.
    pub scale: &'a Scale,
    /// Pictures to train on.
    pub train: Arc<Pictures>,
    /// Pictures to compare with.
    pub held_out: Pictures,
    /// Codec of the models.
    pub codec: PatchCodec,
    /// Set on Ctrl-C.
    pub interrupted: &'a AtomicBool,
}

impl<B: Backend> Study<'_, B> {
    /// Returns whether the file of `unit` is there.
    pub fn is_done(&self, unit: &Unit) -> bool {
        self.folder.path(&unit.file()).exists()
    }

    /// Works off `unit`, unless it is done. Returns false if the user interrupted it.
    pub fn work(&self, unit: &Unit, judge: &mut Option<Judge<B>>) -> Result<bool, Box<dyn Error>> {
        if self.is_done(unit) {
            return Ok(true);
        }
        match unit {
            Unit::Classifier => self.train_classifier(unit),
            Unit::Train { seed, model } => self.train(unit, *seed, *model),
            Unit::Measure { seed, set } => {
                if judge.is_none() {
                    *judge = Some(self.judge()?);
                }
                match judge {
                    Some(judge) => self.measure(*seed, set, judge),
                    None => Ok(false),
                }
            }
        }
    }

    /// The judge with the trained classifier.
    pub fn judge(&self) -> Result<Judge<B>, Box<dyn Error>> {
        let file = WeightFile::open(self.folder.path(&Unit::Classifier.file()))?;
        let classifier =
            Classifier::read(self.backend, &self.classifier_config(), &file.select(""), DType::F32)?;
        Ok(Judge::new(classifier, self.cpu.clone(), &self.held_out)?)
    }

    /// Sizes of the classifier.
    pub fn classifier_config(&self) -> ClassifierConfig {
        ClassifierConfig { side: self.scale.side(), hidden: self.scale.hidden, classes: CLASSES.len() }
    }

    /// A classifier before its training.
    pub fn new_classifier(&self) -> transdiff::Result<Classifier<B>> {
        Classifier::new(self.backend, &self.classifier_config(), CLASSIFIER_SEED)
    }

    /// Codec of the models, for the trainer.
    pub fn trainer_codec(&self) -> Arc<dyn Codec<B>> {
        Arc::new(self.codec)
    }

    fn training(&self, unit: &Unit, name: String) -> Training<'_> {
        let [file, checkpoint] = [unit.file(), unit.checkpoint()].map(|file| self.folder.path(&file));
        Training { name, file, checkpoint, interrupted: self.interrupted }
    }

    fn train_classifier(&self, unit: &Unit) -> Result<bool, Box<dyn Error>> {
        let config = self.scale.classifier.config(1, CLASSIFIER_SEED);
        let training = self.training(unit, "classifier".to_owned());
        let trainer = |checkpoint: Option<&Path>| match checkpoint {
            Some(path) => Trainer::resume(self.backend, path),
            None => Trainer::new(self.new_classifier()?, config),
        };
        training.run(&self.train, None, trainer, |_, _| Ok(()))
    }

    fn train(&self, unit: &Unit, seed: u64, model: ModelName) -> Result<bool, Box<dyn Error>> {
        let sizes = self.scale.model(model.mode());
        let initial = || match model.start() {
            None => TransDiff::new(self.backend, &sizes, DType::F32, seed),
            Some(start) => Ok(self.load(start, seed)?.initialise(&sizes, seed)?.0),
        };
        let training = self.training(unit, format!("{} {seed}", model.stem()));
        if let Some(folder) = training.file.parent() {
            std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        let codec = Some(self.trainer_codec());
        if let ModelName::Student(_) = model {
            // A student has the sizes of its teacher: `initial` is the teacher.
            let trainer = |checkpoint: Option<&Path>| match checkpoint {
                Some(path) => {
                    Trainer::<B, Distillation<B>>::resume(self.backend, path)?.with_teacher(&initial()?)
                }
                None => Trainer::new(Distillation::new(&initial()?)?, self.scale.distilling(model, seed)),
            };
            return training.run(&self.train, codec, trainer, |_, _| Ok(()));
        }
        let trainer = |checkpoint: Option<&Path>| match checkpoint {
            Some(path) => Trainer::resume(self.backend, path),
            None => Trainer::new(initial()?, self.scale.training(model, seed)),
        };
        // Snapshots of an interrupted training are written again, with the same weights.
        let visit = |step, ema: &TransDiff<B>| match model {
            ModelName::Base if self.scale.snapshots.contains(&step) => {
                ema.save(self.folder.path(&model_file(ModelName::BaseAt(step), seed)))
            }
            _ => Ok(()),
        };
        training.run(&self.train, codec, trainer, visit)
    }

    fn load(&self, model: ModelName, seed: u64) -> transdiff::Result<TransDiff<B>> {
        TransDiff::load(self.backend, self.folder.path(&model_file(model, seed)), DType::F32)
    }

    fn measure(&self, seed: u64, set: &ImageSet, judge: &Judge<B>) -> Result<bool, Box<dyn Error>> {
        let model = self.load(set.model, seed)?;
        let (steps, interrupted) = (self.scale.sampling_steps, self.interrupted);
        let sampler = Sampler { model: &model, codec: &self.codec, steps, interrupted };
        let images = match sampler.generate(set, self.scale.images, seed) {
            Err(transdiff::Error::Cancelled) => return Ok(false),
            images => images?,
        };
        let measures: Measures = judge.measure(&images.pixels, &images.labels, images.cosines)?;
        let png = strip(&images.pixels, self.scale.side()).to_png()?;
        self.folder.write_bytes(&set.strip_file(seed), &png)?;
        self.folder.write(&set.measures_file(seed), &measures)?;
        let Measures { frechet_distance, inception_score, accuracy, .. } = measures;
        println!(
            "seed {seed}  {:<52} Fréchet {frechet_distance:7.2}  IS {inception_score:5.2}  accuracy {accuracy:.3}",
            set.stem()
        );
        Ok(true)
    }

    /// Measures of a set, if they are there.
    pub fn measures(&self, seed: u64, set: &ImageSet) -> Result<Option<Measures>, String> {
        let file = set.measures_file(seed);
        match self.folder.path(&file).exists() {
            true => self.folder.read(&file).map(Some),
            false => Ok(None),
        }
    }
}
