//! The network's results for sets of pictures.

use std::path::Path;
use std::sync::Arc;

use transdiff::data::{DataLoader, Dataset, LoaderOptions, Shuffle};
use transdiff::datasets::npz::NpzFile;
use transdiff::datasets::pictures::PictureFiles;
use transdiff::metrics::Rows;
use transdiff::models::inception::Inception;
use transdiff::{Backend, CancellationToken, Result};

use super::preset::Measured;
use super::progress::MeasuringBar;
use crate::output::print_to_stderr;

/// Files that are named as left out.
const NAMED: usize = 5;

/// Measures pictures in batches.
pub struct Network<'a, B: Backend> {
    pub inception: Inception<B>,
    pub batch: usize,
    /// Threads that decode pictures.
    pub threads: usize,
    pub token: &'a CancellationToken,
}

/// Results of the batches so far.
#[derive(Default)]
struct Collected {
    features: Vec<f32>,
    logits: Vec<f32>,
}

impl Collected {
    fn finish<B: Backend>(self) -> Result<Measured> {
        Ok(Measured {
            features: Rows::new(Inception::<B>::FEATURES, self.features)?,
            logits: Rows::new(Inception::<B>::CLASSES, self.logits)?,
        })
    }
}

impl<B: Backend> Network<'_, B> {
    /// Measures the pictures of a folder.
    pub fn folder(&self, folder: &Path) -> Result<Measured> {
        let files = PictureFiles::open(folder)?;
        name_others(folder, &files);
        let (sides, count) = (files.sides(), files.len());
        let loading = LoaderOptions {
            threads: self.threads,
            ahead: 2 * self.batch,
            shuffle: Shuffle::None,
            ..LoaderOptions::default()
        };
        let mut loader = DataLoader::new(Arc::new(files), 1, 0, |_| (), loading)?;
        let (mut collected, mut bar) = (Collected::default(), MeasuringBar::new(Some(count)));
        for start in (0..count).step_by(self.batch) {
            self.token.check()?;
            let samples = loader.samples(start as u64, self.batch.min(count - start))?;
            // The items are 8-bit values.
            let pixels: Vec<u8> =
                samples.iter().flat_map(|sample| &sample.items[0]).map(|&value| value as u8).collect();
            self.add(&pixels, sides, &mut collected)?;
            bar.add(samples.len());
        }
        bar.finish();
        collected.finish::<B>()
    }

    /// Measures the pictures of the array `key` of an npz file.
    pub fn array(&self, file: &mut NpzFile, key: &str) -> Result<Measured> {
        let (mut collected, mut bar) = (Collected::default(), MeasuringBar::new(None));
        let (mut pixels, mut waiting, mut sides) = (Vec::new(), 0, [0; 2]);
        file.pictures(key, |of_picture, picture| {
            self.token.check()?;
            sides = of_picture;
            pixels.extend_from_slice(picture);
            waiting += 1;
            if waiting == self.batch {
                self.add(&pixels, sides, &mut collected)?;
                pixels.clear();
                bar.add(std::mem::take(&mut waiting));
            }
            Ok(())
        })?;
        if waiting > 0 {
            self.add(&pixels, sides, &mut collected)?;
        }
        bar.finish();
        collected.finish::<B>()
    }

    /// Adds the results of a batch, images [n, height, width, 3].
    fn add(&self, pixels: &[u8], sides: [usize; 2], collected: &mut Collected) -> Result<()> {
        let outputs = self.inception.forward(pixels, sides, self.token)?;
        collected.features.extend(outputs.features_2048.to_f32()?);
        collected.logits.extend(outputs.logits_unbiased.to_f32()?);
        Ok(())
    }
}

/// Names the files that are left out.
fn name_others(folder: &Path, files: &PictureFiles) {
    let others = files.others();
    for path in others.iter().take(NAMED) {
        print_to_stderr(&format!("left out: {}, no picture by its ending", path.display()));
    }
    if others.len() > NAMED {
        print_to_stderr(&format!("{}: {} more files are left out", folder.display(), others.len() - NAMED));
    }
}
