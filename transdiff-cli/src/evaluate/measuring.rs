//! Measuring of sets of pictures, and the report.

use std::path::Path;

use transdiff::models::inception::Inception;
use transdiff::{Backend, CancellationToken, Cpu, DeviceTask, Error};

use super::args::EvaluateArgs;
use super::manifest::{Figures, Manifest};
use super::network::Network;
use super::preset::{Measured, Reference, SPLITS};
use super::reference::Source;
use crate::failure::{Failure, Result};
use crate::format::{Align, table};
use crate::output::{print, print_to_stderr};

/// Threads that decode pictures, at most.
const MAX_THREADS: usize = 64;

/// Says what few pictures mean.
pub fn warn_of_few(count: usize) {
    let features = Inception::<Cpu>::FEATURES;
    if count < features {
        print_to_stderr(&format!(
            "warning: {count} pictures are fewer than the {features} features: their covariance is singular, and the Fréchet \
             distance is biased upwards; compare only with distances of as many pictures"
        ));
    }
    if count < SPLITS {
        print_to_stderr(&format!(
            "warning: the Inception Score of fewer than {SPLITS} pictures says nothing"
        ));
    }
}

/// Prints the figures as a table, and the path of the manifest in the `directory` that has one.
pub fn print_figures(figures: &Figures, directory: Option<&Path>) -> Result<()> {
    let rows: Vec<[String; 2]> =
        figures.rows().into_iter().map(|(name, value)| [name.to_owned(), value]).collect();
    let manifest = directory.map(|directory| format!("{}\n", Manifest::path(directory).display()));
    print(table([Align::Left, Align::Left], &rows) + &manifest.unwrap_or_default())
}

impl EvaluateArgs {
    /// Measures the pictures of a folder, and those of the reference.
    pub fn measure(
        &self,
        token: &CancellationToken,
        cpu: &Cpu,
        inception: &Path,
        pictures: Option<&Path>,
        reference: Option<Source<'_>>,
    ) -> Result<(Option<Measured>, Option<Reference>)> {
        let device = self.device.open(self.threads)?;
        print_to_stderr(&format!("device: {}", device.choice()));
        let measured = device.run(Measuring { args: self, token, cpu, inception, pictures, reference });
        measured.map_err(|error| match error {
            Error::Cancelled => Failure::Interrupted("nothing was written".to_owned()),
            other => other.into(),
        })
    }
}

/// Measuring on a device.
struct Measuring<'a> {
    args: &'a EvaluateArgs,
    token: &'a CancellationToken,
    cpu: &'a Cpu,
    inception: &'a Path,
    pictures: Option<&'a Path>,
    reference: Option<Source<'a>>,
}

impl DeviceTask for Measuring<'_> {
    type Output = (Option<Measured>, Option<Reference>);

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Self::Output> {
        let Self { args, token, cpu, inception, pictures, reference } = self;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let network = Network {
            inception: Inception::load(&backend, inception)?,
            batch: args.batch,
            threads: args.threads.unwrap_or_else(cores).min(MAX_THREADS),
            token,
        };
        let measured = pictures.map(|folder| network.folder(folder)).transpose()?;
        let reference = reference.map(|source| source.measure(cpu, &network)).transpose()?;
        Ok((measured, reference))
    }
}
