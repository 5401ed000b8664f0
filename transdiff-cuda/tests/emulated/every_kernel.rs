//! Launches every kernel: checks that the names in Rust exist, and the sizes of parameter structs, which the backend
//! compares with the driver's at a kernel's first launch.

use std::collections::BTreeSet;
use std::process::Command;

use transdiff_core::backend::{Activation, AdamW, Pooling, UnaryOp, Windows};
use transdiff_core::rng::{Dropout, Purpose, StreamKey};
use transdiff_core::tensor::{AdamWParam, Attention, Conv, Modulation};
use transdiff_core::{DType, Result, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::{emulator, file};
use crate::guarded::Guarded;

/// Names of the emulator's kernels, which are the data symbols of its library.
fn kernels() -> BTreeSet<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(file()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let list = String::from_utf8(output.stdout).unwrap();
    let data = list.lines().filter_map(|line| line.split_once(" D ").map(|(_, name)| name.to_owned()));
    data.collect()
}

/// Creates inputs of one type, all aligned or all unaligned.
struct Inputs<'a> {
    cuda: &'a Guarded<Cuda>,
    dtype: DType,
    offset: usize,
}

impl Inputs<'_> {
    fn of(&self, shape: &[usize]) -> Result<Tensor<Guarded<Cuda>>> {
        let len = shape.iter().product();
        let whole = Tensor::full(self.cuda, &[self.offset + len], 0.5, self.dtype)?;
        whole.narrow(0, self.offset, len)?.reshape(shape)
    }

    /// The types of a residual stream.
    fn streams(&self) -> [Inputs<'_>; 2] {
        [self.dtype, self.dtype.accumulator()].map(|dtype| Inputs { dtype, ..*self })
    }

    fn elementwise(&self) -> Result<()> {
        let x = self.of(&[3, 40])?;
        x.unary(UnaryOp::Silu)?.add(&x)?;
        let dropout =
            Dropout { rate: 0.3, key: StreamKey::new(1, Purpose::Dropout, 0, 0), samples: x.dim(0) };
        x.mse_backward(&x, &x.mse(&x)?)?;
        for stream in self.streams() {
            let sum = stream.of(&[3, 40])?.gated_residual(&x, None, Some(dropout))?;
            x.gated_residual_backward(None, Some(dropout), &sum, false)?;
        }
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            x.cast(dtype)?.cast(self.dtype)?;
        }
        for width in [32, 34, 36, 33] {
            x.narrow(1, 0, width)?.copy()?;
            Tensor::zeros(self.cuda, &[width], self.dtype)?;
        }
        Ok(())
    }

    /// Sums of one slice and of several, whose f32 partial sums a second launch adds.
    fn sums(&self) -> Result<()> {
        for shape in [[3, 40], [90_000, 1], [5000, 8], [8, 5000], [5001, 3]] {
            let x = self.of(&shape)?;
            x.sum(&[0])?;
            x.sum(&[1])?;
            x.sum(&[0, 1])?;
        }
        Ok(())
    }

    fn linear(&self) -> Result<()> {
        let (x, w, b) = (self.of(&[5, 16])?, self.of(&[8, 16])?, self.of(&[8])?);
        let (y, pre) = x.linear(&w, Some(&b), Activation::Gelu, true)?;
        x.linear_backward(&w, Activation::Gelu, pre.as_ref(), &y, [true; 3])?;
        // The bias is applied even if the inner dimension is 0.
        self.of(&[5, 0])?.linear(&self.of(&[8, 0])?, Some(&b), Activation::None, false).map(drop)
    }

    fn norms(&self) -> Result<()> {
        for width in [64, 768, 1104, 1288, 8200] {
            let (y, w) = (self.of(&[2, 3, width])?, self.of(&[width])?);
            let modulation = Modulation { scale: self.of(&[2, 1, width])?, shift: self.of(&[2, 1, width])? };
            for stream in self.streams() {
                let x = stream.of(&[2, 3, width])?;
                let stats = x.norm_modulate(Some((&w, &w)), Some(&modulation), 1e-6, true)?.stats;
                let stats = stats.expect("requested");
                x.norm_modulate_backward(
                    Some((&w, &w)),
                    Some(&modulation),
                    1e-6,
                    &stats,
                    (&y, Some(&x)),
                    [true; 3],
                )?;
            }
        }
        Ok(())
    }

    fn attention(&self) -> Result<()> {
        for size in [32, 64, 80, 128] {
            let q = self.of(&[1, 3, 2, size])?;
            let key = StreamKey::new(0, Purpose::Dropout, 0, 0);
            let dropout = Some(Dropout { rate: 0.5, key, samples: 1 });
            let how = Attention { dropout, ..Attention::default() };
            let (y, saved) = q.attention(&q, &q, &how, true)?;
            q.attention_backward(&q, &q, &how, &y, &saved.expect("requested"), &y)?;
        }
        // Too wide for the tiled kernels.
        let q = self.of(&[1, 3, 2, 160])?;
        q.attention(&q, &q, &Attention::default(), false).map(drop)
    }

    fn embedding(&self) -> Result<()> {
        self.of(&[5, 16])?.embedding(&[3, 0, 3])?.embedding_backward(&[3, 0, 3], 5).map(drop)
    }

    fn images(&self) -> Result<()> {
        let (x, vector) = (self.of(&[1, 4, 6, 16])?, self.of(&[16])?);
        x.group_norm(&vector, &vector, 4, 1e-6)?;
        // The narrow, the small and the wide tile; the last needs work for all four multiprocessors.
        for (side, outputs) in [(4, 3), (4, 40), (32, 130)] {
            let (x, w) = (self.of(&[1, side, side, 8])?, self.of(&[outputs, 8, 1, 1])?);
            x.conv2d(&w, &self.of(&[outputs])?, &Conv::default())?;
        }
        let windows = Windows { kernel: [2, 2], stride: [2, 2], padding: [[0, 0]; 2] };
        for channels in [3, 16] {
            self.of(&[1, 4, 6, channels])?.pool2d(Pooling::Max, &windows)?;
        }
        Ok(())
    }

    fn optimiser(&self) -> Result<()> {
        let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, grad_scale: 1.0 };
        let grad = self.of(&[50])?;
        for stream in self.streams() {
            let [mut param, mut m, mut v, mut average] = [(); 4].map(|()| stream.of(&[50]).unwrap());
            let mut cast = grad.copy()?;
            let cast = (stream.dtype != self.dtype).then_some(&mut cast);
            let grad = Some(&grad);
            let slot = AdamWParam { param: &mut param, grad, m: &mut m, v: &mut v, cast, weight_decay: 0.0 };
            Tensor::adamw_step(self.cuda, &hyper, &mut [slot])?;
            Tensor::ema_step(self.cuda, 0.9, &mut [(&mut average, &param)])?;
        }
        Tensor::squared_norm(self.cuda, &[&grad]).map(drop)
    }
}

type Family = fn(&Inputs<'_>) -> Result<()>;

#[test]
fn every_kernel_is_launched() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let families: [Family; 8] = [
        |i| i.elementwise(),
        |i| i.sums(),
        |i| i.linear(),
        |i| i.norms(),
        |i| i.attention(),
        |i| i.embedding(),
        |i| i.images(),
        |i| i.optimiser(),
    ];
    let mut launched = BTreeSet::new();
    for dtype in [DType::F32, DType::BF16] {
        for offset in [0, 1] {
            let inputs = Inputs { cuda: &Guarded::new(cuda.clone(), offset), dtype, offset };
            for family in families {
                emulator.reset();
                family(&inputs).unwrap();
                launched.extend(emulator.log().iter().map(|line| line.split(' ').next().unwrap().to_owned()));
            }
        }
    }
    let missing: Vec<String> = kernels().difference(&launched).cloned().collect();
    assert!(missing.is_empty(), "never launched: {missing:?}");
}

/// Names end in a type, in `wide` or in a number, by which the scripts for a GPU tell them from those of libraries.
#[test]
fn kernels_are_named_by_type_or_size() {
    const NAMES: &str = "^[a-z0-9_]+_(f32|f64|bf16|wide|[0-9]+)$";
    for script in ["run.sh", "kernels.py"] {
        let file = format!("{}/../benches/gpu/{script}", env!("CARGO_MANIFEST_DIR"));
        assert!(std::fs::read_to_string(&file).unwrap().contains(NAMES), "{file}: expected {NAMES}");
    }
    if emulator().is_none() {
        return;
    }
    let is_number = |suffix: &str| !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit());
    let is_known = |suffix: &str| matches!(suffix, "f32" | "f64" | "bf16" | "wide") || is_number(suffix);
    let unknown: Vec<String> = kernels()
        .into_iter()
        .filter(|name| !name.rsplit_once('_').is_some_and(|(_, suffix)| is_known(suffix)))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
