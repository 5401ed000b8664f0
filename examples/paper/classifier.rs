//! The classifier whose features and class probabilities measure images: a multilayer perceptron, trained with the
//! library's own trainer.

use serde::{Deserialize, Serialize};
use transdiff::autograd::{Context, Param, Var};
use transdiff::backend::Activation;
use transdiff::checkpoint::WeightView;
use transdiff::models::{Model, ParamGroup, SampleKey, SampleShape, Samples, Trainable};
use transdiff::nn::{Init, Linear, Module};
use transdiff::{Backend, DType, Error, Precision, Result, Tensor};

/// Sizes of the classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierConfig {
    /// Width and height of an image.
    pub side: usize,
    /// Widths of the hidden layers; the last is that of the features.
    pub hidden: [usize; 2],
    /// Number of classes.
    pub classes: usize,
}

/// Two hidden layers with GELU, and a linear layer of logits.
#[derive(Clone, Debug)]
pub struct Classifier<B: Backend> {
    layers: [Linear<B>; 3],
    config: ClassifierConfig,
    backend: B,
}

impl<B: Backend> Classifier<B> {
    /// A classifier with random weights.
    pub fn new(backend: &B, config: &ClassifierConfig, seed: u64) -> Result<Self> {
        Self::build(backend, config, &mut Init::random(backend, DType::F32, seed))
    }

    fn build(backend: &B, config: &ClassifierConfig, init: &mut Init<B>) -> Result<Self> {
        let [first, second] = config.hidden;
        let layers = [
            Linear::new(init, config.side * config.side, first)?,
            Linear::new(init, first, second)?,
            Linear::new(init, second, config.classes)?,
        ];
        Ok(Self { layers, config: config.clone(), backend: backend.clone() })
    }

    /// Features [n, hidden] and logits [n, classes] of images [n, 1, side, side] in [-1, 1].
    pub fn outputs(&self, ctx: &Context<B>, images: &Tensor<B>) -> Result<[Var<B>; 2]> {
        let side = self.config.side;
        let pixels = ctx.input(&images.reshape(&[images.dim(0), side * side])?)?;
        let [first, second, last] = &self.layers;
        let hidden = first.forward_act(ctx, &pixels, Activation::Gelu)?;
        let features = second.forward_act(ctx, &hidden, Activation::Gelu)?;
        let logits = last.forward(ctx, &features)?;
        Ok([features, logits])
    }
}

impl<B: Backend> Module<B> for Classifier<B> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>)) {
        self.layers.iter().enumerate().for_each(|(i, layer)| layer.visit(&format!("{prefix}layer{i}"), f));
    }

    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>)) {
        let layers = self.layers.iter_mut().enumerate();
        layers.for_each(|(i, layer)| layer.visit_mut(&format!("{prefix}layer{i}"), f));
    }
}

impl<B: Backend> Model<B> for Classifier<B> {
    type Config = ClassifierConfig;

    const CONFIG_KEY: &'static str = "paper.classifier";

    fn placeholder(backend: &B, config: &ClassifierConfig, precision: impl Into<Precision>) -> Result<Self> {
        let dtype = precision.into().dtype();
        Self::build(backend, config, &mut Init::placeholder(backend, dtype))
    }

    fn check_config(config: &ClassifierConfig, _: &WeightView<'_>) -> Result<()> {
        match config.classes {
            0 => Err(Error::config("classes", "at least 1", 0)),
            _ => Ok(()),
        }
    }

    fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    fn backend(&self) -> &B {
        &self.backend
    }

    fn dtype(&self) -> DType {
        DType::F32
    }
}

/// Cross-entropy; it has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropy;

impl<B: Backend> Trainable<B> for Classifier<B> {
    type Objective = CrossEntropy;
    type Draws = ();
    type Batch = Samples<B>;

    fn check_objective(_: &CrossEntropy) -> Result<()> {
        Ok(())
    }

    fn sample_shape(&self) -> SampleShape {
        let ClassifierConfig { side, classes, .. } = self.config;
        SampleShape { latent: [1, side, side], latents_per_sample: 1, classes }
    }

    fn draw(_: &SampleShape, _: &CrossEntropy, _: SampleKey) {}

    fn batch(&self, samples: Samples<B>, _: Vec<()>) -> Result<Samples<B>> {
        Ok(samples)
    }

    fn batch_len(batch: &Samples<B>) -> usize {
        batch.labels.len()
    }

    /// The library has no softmax on a tape. The function of the logits that is linear with the gradient of the
    /// cross-entropy, and has its value here, gives the same gradients of the weights.
    fn loss(&self, ctx: &Context<B>, batch: &Samples<B>, _: &CrossEntropy) -> Result<Var<B>> {
        let [_, logits] = self.outputs(ctx, &batch.latents[0])?;
        let values = logits.value().to_f32()?;
        let (loss, gradient) = cross_entropy(&values, &batch.labels, self.config.classes);
        let gradient = Tensor::from_f32(&self.backend, logits.shape(), gradient, DType::F32)?;
        let linear = logits.mul(&Var::constant(gradient))?.sum(&[0, 1])?.reshape(&[])?;
        let offset = loss - linear.value().item()?;
        linear.affine(1.0, offset)
    }

    fn param_group(&self, _: &str, _: usize) -> ParamGroup {
        ParamGroup::trained(false)
    }
}

/// Mean cross-entropy of `logits` [n, classes], and its gradient.
fn cross_entropy(logits: &[f32], labels: &[usize], classes: usize) -> (f64, Vec<f32>) {
    let count = labels.len() as f64;
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let probabilities = softmax(row);
        loss -= probabilities[label].max(f64::MIN_POSITIVE).ln() / count;
        let target = |class| if class == label { 1.0 } else { 0.0 };
        gradient
            .extend(probabilities.iter().enumerate().map(|(class, p)| ((p - target(class)) / count) as f32));
    }
    (loss, gradient)
}

/// Probabilities of the classes.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use transdiff::Cpu;
    use transdiff::autograd::Tape;

    use super::*;

    #[test]
    fn gradient_of_the_loss_equals_differences() {
        let cpu = Cpu::new(Some(1)).unwrap();
        let config = ClassifierConfig { side: 2, hidden: [5, 3], classes: 4 };
        let mut classifier = Classifier::new(&cpu, &config, 3).unwrap();
        let images = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
        let images = Tensor::from_f32(&cpu, &[3, 1, 2, 2], images, DType::F32).unwrap();
        let batch = Samples { labels: vec![1, 3, 0], latents: vec![images] };
        let loss = |classifier: &Classifier<Cpu>, ctx: &Context<Cpu>| {
            classifier.loss(ctx, &batch, &CrossEntropy).unwrap()
        };
        let tape = Tape::new();
        let recorded = loss(&classifier, &Context::recording(tape.clone()));
        let grads = tape.backward(&recorded).unwrap();
        for name in ["layer0.weight", "layer1.bias", "layer2.weight"] {
            let find = |classifier: &Classifier<Cpu>| {
                let (_, param) = classifier.params().into_iter().find(|(found, _)| found == name).unwrap();
                param.clone()
            };
            let param = find(&classifier);
            let (shape, values) = (param.value().shape().to_vec(), param.value().to_f32().unwrap());
            let expected = grads.get(param.key()).unwrap().to_f32().unwrap()[1];
            let mut moved = |step: f32| {
                let mut values = values.clone();
                values[1] += step;
                let value = Tensor::from_f32(&cpu, &shape, values, DType::F32).unwrap();
                let mut params = classifier.params_mut();
                params.iter_mut().find(|(found, _)| found == name).unwrap().1.set(&value).unwrap();
                loss(&classifier, &Context::inference()).value().item().unwrap()
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            moved(0.0);
            assert!((difference - f64::from(expected)).abs() < 2e-4, "{name}: {difference} {expected}");
        }
    }
}
