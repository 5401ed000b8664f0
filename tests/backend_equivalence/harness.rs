//! Random cases, their inputs on both backends, and the comparison of outputs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use transdiff_core::reference::Reference;
use transdiff_core::rng::{Dropout, Philox, Purpose, StreamKey};
use transdiff_core::tensor::NormOutput;
use transdiff_core::{Backend, DType, HostData, Layout, Result, Tensor};

use crate::guarded::Guarded;

/// Results of a run of the suite.
#[derive(Debug, Default)]
pub struct Report {
    /// Largest error of each operation.
    pub worst: BTreeMap<&'static str, f64>,
    /// Digest of the bits of every output, with its case.
    pub digests: Vec<(String, u64)>,
    /// Errors above their bounds, with their cases. They are collected, so that one run on another device shows all.
    violations: Vec<String>,
}

/// A backend under test.
pub struct Suite<'a, B: Backend> {
    pub backend: &'a B,
    pub dtype: DType,
    /// Largest error allowed for an operation.
    pub bound: &'a dyn Fn(&str) -> f64,
    pub report: RefCell<Report>,
}

impl<B: Backend> Suite<'_, B> {
    /// Ends the checks.
    ///
    /// # Panics
    /// If an error was above its bound; lists all.
    pub fn finish(self) -> Report {
        let report = self.report.into_inner();
        if !report.violations.is_empty() {
            for (op, error) in &report.worst {
                println!("{op:36} {} {error:.1e} of {:.1e}", self.dtype, (self.bound)(op));
            }
            panic!(
                "{} errors above their bounds:\n{}",
                report.violations.len(),
                report.violations.join("\n")
            );
        }
        report
    }

    /// Runs `check` on `count` random cases, or on `TRANSDIFF_CASES` of them if that is less; 7 excludes the large shapes,
    /// which sanitizers are too slow for.
    pub fn cases(&self, family: &'static str, count: u32, check: impl Fn(&mut Case<'_, B>)) {
        let index = family.bytes().fold(0, |h: u32, b| h.wrapping_mul(31).wrapping_add(b.into()));
        for number in 0..count.min(max_cases()) {
            let rng = StreamKey::new(2506, Purpose::Data, index, number).stream();
            let notes = format!("{family} {number} in {}:", self.dtype);
            let backend = Guarded::new(self.backend.clone(), if is_aligned(number) { 64 } else { 37 });
            let mut case = Case { suite: self, backend, number, rng, notes, inputs: Vec::new() };
            check(&mut case);
            case.expect_inputs_unchanged();
        }
    }
}

/// Value of `TRANSDIFF_CASES`, if it is set.
fn max_cases() -> u32 {
    let said = std::env::var("TRANSDIFF_CASES").ok();
    said.map_or(u32::MAX, |n| n.parse().expect("TRANSDIFF_CASES is a number of cases"))
}

/// One random case. It draws its shapes and values from its own stream and prints them if it fails.
pub struct Case<'a, B: Backend> {
    pub suite: &'a Suite<'a, B>,
    /// The backend under test, which panics where an operation writes outside of its outputs.
    pub backend: Guarded<B>,
    pub number: u32,
    rng: Philox,
    notes: String,
    /// Whole buffer of every input, and its digest.
    inputs: Vec<(Tensor<Guarded<B>>, u64)>,
}

impl<B: Backend> Drop for Case<'_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in case {}", self.notes);
        }
    }
}

/// A tensor on the backend under test, in any layout, and the same values on the reference, contiguous.
pub struct Input<B: Backend> {
    pub ours: Tensor<Guarded<B>>,
    pub reference: Tensor<Reference>,
}

/// Placement of a tensor in a buffer: a box that may be wider than the tensor, with its axes in some order, between
/// margins.
pub struct Place {
    shape: Vec<usize>,
    /// Axis `order[i]` of the tensor is axis `i` of the box.
    order: Vec<usize>,
    /// Elements before and after each axis of the box.
    pads: Vec<[usize; 2]>,
    margins: [usize; 2],
}

impl Place {
    fn box_shape(&self) -> Vec<usize> {
        self.order
            .iter()
            .zip(&self.pads)
            .map(|(&a, [before, after])| before + self.shape[a] + after)
            .collect()
    }

    pub fn buffer_len(&self) -> usize {
        self.margins[0] + self.box_shape().iter().product::<usize>() + self.margins[1]
    }

    /// View of the tensor in its whole buffer.
    fn view<B: Backend>(&self, whole: &Tensor<B>) -> Result<Tensor<B>> {
        let box_shape = self.box_shape();
        let mut out = whole.narrow(0, self.margins[0], box_shape.iter().product())?.reshape(&box_shape)?;
        let mut back = vec![0; self.order.len()];
        for (i, &axis) in self.order.iter().enumerate() {
            out = out.narrow(i, self.pads[i][0], self.shape[axis])?;
            back[axis] = i;
        }
        out.permute(&back)
    }

    pub fn layout(&self) -> Layout {
        let whole = Tensor::zeros(&Reference, &[self.buffer_len()], DType::F64).unwrap();
        self.view(&whole).unwrap().layout().clone()
    }
}

pub fn positions(layout: &Layout) -> Vec<usize> {
    let mut out = Vec::new();
    layout.for_each_position(|p| out.push(p));
    out
}

/// Returns whether the tensors of case `number` are aligned, as those of a model are.
fn is_aligned(number: u32) -> bool {
    (number / 3).is_multiple_of(2)
}

impl<B: Backend> Case<'_, B> {
    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u32) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy + Debug>(&mut self, from: &[T]) -> T {
        let picked = from[self.below(from.len())];
        self.note(picked);
        picked
    }

    pub fn note(&mut self, what: impl Debug) {
        self.notes += &format!(" {what:?}");
    }

    /// A shape of up to four axes, sometimes with a size of 0 or 1; every eighth is large enough for several
    /// threads.
    pub fn shape(&mut self) -> Vec<usize> {
        if self.number % 8 == 7 {
            let shape = [1 + self.below(3), 150 + self.below(100), 200 + self.below(100)];
            let unit = if is_aligned(self.number) { 8 } else { 1 };
            return vec![shape[0], shape[1], shape[2] / unit * unit];
        }
        let rank = self.below(5);
        (0..rank).map(|_| self.pick(&[0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 17])).collect()
    }

    /// A dropout of a tensor whose leading axis has this size, of any number of samples, whose numbers may wrap.
    pub fn dropout(&mut self, leading: usize) -> Dropout {
        let seed = self.below(1 << 30);
        let step = if seed.is_multiple_of(3) { u32::MAX } else { 7 };
        let divisors: Vec<usize> = (1..=leading.max(1)).filter(|&n| leading.is_multiple_of(n)).collect();
        let samples = divisors[seed % divisors.len()];
        self.note(samples);
        Dropout { rate: 0.3, key: StreamKey::new(seed as u64, Purpose::Dropout, self.number, step), samples }
    }

    /// Placement of a tensor; half of them are contiguous within their margins.
    pub fn place(&mut self, shape: &[usize]) -> Place {
        let mut order: Vec<usize> = (0..shape.len()).collect();
        let mut pads = vec![[0; 2]; shape.len()];
        if self.one_in(2) {
            let (turned, padded) = (self.one_in(2), self.one_in(2));
            for i in (1..if turned { order.len() } else { 0 }).rev() {
                let j = self.below(i + 1);
                order.swap(i, j);
            }
            for pad in pads.iter_mut().filter(|_| padded) {
                *pad = [self.below(3), self.below(3)];
            }
        }
        let unit = if is_aligned(self.number) { 16 } else { 1 };
        let margins = [unit * (1 + self.below(9)), 1 + self.below(9)];
        Place { shape: shape.to_vec(), order, pads, margins }
    }

    /// An input of values `f(z)` with standard normal z. One in six repeats some of its axes with stride 0.
    pub fn input(&mut self, shape: &[usize], f: impl Fn(f64) -> f64) -> Input<B> {
        let repeats = self.one_in(6);
        let core: Vec<usize> =
            shape.iter().map(|&n| if repeats && n > 0 && self.one_in(2) { 1 } else { n }).collect();
        let Input { ours, reference } = self.distinct(&core, f);
        let input = Input {
            ours: ours.broadcast_to(shape).unwrap(),
            reference: reference.broadcast_to(shape).unwrap(),
        };
        self.note(shape);
        Input { reference: input.reference.contiguous().unwrap(), ..input }
    }

    /// [`input`](Self::input) without repeated axes, for operations that cancel if all elements are equal.
    pub fn distinct(&mut self, shape: &[usize], f: impl Fn(f64) -> f64) -> Input<B> {
        let values = (0..shape.iter().product()).map(|_| f(self.rng.normal())).collect();
        self.given(shape, values)
    }

    pub fn normal(&mut self, shape: &[usize]) -> Input<B> {
        self.input(shape, |z| z)
    }

    /// An input of `values`, rounded to the type under test.
    pub fn given(&mut self, shape: &[usize], values: Vec<f64>) -> Input<B> {
        self.given_in(self.suite.dtype, shape, values)
    }

    /// An input of `values`, rounded to `dtype`, within a buffer that is NaN elsewhere.
    fn given_in(&mut self, dtype: DType, shape: &[usize], values: Vec<f64>) -> Input<B> {
        let values = HostData::from_f64(values, dtype).to_f64();
        let place = self.place(shape);
        let mut buffer = vec![f64::NAN; place.buffer_len()];
        for (at, &value) in positions(&place.layout()).into_iter().zip(&values) {
            buffer[at] = value;
        }
        let whole = Tensor::from_f64(&self.backend, &[buffer.len()], buffer, dtype).unwrap();
        let ours = place.view(&whole).unwrap();
        self.note(ours.layout());
        self.inputs.push((whole.clone(), digest(&whole)));
        Input { ours, reference: Tensor::from_f64(&Reference, shape, values, DType::F64).unwrap() }
    }

    /// The result of a forward pass, as an input of the backward pass.
    pub fn result(&mut self, tensor: &Tensor<Reference>) -> Input<B> {
        self.given(tensor.shape(), tensor.to_f64().unwrap())
    }

    /// A tensor saved by a forward pass, as an input of the backward pass.
    pub fn saved(&mut self, tensor: &Tensor<Reference>) -> Input<B> {
        self.given_in(self.suite.dtype.accumulator(), tensor.shape(), tensor.to_f64().unwrap())
    }

    /// An input of values `f(z)` with standard normal z, in the accumulator's type.
    pub fn stream(&mut self, shape: &[usize], f: impl Fn(f64) -> f64) -> Input<B> {
        let values = (0..shape.iter().product()).map(|_| f(self.rng.normal())).collect();
        self.given_in(self.suite.dtype.accumulator(), shape, values)
    }

    /// Expected type of output `i` of an operation.
    fn type_of(&self, op: &str, i: usize) -> DType {
        let family = op.split(',').next().unwrap_or(op);
        let is_wide = match (family, i) {
            ("norm_modulate" | "attention", 1) | ("group_norm", 0) => true,
            ("adamw", _) => op.ends_with(", mixed"),
            ("gated_residual" | "norm_modulate_backward", 0) => op.ends_with(", stream"),
            _ => false,
        };
        if is_wide { self.suite.dtype.accumulator() } else { self.suite.dtype }
    }

    /// Compares the outputs of an operation with those of the reference, and with those of a second run.
    pub fn compare<O, R>(&self, op: &'static str, ours: impl Fn() -> Result<O>, reference: Result<R>)
    where
        O: Outputs<Guarded<B>>,
        R: Outputs<Reference>,
    {
        let got = ours().unwrap_or_else(|e| panic!("{op}: {e}")).list();
        let again = ours().unwrap().list();
        let want = reference.unwrap_or_else(|e| panic!("{op}, reference: {e}")).list();
        assert_eq!(got.len(), want.len());
        for (i, ((got, again), want)) in got.iter().zip(again).zip(want).enumerate() {
            assert_eq!(got.is_some(), want.is_some(), "{op}: presence of output {i} differs");
            let (Some(got), Some(again), Some(want)) = (got, again, want) else { continue };
            assert_eq!(got.shape(), want.shape(), "{op}: shape of output {i} differs");
            assert_eq!(got.dtype(), self.type_of(op, i), "{op}: type of output {i} differs");
            let bits = digest(got);
            assert_eq!(bits, digest(&again), "{op}: output {i} differs between two runs");
            self.suite.report.borrow_mut().digests.push((format!("{op} {i} {}", self.notes), bits));
            self.check_error(op, &got.to_f64().unwrap(), &want.to_f64().unwrap());
        }
    }

    /// Checks ‖got − want‖ / ‖want‖ against the operation's bound; if zeros are wanted (or values that are negligible in
    /// single precision), the root mean square of the difference.
    pub fn check_error(&self, op: &'static str, got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        // Equal infinities are not an error.
        let squares = got.iter().zip(want).filter(|(g, w)| g != w).map(|(g, w)| (g - w).powi(2));
        let (distance, size) = (squares.sum::<f64>().sqrt(), want.iter().map(|w| w * w).sum::<f64>().sqrt());
        let scale = if size > 1e-30 && size.is_finite() { size } else { (want.len().max(1) as f64).sqrt() };
        let error = distance / scale;
        let bound = (self.suite.bound)(op);
        let mut report = self.suite.report.borrow_mut();
        // NaN is above any bound.
        if error.is_nan() || error > bound {
            report
                .violations
                .push(format!("{op}: error {error:e} is above {bound:e} in case {}", self.notes));
        }
        let worst = report.worst.entry(op).or_default();
        *worst = worst.max(error);
    }

    fn expect_inputs_unchanged(&self) {
        for (whole, before) in &self.inputs {
            assert_eq!(digest(whole), *before, "an input was written to");
        }
    }
}

/// FNV-1a hash of the bits of all elements; all NaNs are equal.
pub fn digest<B: Backend>(tensor: &Tensor<B>) -> u64 {
    let bits = |x: f64| if x.is_nan() { u64::MAX } else { x.to_bits() };
    let values = tensor.to_f64().unwrap();
    values.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, x| (h ^ bits(x)).wrapping_mul(0x0100_0000_01b3))
}

/// Results of operations, as a list.
pub trait Outputs<B: Backend> {
    fn list(self) -> Vec<Option<Tensor<B>>>;
}

impl<B: Backend> Outputs<B> for Tensor<B> {
    fn list(self) -> Vec<Option<Tensor<B>>> {
        vec![Some(self)]
    }
}

impl<B: Backend> Outputs<B> for (Tensor<B>, Option<Tensor<B>>) {
    fn list(self) -> Vec<Option<Tensor<B>>> {
        vec![Some(self.0), self.1]
    }
}

impl<B: Backend> Outputs<B> for NormOutput<B> {
    fn list(self) -> Vec<Option<Tensor<B>>> {
        vec![Some(self.y), self.stats]
    }
}

impl<B: Backend, const N: usize> Outputs<B> for [Option<Tensor<B>>; N] {
    fn list(self) -> Vec<Option<Tensor<B>>> {
        self.into()
    }
}

impl<B: Backend> Outputs<B> for Vec<Tensor<B>> {
    fn list(self) -> Vec<Option<Tensor<B>>> {
        self.into_iter().map(Some).collect()
    }
}

/// An input, an optional one, or a list, as each backend takes it.
pub trait Sides<B: Backend> {
    type Side<'a, T: 'a>
    where
        Self: 'a;

    fn ours(&self) -> Self::Side<'_, Tensor<Guarded<B>>>;
    fn reference(&self) -> Self::Side<'_, Tensor<Reference>>;
}

impl<B: Backend> Sides<B> for Input<B> {
    type Side<'a, T: 'a>
        = &'a T
    where
        Self: 'a;

    fn ours(&self) -> &Tensor<Guarded<B>> {
        &self.ours
    }

    fn reference(&self) -> &Tensor<Reference> {
        &self.reference
    }
}

impl<B: Backend> Sides<B> for Option<Input<B>> {
    type Side<'a, T: 'a>
        = Option<&'a T>
    where
        Self: 'a;

    fn ours(&self) -> Option<&Tensor<Guarded<B>>> {
        self.as_ref().map(|i| &i.ours)
    }

    fn reference(&self) -> Option<&Tensor<Reference>> {
        self.as_ref().map(|i| &i.reference)
    }
}

impl<B: Backend> Sides<B> for Vec<Input<B>> {
    type Side<'a, T: 'a>
        = Vec<&'a T>
    where
        Self: 'a;

    fn ours(&self) -> Vec<&Tensor<Guarded<B>>> {
        self.iter().map(|i| &i.ours).collect()
    }

    fn reference(&self) -> Vec<&Tensor<Reference>> {
        self.iter().map(|i| &i.reference).collect()
    }
}

/// `check!(case, "op", [inputs] => expression)` evaluates the expression with the inputs of either backend and
/// compares the results.
macro_rules! check {
    ($case:expr, $op:literal, [$($input:ident),*] => $body:expr) => {{
        use $crate::harness::Sides as _;
        let reference = { $(let $input = $input.reference();)* $body };
        $(let $input = $input.ours();)*
        $case.compare($op, || $body, reference);
    }};
}
pub(crate) use check;
