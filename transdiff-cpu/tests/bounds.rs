//! Kernels stay within their operands, with every instruction set of the processor, at sizes that tiles do not divide.
//!
//! Each operation runs on tensors that end where their memory does, so that AddressSanitizer sees every access beyond them
//! (`cargo xtask sanitize`), and on tensors between sentinels, where a write beyond them shows without it; what is read there
//! must not change results.

use transdiff_core::backend::Activation;
use transdiff_core::rng::{Dropout, Purpose, StreamKey};
use transdiff_core::tensor::{Attention, Conv, ScaleShift};
use transdiff_core::{DType, HostTensor, Int8Weight, Result};
use transdiff_cpu::{Cpu, InstructionSet};

use guarded::Guarded;

#[path = "../../tests/common/guarded.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod guarded;

type Tensor = transdiff_core::Tensor<Guarded<Cpu>>;

/// Elements between sentinels; an odd number, so that no vector is aligned.
const MARGIN: usize = 37;

/// Tensors of one type on one device.
struct Maker {
    device: Guarded<Cpu>,
    dtype: DType,
}

impl Maker {
    fn of(&self, dtype: DType, shape: &[usize]) -> Tensor {
        let values = StreamKey::new(5, Purpose::Data, shape.len() as u32, 0).normals(shape.iter().product());
        Tensor::from_f32(&self.device, shape, values, dtype).unwrap()
    }

    fn normal(&self, shape: &[usize]) -> Tensor {
        self.of(self.dtype, shape)
    }
}

/// An operation and its outputs.
type Operation = Box<dyn Fn(&Maker) -> Result<Vec<Tensor>> + Sync>;

fn products([m, k, n]: [usize; 3]) -> Vec<Operation> {
    vec![
        Box::new(move |make| {
            let (x, w, b) = (make.normal(&[m, k]), make.normal(&[n, k]), make.normal(&[n]));
            let (y, pre) = x.linear(&w, Some(&b), Activation::Gelu, true)?;
            let (pre, gelu) = (pre.unwrap(), Activation::Gelu);
            let grads = x.linear_backward(&w, gelu, Some(&pre), &make.normal(&[m, n]), [true; 3])?;
            Ok(grads.into_iter().flatten().chain([y, pre]).collect())
        }),
        Box::new(move |make| {
            let (a, b) = (make.normal(&[2, m, k]), make.normal(&[2, k, n]));
            let turned = b.transpose()?.matmul(&a.transpose()?)?;
            Ok(vec![a.matmul(&b)?, turned])
        }),
        Box::new(move |make| {
            if make.dtype == DType::F64 {
                return Ok(Vec::new());
            }
            let values = StreamKey::new(6, Purpose::Data, 0, 0).normals(n * k);
            let weight = Int8Weight::quantize(&HostTensor::f32(&[n, k], values)?)?;
            let weight = Tensor::quantized_weight(&make.device, &weight, make.dtype)?;
            let b = make.normal(&[n]);
            Ok(vec![make.normal(&[m, k]).linear(&weight, Some(&b), Activation::Gelu, false)?.0])
        }),
    ]
}

fn attention([queries, keys, heads, width]: [usize; 4], dropout: bool) -> Operation {
    Box::new(move |make| {
        let (q, k) = (make.normal(&[2, queries, heads, width]), make.normal(&[2, keys, heads, width]));
        let key = StreamKey::new(1, Purpose::Dropout, 0, 0);
        let dropout = dropout.then_some(Dropout { rate: 0.2, key, samples: 2 });
        let how = Attention { dropout, ..Attention::default() };
        let (y, saved) = q.attention(&k, &k, &how, true)?;
        let grads = q.attention_backward(&k, &k, &how, &y, saved.as_ref().unwrap(), &q)?;
        Ok(grads.into_iter().chain([y]).collect())
    })
}

fn convolution([height, width, inputs, outputs]: [usize; 4], kernel: usize, doubled: bool) -> Operation {
    Box::new(move |make| {
        let wide = if make.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let scale_shift = ScaleShift { coefficients: make.of(wide, &[2, 2, inputs]), silu: true };
        let (w, b) = (make.normal(&[outputs, inputs, kernel, kernel]), make.normal(&[outputs]));
        let padding = [[kernel / 2; 2]; 2];
        let how = Conv { padding, doubled, scale_shift: Some(&scale_shift), ..Conv::default() };
        Ok(vec![make.normal(&[2, height, width, inputs]).conv2d(&w, &b, &how)?])
    })
}

fn operations() -> Vec<Operation> {
    let shapes = [
        [1, 1, 1],
        [3, 5, 7],
        [9, 33, 17],
        [13, 31, 49],
        [7, 130, 97],
        [65, 9, 130],
        [2, 1030, 50],
        [11, 2051, 3],
    ];
    let mut operations: Vec<Operation> = shapes.into_iter().flat_map(products).collect();
    for shape in [[1, 1, 1, 1], [5, 7, 3, 5], [33, 65, 2, 17], [19, 131, 1, 65]] {
        operations.extend([false, true].map(|dropout| attention(shape, dropout)));
    }
    for (shape, kernel) in [([1, 1, 1, 1], 1), ([5, 7, 3, 5], 3), ([9, 11, 17, 19], 3), ([6, 5, 33, 50], 5)] {
        operations.extend([false, true].map(|doubled| convolution(shape, kernel, doubled)));
    }
    operations
}

/// Bits of the outputs on a new device, whose scratch memory is as large as the operation needs it and no larger: it belongs to
/// threads, of which the caller is one.
fn outputs(
    set: InstructionSet,
    threads: usize,
    margin: usize,
    dtype: DType,
    run: &Operation,
) -> Vec<Vec<u64>> {
    let bits = || {
        let device = Guarded::new(Cpu::with_instruction_set(Some(threads), set).unwrap(), margin);
        let outputs = run(&Maker { device, dtype }).unwrap();
        outputs.iter().map(|out| out.to_f64().unwrap().into_iter().map(f64::to_bits).collect()).collect()
    };
    std::thread::scope(|scope| scope.spawn(bits).join().unwrap())
}

#[test]
fn accesses_are_within_operands_and_scratch_memory() {
    for set in InstructionSet::ALL {
        if !set.is_available() {
            println!("SKIPPED: this processor does not have {set}");
            continue;
        }
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            for (number, run) in operations().iter().enumerate() {
                let exact = outputs(set, 1, 0, dtype, run);
                assert!(
                    exact == outputs(set, 3, MARGIN, dtype, run),
                    "operation {number} in {dtype} on {set}"
                );
            }
        }
    }
}
