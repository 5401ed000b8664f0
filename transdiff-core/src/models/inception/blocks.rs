//! Blocks of the network: branches beside each other, whose channels are joined.

use super::layers::{ConvUnit, pool};
use super::weights::Weights;
use crate::backend::Pooling;
use crate::{Backend, Result, Tensor};

/// A step of a branch.
#[derive(Clone, Debug)]
enum Step<B: Backend> {
    Conv(ConvUnit<B>),
    /// Pooling over 3×3 pixels with this stride and padding.
    Pool(Pooling, usize, usize),
    /// Two convolutions beside each other.
    Fork([ConvUnit<B>; 2]),
}

/// A block of the network.
#[derive(Clone, Debug)]
pub(super) struct Block<B: Backend> {
    branches: Vec<Vec<Step<B>>>,
}

/// Adds the units of one block.
struct Builder<'w, 'a, B: Backend> {
    weights: &'w mut Weights<'a, B>,
    block: &'w str,
}

impl<B: Backend> Builder<'_, '_, B> {
    /// A convolution that keeps the sides.
    fn conv(&mut self, name: &str, channels: [usize; 2], kernel: [usize; 2]) -> Result<Step<B>> {
        self.unit(name, channels, kernel).map(Step::Conv)
    }

    /// A convolution of 3×3 that halves the sides.
    fn halve(&mut self, name: &str, channels: [usize; 2]) -> Result<Step<B>> {
        let name = format!("{}.{name}", self.block);
        ConvUnit::new(self.weights, &name, channels, 3, 2, 0).map(Step::Conv)
    }

    /// Convolutions of 1×3 and 3×1.
    fn fork(&mut self, names: [&str; 2], channels: [usize; 2]) -> Result<Step<B>> {
        let [across, down] = names;
        Ok(Step::Fork([self.unit(across, channels, [1, 3])?, self.unit(down, channels, [3, 1])?]))
    }

    fn unit(&mut self, name: &str, channels: [usize; 2], kernel: [usize; 2]) -> Result<ConvUnit<B>> {
        ConvUnit::same(self.weights, &format!("{}.{name}", self.block), channels, kernel)
    }
}

/// Pooling that keeps the sides.
fn same_pool<B: Backend>(pooling: Pooling) -> Step<B> {
    Step::Pool(pooling, 1, 1)
}

impl<B: Backend> Block<B> {
    /// Kernels of 5×5 and 3×3.
    pub fn a(weights: &mut Weights<'_, B>, block: &str, inputs: usize, pooled: usize) -> Result<Self> {
        let mut add = Builder { weights, block };
        let branches = vec![
            vec![add.conv("branch1x1", [inputs, 64], [1; 2])?],
            vec![add.conv("branch5x5_1", [inputs, 48], [1; 2])?, add.conv("branch5x5_2", [48, 64], [5; 2])?],
            vec![
                add.conv("branch3x3dbl_1", [inputs, 64], [1; 2])?,
                add.conv("branch3x3dbl_2", [64, 96], [3; 2])?,
                add.conv("branch3x3dbl_3", [96, 96], [3; 2])?,
            ],
            vec![same_pool(Pooling::Average), add.conv("branch_pool", [inputs, pooled], [1; 2])?],
        ];
        Ok(Self { branches })
    }

    /// Halves the sides.
    pub fn b(weights: &mut Weights<'_, B>, block: &str, inputs: usize) -> Result<Self> {
        let mut add = Builder { weights, block };
        let branches = vec![
            vec![add.halve("branch3x3", [inputs, 384])?],
            vec![
                add.conv("branch3x3dbl_1", [inputs, 64], [1; 2])?,
                add.conv("branch3x3dbl_2", [64, 96], [3; 2])?,
                add.halve("branch3x3dbl_3", [96, 96])?,
            ],
            vec![Step::Pool(Pooling::Max, 2, 0)],
        ];
        Ok(Self { branches })
    }

    /// Kernels of 1×7 and 7×1, with `middle` channels between them.
    pub fn c(weights: &mut Weights<'_, B>, block: &str, inputs: usize, middle: usize) -> Result<Self> {
        let mut add = Builder { weights, block };
        let (across, down) = ([1, 7], [7, 1]);
        let branches = vec![
            vec![add.conv("branch1x1", [inputs, 192], [1; 2])?],
            vec![
                add.conv("branch7x7_1", [inputs, middle], [1; 2])?,
                add.conv("branch7x7_2", [middle, middle], across)?,
                add.conv("branch7x7_3", [middle, 192], down)?,
            ],
            vec![
                add.conv("branch7x7dbl_1", [inputs, middle], [1; 2])?,
                add.conv("branch7x7dbl_2", [middle, middle], down)?,
                add.conv("branch7x7dbl_3", [middle, middle], across)?,
                add.conv("branch7x7dbl_4", [middle, middle], down)?,
                add.conv("branch7x7dbl_5", [middle, 192], across)?,
            ],
            vec![same_pool(Pooling::Average), add.conv("branch_pool", [inputs, 192], [1; 2])?],
        ];
        Ok(Self { branches })
    }

    /// Halves the sides.
    pub fn d(weights: &mut Weights<'_, B>, block: &str, inputs: usize) -> Result<Self> {
        let mut add = Builder { weights, block };
        let branches = vec![
            vec![add.conv("branch3x3_1", [inputs, 192], [1; 2])?, add.halve("branch3x3_2", [192, 320])?],
            vec![
                add.conv("branch7x7x3_1", [inputs, 192], [1; 2])?,
                add.conv("branch7x7x3_2", [192, 192], [1, 7])?,
                add.conv("branch7x7x3_3", [192, 192], [7, 1])?,
                add.halve("branch7x7x3_4", [192, 192])?,
            ],
            vec![Step::Pool(Pooling::Max, 2, 0)],
        ];
        Ok(Self { branches })
    }

    /// Kernels of 1×3 and 3×1 beside each other.
    pub fn e(weights: &mut Weights<'_, B>, block: &str, inputs: usize, pooling: Pooling) -> Result<Self> {
        let mut add = Builder { weights, block };
        let branches = vec![
            vec![add.conv("branch1x1", [inputs, 320], [1; 2])?],
            vec![
                add.conv("branch3x3_1", [inputs, 384], [1; 2])?,
                add.fork(["branch3x3_2a", "branch3x3_2b"], [384, 384])?,
            ],
            vec![
                add.conv("branch3x3dbl_1", [inputs, 448], [1; 2])?,
                add.conv("branch3x3dbl_2", [448, 384], [3; 2])?,
                add.fork(["branch3x3dbl_3a", "branch3x3dbl_3b"], [384, 384])?,
            ],
            vec![same_pool(pooling), add.conv("branch_pool", [inputs, 192], [1; 2])?],
        ];
        Ok(Self { branches })
    }

    /// [n, H, W, C] → [n, H', W', C'].
    pub fn forward(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        let branch = |steps: &Vec<Step<B>>| steps.iter().try_fold(x.clone(), |x, step| step.forward(&x));
        join(&self.branches.iter().map(branch).collect::<Result<Vec<_>>>()?)
    }
}

impl<B: Backend> Step<B> {
    fn forward(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        match self {
            Self::Conv(unit) => unit.forward(x),
            &Self::Pool(pooling, stride, padding) => pool(x, pooling, stride, padding),
            Self::Fork(units) => join(&[units[0].forward(x)?, units[1].forward(x)?]),
        }
    }
}

/// Joins the channels of images.
fn join<B: Backend>(parts: &[Tensor<B>]) -> Result<Tensor<B>> {
    Tensor::cat(&parts.iter().collect::<Vec<_>>(), 3)
}
