//! Writing of generated images, the grid of them, and latents.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use transdiff::checkpoint::write_atomic;
use transdiff::pipeline::Output;
use transdiff::{Error, HostTensor};

use super::args::SampleArgs;
use super::grid::Grid;
use super::plan::SamplePlan;
use crate::failure::Result;
use crate::output::check_destination;

/// Writer of the files of one `transdiff sample` command.
pub struct OutputWriter<'a> {
    args: &'a SampleArgs,
    plan: &'a SamplePlan,
    /// Channels, rows and columns of a latent.
    latent_shape: [usize; 3],
    grid: Grid,
    /// Latents of the images written so far, if they are saved.
    latents: Vec<f32>,
    images: usize,
}

impl<'a> OutputWriter<'a> {
    /// Creates a writer for the images of `plan`. Fails if a file to be written exists, unless `--force` is given.
    pub fn new(args: &'a SampleArgs, plan: &'a SamplePlan, latent_shape: [usize; 3]) -> Result<Self> {
        let grid = Grid::new(plan.images.len(), plan.seeds_per_class);
        let writer = Self { args, plan, latent_shape, grid, latents: Vec::new(), images: 0 };
        if let Some(path) = &args.latents {
            check_destination(path, args.force)?;
        }
        if !args.force {
            writer.check_no_file_exists()?;
        }
        Ok(writer)
    }

    /// Creates the directories, before any time is spent on generation.
    pub fn create_directories(&self) -> Result<()> {
        let images = self.plan.preview.is_some().then_some(self.args.out.as_path());
        let latents = self.args.latents.as_deref().and_then(Path::parent);
        let directories = [images, latents].into_iter().flatten();
        let mut named = directories.filter(|path| *path != Path::new(""));
        Ok(named.try_for_each(|path| std::fs::create_dir_all(path).map_err(Error::io(path)))?)
    }

    fn check_no_file_exists(&self) -> Result<()> {
        let images = (0..self.plan.images.len()).map(|index| self.image_path(index));
        let pngs = self.plan.preview.map(|_| images.chain([self.grid_path()]));
        let mut paths = pngs.into_iter().flatten().chain(self.args.latents.clone());
        match paths.find(|path| path.exists()) {
            Some(path) => {
                Err(format!("{}: already exists; add --force to replace it", path.display()).into())
            }
            None => Ok(()),
        }
    }

    fn image_path(&self, index: usize) -> PathBuf {
        let (class, seed) = self.plan.images[index];
        self.args.out.join(format!("{class}-{seed}.png"))
    }

    fn grid_path(&self) -> PathBuf {
        self.args.out.join("grid.png")
    }

    /// Number of images written so far.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Writes the images of a batch; `batch` is their range in the plan.
    pub fn write_batch(&mut self, batch: &Range<usize>, output: &Output) -> Result<()> {
        if let Some(preview) = self.plan.preview {
            for (index, bitmap) in batch.clone().zip(preview.render(output)?) {
                bitmap.write_png(&self.image_path(index))?;
                self.grid.add(index, &bitmap)?;
            }
        }
        if self.args.latents.is_some() {
            self.latents.extend(output.latents.to_f32());
        }
        self.images = batch.end;
        Ok(())
    }

    /// Writes the grid and the latents. Returns the paths of all output, or `None` if no image was written.
    pub fn finish(self) -> Result<Option<String>> {
        if self.images == 0 {
            return Ok(None);
        }
        let mut paths = Vec::new();
        if self.plan.preview.is_some() {
            self.grid.write_png(&self.grid_path())?;
            paths.push(self.args.out.display().to_string());
        }
        if let Some(path) = &self.args.latents {
            let [channels, rows, columns] = self.latent_shape;
            let latents = HostTensor::f32(&[self.images, channels, rows, columns], self.latents)?;
            let (classes, seeds): (Vec<_>, Vec<_>) = self.plan.images[..self.images].iter().copied().unzip();
            let metadata = [("classes", format!("{classes:?}")), ("seeds", format!("{seeds:?}"))];
            let metadata: BTreeMap<_, _> = metadata.map(|(key, text)| (key.to_owned(), text)).into();
            write_atomic(path, [("latents", &latents)], &metadata)?;
            paths.push(path.display().to_string());
        }
        Ok(Some(paths.join(" and ")))
    }
}
