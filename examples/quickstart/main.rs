//! Exercises the rooms around the model with real digits in the place of samples.

mod digits;
mod evaluate;
mod pictures;
mod progress;
mod report;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use digits::{Digits, from_latent, quantized, to_latent};
use evaluate::Evaluator;
use pictures::{Phase, write_grid, write_loss_curve};
use progress::TrainingBar;
use report::{RealDigits, Report, Seconds, Step, write_samples};

fn main() -> Result<(), Box<dyn Error>> {
    let out = Path::new("target/quickstart");
    std::fs::create_dir_all(out)?;
    let (train, test) = Digits::load()?;
    assert_eq!((train.images.len(), test.images.len()), (1200, 597));
    assert!(train.images.iter().all(|image| quantized(&from_latent(&to_latent(image))) == *image));
    println!("latent of the first digit: {:?}", to_latent(&train.images[0]));
    println!("digits a class: {:?}", train.by_class().map(|c| c.len()));

    let mut bar = TrainingBar::new("1-step", 1500, 0);
    let noise = |i: u32| i.wrapping_mul(2654435761) as f32 / 4.3e9 - 0.5;
    let losses: Vec<f32> = (0..1500u32)
        .map(|i| {
            0.8 + 1.2 * (-0.01 * i as f32).exp() + 0.1 * (noise(i * i) + noise(i * 7) + noise(i * i * 3))
        })
        .inspect(|&loss| {
            std::thread::sleep(Duration::from_micros(500));
            bar.step(loss, 64);
        })
        .collect();
    bar.finish();

    let started = Instant::now();
    let evaluator = Evaluator::new(&train, &test)?;
    println!("classifier fitted in {:?}", started.elapsed());
    let real = evaluator.quality(&test.images, &test.labels)?;
    println!("test digits {real:?} in {:?}", started.elapsed());
    println!("training digits {:?}", evaluator.quality(&train.images, &train.labels)?);
    let report = Report {
        samples: real,
        real_digits: RealDigits::measure(&evaluator, &train, &test)?,
        steps: vec![Step { model: "MRAR", step: 0, guidance: 1.3, quality: real }],
        seconds: Seconds::default(),
        settings: &"none",
    };
    report.print();
    report.write(&out.join("report.json"))?;
    write_samples(&out.join("samples.safetensors"), &test.images, &test.labels)?;
    write_grid(&out.join("samples.png"), &test.images, &test.labels, 20)?;
    let phases = [Phase { name: "1-step", losses: &losses }, Phase { name: "MRAR", losses: &losses[300..] }];
    write_loss_curve(&out.join("loss.svg"), &phases)
}
