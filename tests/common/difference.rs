//! Gradients against central differences.

use transdiff_core::autograd::{Tape, Var};
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_core::{Backend, DType, Result, Tensor};

/// Step size of the differences. Inputs are of order 1, so the truncation error h²/6 · f‴ is about 1e-11, and the
/// rounding error of the quotient, ε · |f| / h with ε = 1.1e-16, about 1e-10 for the |f| of up to 10 here.
pub const STEP: f64 = 1e-5;
/// Largest error allowed: ten times the two errors together, in units of the larger of 1 and the largest gradient. Wrong
/// factors, signs, indices and masks give errors of 1e-2 and more.
pub const LIMIT: f64 = 2e-9;

/// Values of order 1 that depend on `index` only.
pub fn normals(index: u32, count: usize) -> Vec<f64> {
    let mut stream = StreamKey::new(2506, Purpose::Data, index, 7).stream();
    (0..count).map(|_| stream.normal()).collect()
}

/// A tensor of f64.
pub fn tensor<B: Backend>(backend: &B, shape: &[usize], values: Vec<f64>) -> Tensor<B> {
    Tensor::from_f64(backend, shape, values, DType::F64).unwrap()
}

/// Memory layout of an operation's inputs, and of the gradient that its backward pass receives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Row-major.
    Contiguous,
    /// Reversed axes, in the middle of a larger buffer.
    Strided,
}

impl Form {
    pub const ALL: [Self; 2] = [Self::Contiguous, Self::Strided];

    fn input<B: Backend>(self, backend: &B, shape: &[usize], values: &[f64]) -> Tensor<B> {
        let plain = tensor(backend, shape, values.to_vec());
        if self == Self::Contiguous || shape.is_empty() {
            return plain;
        }
        let reversed: Vec<usize> = (0..shape.len()).rev().collect();
        let transposed = plain.permute(&reversed).unwrap();
        let mut wide = transposed.shape().to_vec();
        wide[0] += 2;
        transposed
            .pad_into(&wide, 0, 1)
            .unwrap()
            .narrow(0, 1, wide[0] - 2)
            .unwrap()
            .permute(&reversed)
            .unwrap()
    }

    /// Permutes y such that the gradient of y arrives in this layout.
    fn output<B: Backend>(self, y: &Var<B>) -> Result<Var<B>> {
        let reversed: Vec<usize> = (0..y.shape().len()).rev().collect();
        if self == Self::Contiguous { Ok(y.clone()) } else { y.permute(&reversed) }
    }
}

/// An operation on inputs of the given shapes.
pub struct Case<B: Backend> {
    pub name: &'static str,
    pub shapes: Vec<Vec<usize>>,
    #[expect(clippy::type_complexity)]
    pub apply: Box<dyn Fn(&[Var<B>]) -> Result<Var<B>>>,
}

pub fn case<B: Backend>(
    name: &'static str,
    shapes: &[&[usize]],
    apply: impl Fn(&[Var<B>]) -> Result<Var<B>> + 'static,
) -> Case<B> {
    Case { name, shapes: shapes.iter().map(|s| s.to_vec()).collect(), apply: Box::new(apply) }
}

impl<B: Backend> Case<B> {
    /// The output, projected onto fixed random weights so that every element contributes.
    fn projected(&self, inputs: &[Var<B>], form: Form) -> Result<Var<B>> {
        let y = form.output(&(self.apply)(inputs)?)?;
        let weights = tensor(y.value().backend(), y.shape(), normals(1000, y.value().numel()));
        let axes: Vec<usize> = (0..y.shape().len()).collect();
        y.mul(&weights.into())?.sum(&axes)?.reshape(&[])
    }

    /// Compares every element of every input's gradient with its central difference, for all inputs together and for one
    /// differentiable input at a time, as with frozen parameters. Returns the largest error.
    pub fn check(&self, backend: &B, form: Form) -> f64 {
        let values: Vec<Vec<f64>> =
            (0..).zip(&self.shapes).map(|(i, s)| normals(i, s.iter().product())).collect();
        let input = |i: usize, values: &[f64]| form.input(backend, &self.shapes[i], values);
        let tensors: Vec<Tensor<B>> = (0..values.len()).map(|i| input(i, &values[i])).collect();
        let together = self.gradients(&tensors, |_| true, form);
        let mut worst = 0.0f64;
        for i in 0..tensors.len() {
            let alone = self.gradients(&tensors, |k| k == i, form);
            assert_eq!(
                alone[i], together[i],
                "{} {form:?}: gradient {i} differs between alone and together",
                self.name
            );
            let differences: Vec<f64> = (0..values[i].len())
                .map(|j| {
                    let at = |step: f64| {
                        let mut moved = values[i].clone();
                        moved[j] += step;
                        let mut inputs: Vec<Var<B>> = tensors.iter().cloned().map(Var::from).collect();
                        inputs[i] = input(i, &moved).into();
                        self.projected(&inputs, form).unwrap().value().item().unwrap()
                    };
                    (at(STEP) - at(-STEP)) / (2.0 * STEP)
                })
                .collect();
            let unit = differences.iter().fold(1.0f64, |m, d| m.max(d.abs()));
            for (j, (g, d)) in together[i].iter().zip(&differences).enumerate() {
                let error = (g - d).abs() / unit;
                let at =
                    format!("{} {form:?}: input {i}, element {j}: gradient {g}, difference {d}", self.name);
                assert!(error <= LIMIT, "{at}");
                worst = worst.max(error);
            }
        }
        worst
    }

    /// Gradients of the inputs that `wanted` selects; empty for the others.
    fn gradients(&self, inputs: &[Tensor<B>], wanted: impl Fn(usize) -> bool, form: Form) -> Vec<Vec<f64>> {
        let tape = Tape::new();
        let (vars, keys): (Vec<_>, Vec<_>) = inputs
            .iter()
            .enumerate()
            .map(|(i, x)| match wanted(i) {
                true => {
                    let (var, key) = tape.input(x.clone());
                    (var, Some(key))
                }
                false => (Var::constant(x.clone()), None),
            })
            .unzip();
        let loss = self.projected(&vars, form).unwrap();
        let grads = tape.backward(&loss).unwrap();
        let of = |(i, key): (usize, &Option<_>)| {
            let Some(key) = key else { return Vec::new() };
            let grad = grads.get(*key).unwrap_or_else(|| panic!("{}: input {i} has a gradient", self.name));
            assert_eq!(grad.shape(), inputs[i].shape(), "{}: shape of gradient {i}", self.name);
            assert_eq!(grad.dtype(), inputs[i].dtype(), "{}: type of gradient {i}", self.name);
            grad.to_f64().unwrap()
        };
        keys.iter().enumerate().map(of).collect()
    }
}
