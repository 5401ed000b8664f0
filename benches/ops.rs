//! Fused operations at the shapes of the base preset, 256 px, one image with guidance (training: two samples with four
//! noised copies each), f32 on the CPU. An element of throughput is a floating-point operation of the matrix products,
//! or a byte read or written where there are none.

#[allow(dead_code, reason = "shared with other benchmarks")]
mod workloads;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use transdiff::backend::{Activation, AdamW, Pooling, Windows};
use transdiff::tensor::{AdamWParam, Attention, Conv, Modulation, ScaleShift};
use transdiff::{Cpu, DType, Result, Tensor};

/// Width of the base preset, its number of heads and the head size.
const D: usize = 768;
const H: usize = 12;
const E: usize = D / H;
/// Sequence lengths of the AR transformer and of the decoder.
const N_AR: usize = 64 + 256;
const N_DEC: usize = 256;
const F32: usize = size_of::<f32>();

type Group<'a> = BenchmarkGroup<'a, WallTime>;

struct Inputs {
    backend: Cpu,
    count: u32,
}

impl Inputs {
    fn noise(&mut self, shape: &[usize]) -> Tensor<Cpu> {
        self.count += 1;
        workloads::noise(&self.backend, shape, DType::F32, self.count).unwrap()
    }
}

/// Benchmarks `run`, which takes `count` floating-point operations or bytes.
fn bench<T>(group: &mut Group<'_>, name: String, count: usize, mut run: impl FnMut() -> Result<T>) {
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(name, |b| b.iter(|| black_box(run().unwrap())));
}

fn linear(group: &mut Group<'_>, inputs: &mut Inputs) {
    use Activation::{Gelu, None};
    let shapes = [(2 * N_AR, D, 4 * D, Gelu), (2 * N_AR, 4 * D, D, None), (2 * N_AR, D, 3 * D, None)];
    let decoder = [(2 * N_DEC, D, 4 * D, Gelu), (2 * N_DEC, 16, D, None), (2 * N_DEC, D, 16, None)];
    for (m, k, n, act) in shapes.into_iter().chain(decoder) {
        let (x, w, b) = (inputs.noise(&[m, k]), inputs.noise(&[n, k]), inputs.noise(&[n]));
        let name = format!("linear {m}x{k}x{n} {act:?}");
        bench(group, name, 2 * m * k * n, || x.linear(&w, Some(&b), act, false));
    }
    let (m, k, n) = (8 * N_DEC, D, 4 * D);
    let (x, w, pre) = (inputs.noise(&[m, k]), inputs.noise(&[n, k]), inputs.noise(&[m, n]));
    let dy = inputs.noise(&[m, n]);
    let name = format!("linear backward {m}x{k}x{n} Gelu");
    bench(group, name, 4 * m * k * n, || x.linear_backward(&w, Gelu, Some(&pre), &dy, [true; 3]));
}

fn attention(group: &mut Group<'_>, inputs: &mut Inputs) {
    let options = Attention::default();
    for (images, n) in [(2, N_AR), (2, N_DEC), (8, N_DEC)] {
        // Interleaved, as the joint projection writes them.
        let qkv = inputs.noise(&[images, n, 3, H, E]);
        let part = |i| qkv.narrow(2, i, 1).and_then(|t| t.reshape(&[images, n, H, E])).unwrap();
        let (q, k, v) = (part(0), part(1), part(2));
        let products = 4 * images * H * n * n * E;
        let name = format!("attention {images}x{n}x{H}x{E}");
        bench(group, name, products, || q.attention(&k, &v, &options, false));
        let (y, saved) = q.attention(&k, &v, &options, true).unwrap();
        let (saved, dy) = (saved.unwrap(), inputs.noise(&[images, n, H, E]));
        let name = format!("attention backward {images}x{n}x{H}x{E}");
        bench(group, name, 5 * products / 2, || q.attention_backward(&k, &v, &options, &y, &saved, &dy));
    }
}

fn rows(group: &mut Group<'_>, inputs: &mut Inputs) {
    let shape = [8, N_DEC, D];
    let bytes = F32 * shape.iter().product::<usize>();
    let (x, u, dy) = (inputs.noise(&shape), inputs.noise(&shape), inputs.noise(&shape));
    let (weight, bias) = (inputs.noise(&[D]), inputs.noise(&[D]));
    let [scale, shift, gate] = [(); 3].map(|()| inputs.noise(&[8, 1, D]));
    let (affine, modulation) = (Some((&weight, &bias)), Modulation { scale, shift });
    let m = Some(&modulation);
    let name = |op: &str| format!("{op} 8x{N_DEC}x{D}");
    bench(group, name("norm_modulate"), 2 * bytes, || x.norm_modulate(affine, m, 1e-6, false));
    let stats = x.norm_modulate(affine, m, 1e-6, true).unwrap().stats.unwrap();
    bench(group, name("norm_modulate backward"), 3 * bytes, || {
        x.norm_modulate_backward(affine, m, 1e-6, &stats, (&dy, None), [true; 3])
    });
    bench(group, name("gated_residual"), 3 * bytes, || x.gated_residual(&u, Some(&gate), None));
    bench(group, name("gated_residual backward"), 3 * bytes, || {
        u.gated_residual_backward(Some(&gate), None, &dy, true)
    });
}

/// The KL-VAE's finest and deepest levels at 256 px.
fn images(group: &mut Group<'_>, inputs: &mut Inputs) {
    for (side, c, o, doubled) in [(256, 128, 128, false), (16, 512, 512, false), (128, 128, 128, true)] {
        let (x, w, b) = (inputs.noise(&[1, side, side, c]), inputs.noise(&[o, c, 3, 3]), inputs.noise(&[o]));
        let scale = inputs.noise(&[c]);
        let bytes = F32 * x.numel();
        bench(group, format!("group_norm {side}x{side}x{c}"), bytes, || {
            x.group_norm(&scale, &scale, 32, 1e-6)
        });
        let scale_shift =
            ScaleShift { coefficients: x.group_norm(&scale, &scale, 32, 1e-6).unwrap(), silu: true };
        let options =
            Conv { scale_shift: Some(&scale_shift), padding: [[1; 2]; 2], doubled, ..Conv::default() };
        let outputs = x.conv2d(&w, &b, &options).unwrap().numel();
        let name = format!("conv2d {side}x{side}x{c}x{o}{}", if doubled { " doubled" } else { "" });
        bench(group, name, 2 * outputs * 9 * c, || x.conv2d(&w, &b, &options));
    }
    // Of InceptionV3: the stride of its first layer, and the oblong kernels of its middle blocks.
    for (side, c, o, kernel, stride) in
        [(299, 3, 32, [3, 3], 2), (17, 192, 192, [1, 7], 1), (17, 192, 192, [7, 1], 1)]
    {
        let [height, width] = kernel;
        let x = inputs.noise(&[1, side, side, c]);
        let (w, b) = (inputs.noise(&[o, c, height, width]), inputs.noise(&[o]));
        let padding = kernel.map(|kernel| if stride == 1 { [kernel / 2; 2] } else { [0; 2] });
        let options = Conv { stride: [stride; 2], padding, relu: true, ..Conv::default() };
        let outputs = x.conv2d(&w, &b, &options).unwrap().numel();
        let name = format!("conv2d {side}x{side}x{c}x{o} kernel {height}x{width} stride {stride}");
        bench(group, name, 2 * outputs * height * width * c, || x.conv2d(&w, &b, &options));
    }
    let (x, windows) =
        (inputs.noise(&[1, 35, 35, 192]), Windows { kernel: [3; 2], stride: [1; 2], padding: [[1; 2]; 2] });
    for (name, pooling) in [("max", Pooling::Max), ("average", Pooling::Average)] {
        let bytes = 2 * F32 * x.numel();
        bench(group, format!("pool2d {name} 35x35x192 kernel 3x3"), bytes, || x.pool2d(pooling, &windows));
    }
}

fn training(group: &mut Group<'_>, inputs: &mut Inputs) {
    let shape = [8, N_DEC, 16];
    let (a, b) = (inputs.noise(&shape), inputs.noise(&shape));
    bench(group, format!("mse 8x{N_DEC}x16"), 2 * F32 * a.numel(), || a.mse(&b));

    let shapes: Vec<[usize; 2]> = [[3 * D, D], [D, D], [4 * D, D], [D, 4 * D], [1, D]].repeat(2);
    let mut all = |scale: f64| -> Vec<Tensor<Cpu>> {
        shapes.iter().map(|s| inputs.noise(s).affine(scale, 0.0).unwrap()).collect()
    };
    let (mut params, grads) = (all(0.02), all(1e-3));
    let mut moments: Vec<_> =
        params.iter().map(|p| (p.zeros_like().unwrap(), p.zeros_like().unwrap())).collect();
    let count: usize = params.iter().map(Tensor::numel).sum();
    let hyper = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, grad_scale: 1.0 };
    let backend = inputs.backend.clone();
    bench(group, format!("adamw_step of {:.1} M", count as f64 / 1e6), 7 * F32 * count, || {
        let mut slots: Vec<_> = params
            .iter_mut()
            .zip(&grads)
            .zip(&mut moments)
            .map(|((param, grad), (m, v))| AdamWParam {
                param,
                grad: Some(grad),
                m,
                v,
                cast: None,
                weight_decay: 0.02,
            })
            .collect();
        Tensor::adamw_step(&backend, &hyper, &mut slots)
    });
}

fn ops(c: &mut Criterion) {
    let mut inputs = Inputs { backend: Cpu::new(None).unwrap(), count: 0 };
    let mut group = c.benchmark_group("ops f32");
    group.sample_size(20);
    linear(&mut group, &mut inputs);
    attention(&mut group, &mut inputs);
    rows(&mut group, &mut inputs);
    images(&mut group, &mut inputs);
    training(&mut group, &mut inputs);
    group.finish();
}

criterion_group!(benches, ops);
criterion_main!(benches);
