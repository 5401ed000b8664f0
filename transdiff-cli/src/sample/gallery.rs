//! Where results go: pictures, the grid of them, latents.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use transdiff::checkpoint::write_atomic;
use transdiff::models::transdiff::TransDiffConfig;
use transdiff::pipeline::Output;
use transdiff::{Error, HostTensor};

use super::grid::Grid;
use super::{Options, Plan};
use crate::failure::Result;

/// The results of one call.
pub struct Gallery<'a> {
    options: &'a Options,
    plan: &'a Plan,
    /// Channels, rows and columns of a latent.
    latent: [usize; 3],
    grid: Grid,
    /// Of the images so far, if they are kept.
    latents: Vec<f32>,
    images: usize,
}

impl<'a> Gallery<'a> {
    /// A gallery for what is planned. Nothing that exists may be in its way, unless it may be replaced.
    pub fn new(options: &'a Options, plan: &'a Plan, config: &TransDiffConfig) -> Result<Self> {
        let [_, channels, rows, columns] = config.latent_shape(1);
        let grid = Grid::new(plan.images.len(), plan.seeds);
        let latent = [channels, rows, columns];
        let gallery = Self { options, plan, latent, grid, latents: Vec::new(), images: 0 };
        if !options.force {
            gallery.check_free()?;
        }
        Ok(gallery)
    }

    /// Makes the folders, so that nothing is computed that could not be kept.
    pub fn open(&self) -> Result<()> {
        let pictures = self.plan.look.is_some().then_some(self.options.out.as_path());
        let latents = self.options.latents.as_deref().and_then(Path::parent);
        let folders = [pictures, latents].into_iter().flatten();
        let mut named = folders.filter(|folder| *folder != Path::new(""));
        Ok(named.try_for_each(|folder| std::fs::create_dir_all(folder).map_err(Error::io(folder)))?)
    }

    fn check_free(&self) -> Result<()> {
        let images = (0..self.plan.images.len()).map(|index| self.path(index));
        let pictures = self.plan.look.map(|_| images.chain([self.grid_path()]));
        let mut paths = pictures.into_iter().flatten().chain(self.options.latents.clone());
        match paths.find(|path| path.exists()) {
            Some(path) => Err(format!("{}: exists already (--force replaces it)", path.display()).into()),
            None => Ok(()),
        }
    }

    fn path(&self, index: usize) -> PathBuf {
        let (class, seed) = self.plan.images[index];
        self.options.out.join(format!("{class}-{seed}.png"))
    }

    fn grid_path(&self) -> PathBuf {
        self.options.out.join("grid.png")
    }

    /// How many images are in it.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Takes the images `batch`.
    pub fn add(&mut self, batch: &Range<usize>, made: &Output) -> Result<()> {
        if let Some(look) = self.plan.look {
            for (index, picture) in batch.clone().zip(look.pictures(made)?) {
                picture.write(&self.path(index))?;
                self.grid.add(index, &picture)?;
            }
        }
        if self.options.latents.is_some() {
            self.latents.extend(made.latents.to_f32());
        }
        self.images = batch.end;
        Ok(())
    }

    /// Writes what belongs to all images, and says where everything is: nothing, if there is nothing.
    pub fn close(self) -> Result<String> {
        if self.images == 0 {
            return Ok(String::new());
        }
        let mut places = Vec::new();
        if self.plan.look.is_some() {
            self.grid.write(&self.grid_path())?;
            places.push(self.options.out.display().to_string());
        }
        if let Some(path) = &self.options.latents {
            let [channels, rows, columns] = self.latent;
            let latents = HostTensor::f32(&[self.images, channels, rows, columns], self.latents)?;
            let (classes, seeds): (Vec<_>, Vec<_>) = self.plan.images[..self.images].iter().copied().unzip();
            let metadata = [("classes", format!("{classes:?}")), ("seeds", format!("{seeds:?}"))];
            let metadata: BTreeMap<_, _> = metadata.map(|(key, text)| (key.to_owned(), text)).into();
            write_atomic(path, [("latents", &latents)], &metadata)?;
            places.push(path.display().to_string());
        }
        Ok(format!(", in {}", places.join(" and ")))
    }
}
