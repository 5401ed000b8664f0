//! `--estimate` of `transdiff train` and `transdiff distill`: memory and time of a run.

use transdiff::backend::Summation;
use transdiff::models::Model;
use transdiff::models::transdiff::{Distillation, TransDiffConfig};
use transdiff::train::{TrainConfig, TrainingEstimate};
use transdiff::{Backend, DType, DeviceTask, OpenDevice, TransDiff};
use transdiff_run::settings::RunConfig;
use transdiff_terminal::bytes;

use super::data::TrainingData;
use crate::failure::Result;
use crate::format::{Align, table};
use crate::output::print;
use crate::product_rate::ProductRate;

/// Side of the matrices whose product is timed.
const SIDE: usize = 1024;

/// Prints the estimate.
pub fn print_estimate(
    settings: &RunConfig,
    train: &TrainConfig,
    data: &TrainingData,
    device: OpenDevice,
    [ranks, shards]: [usize; 2],
) -> Result<()> {
    let choice = device.choice().to_owned();
    let summation = device.clone().run(SummationOf)?;
    let rate = device.run(ProductRate { dtype: train.compute, side: SIDE })?;
    let config = settings.transdiff_config()?;
    let whole = match settings.distill.teacher {
        None => TrainingEstimate::new::<TransDiff<_>>(&config, train, summation)?,
        Some(_) => {
            let teacher = TransDiffConfig { distilled: false, ..config };
            let make = |meter: &_| Distillation::new(&TransDiff::zeros(meter, &teacher, DType::F32)?);
            let train = train.clone().with_objective(settings.consistency_objective()?);
            TrainingEstimate::of_model(make, &train, summation)?
        }
    };
    let estimate = whole.divided_among(shards);
    let mut rows = vec![
        ("weights", bytes(estimate.weights)),
        ("optimiser", bytes(estimate.optimizer)),
        ("EMA weights", bytes(estimate.ema)),
        ("gradients", bytes(estimate.gradients)),
        ("activations", bytes(estimate.activations)),
        ("memory in all", bytes(estimate.total())),
        // Rank 0 has the whole state then.
        ("while a checkpoint is written, at most", bytes(estimate.total().saturating_add(whole.state()))),
        ("steps", train.lr.total.to_string()),
        ("samples per step", (train.batch * train.accumulate * ranks).to_string()),
        ("samples per epoch", data.samples_per_epoch().to_string()),
        ("TFLOP per step", format!("{:.3}", estimate.flops_per_step as f64 / 1e12)),
    ];
    let heading = match rate {
        Some(rate) => {
            let seconds = estimate.flops_per_step as f64 / rate;
            rows.push(("seconds per step, at the rate of matrix products", format!("{seconds:.2}")));
            rows.push(("time in all, at that rate", duration(seconds * train.lr.total as f64)));
            format!("{:.2} TFLOP/s in products of {SIDE} × {SIDE}", rate / 1e12)
        }
        None => format!("which does not compute in {}", train.compute),
    };
    let rows: Vec<_> = rows.into_iter().map(|(label, value)| [label.to_owned(), value]).collect();
    print(format!("estimate, device {choice}, {heading}\n{}", table([Align::Left, Align::Right], &rows)))
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Order of the device's sums of passes.
struct SummationOf;

impl DeviceTask for SummationOf {
    type Output = Summation;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Summation> {
        Ok(backend.summation())
    }
}
