//! Writing of generated images, the grid of them, and latents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::metadata;
use std::path::{Path, PathBuf};

use transdiff::checkpoint::write_atomic;
use transdiff::pipeline::Output;
use transdiff::{Error, HostTensor};

use super::args::SampleArgs;
use super::plan::SamplePlan;
use super::resume::{INCOMPLETE, Identity};
use crate::bitmap::{Bitmap, is_generation};
use crate::failure::{Failure, Result};
use crate::grid::Grid;

/// Writer of the files of one `transdiff sample` command.
pub struct OutputWriter<'a> {
    args: &'a SampleArgs,
    plan: &'a SamplePlan,
    /// Channels, rows and columns of a latent.
    latent_shape: [usize; 3],
    identity: Identity,
    grid: Grid,
    /// Latents of the complete images, if they are saved.
    latents: Vec<f32>,
    /// Number of complete images, the first of the plan.
    images: usize,
}

impl<'a> OutputWriter<'a> {
    /// Creates a writer for the images of `plan`. Goes on with the images of a command that did not complete. Fails if a
    /// file to be written exists and is of another command, unless `--force` is given.
    /// No output replaces one of the files `inputs` that the command reads.
    pub fn new(
        args: &'a SampleArgs,
        plan: &'a SamplePlan,
        latent_shape: [usize; 3],
        inputs: &[&Path],
    ) -> Result<Self> {
        check_kinds(args, plan)?;
        let grid = Grid::new(plan.images.len(), plan.seeds_per_class);
        let identity = Identity::new(args, plan, inputs)?;
        let mut writer = Self { args, plan, latent_shape, identity, grid, latents: Vec::new(), images: 0 };
        writer.check_no_special_files()?;
        writer.check_distinct_files(inputs)?;
        if !args.force {
            writer.check_existing_files()?;
            writer.load_complete_images()?;
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

    /// Checks that no picture would replace a device or a pipe.
    fn check_no_special_files(&self) -> Result<()> {
        let is_special =
            |path: &PathBuf| metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
        match self.image_paths().find(is_special) {
            Some(path) => Err(not_regular(&path.display().to_string())),
            None => Ok(()),
        }
    }

    /// Checks that the outputs are distinct, and that none of them is an input.
    fn check_distinct_files(&self, inputs: &[&Path]) -> Result<()> {
        let inputs: BTreeSet<_> = inputs.iter().filter_map(|path| path.canonicalize().ok()).collect();
        let is_input = |path: &Path| path.canonicalize().is_ok_and(|path| inputs.contains(&path));
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let latents = self.args.latents.as_deref().map(absolute);
        for path in self.image_paths().map(|path| absolute(&path)) {
            if is_input(&path) {
                return Err(
                    format!("{}: an input of this command; choose another --out", path.display()).into()
                );
            }
            if latents.as_ref() == Some(&path) {
                let message = format!("--latents {}: the name of an image of this command", path.display());
                return Err((message + "; choose another name").into());
            }
        }
        match latents.filter(|path| is_input(path)) {
            Some(path) => {
                Err(format!("--latents {}: an input of this command; choose another name", path.display())
                    .into())
            }
            None => Ok(()),
        }
    }

    /// Checks that the existing files come from an earlier run of this command, and that something is left to do.
    fn check_existing_files(&self) -> Result<()> {
        // A link to a missing file exists.
        let replaces = |path: &Path, is_own: bool| match path.symlink_metadata().is_ok() && !is_own {
            true => Err(format!("{}: already exists; add --force to replace it", path.display())),
            false => Ok(()),
        };
        if self.plan.preview.is_some() {
            for (index, &image) in self.plan.images.iter().enumerate() {
                let path = self.image_path(index);
                replaces(&path, is_generation(&path, &self.identity.image(image), None))?;
            }
            let path = self.grid_path();
            replaces(&path, is_generation(&path, &self.identity.command, None))?;
        }
        if let Some(path) = &self.args.latents {
            replaces(path, self.identity.saved_latents(path).is_some())?;
        }
        Ok(())
    }

    /// Loads what the grid and the latents need of the images that an earlier run completed.
    fn load_complete_images(&mut self) -> Result<()> {
        let mut complete = self.plan.images.len();
        if let Some(path) = &self.args.latents {
            let saved = self.identity.saved_latents(path);
            self.latents = saved.map_or_else(Vec::new, |latents| latents.to_f32());
            complete = complete.min(self.latents.len() / self.latent_len());
        }
        if let Some(preview) = self.plan.preview {
            let format = preview.format(self.latent_shape);
            let is_complete = |&index: &usize| {
                let identity = self.identity.image(self.plan.images[index]);
                is_generation(&self.image_path(index), &identity, Some(format))
            };
            complete = (0..complete).take_while(is_complete).count();
            for index in 0..complete {
                if self.grid.shows(index) {
                    self.grid.add(index, &Bitmap::read_png(&self.image_path(index), format)?)?;
                }
            }
        }
        self.latents.truncate(complete * self.latent_len());
        self.images = complete;
        Ok(())
    }

    fn latent_len(&self) -> usize {
        self.latent_shape.iter().product()
    }

    fn image_path(&self, index: usize) -> PathBuf {
        let (class, seed) = self.plan.images[index];
        self.args.out.join(format!("{}-{seed}.png", self.plan.file_stem(class)))
    }

    /// Paths of all pictures, the grid included.
    fn image_paths(&self) -> impl Iterator<Item = PathBuf> {
        let images = (0..self.plan.images.len()).map(|index| self.image_path(index));
        self.plan.preview.map(|_| images.chain([self.grid_path()])).into_iter().flatten()
    }

    fn grid_path(&self) -> PathBuf {
        self.args.out.join("grid.png")
    }

    /// Number of complete images, those of earlier runs included.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Number of complete images of all images, and where they are.
    pub fn summary(&self) -> String {
        let (complete, all) = (self.images, self.plan.images.len());
        let place = match (self.plan.preview, &self.args.latents) {
            _ if complete == 0 => return format!("{complete} of {all} images are complete"),
            (None, Some(latents)) => latents,
            _ => &self.args.out,
        };
        format!("{complete} of {all} images are complete, in {}", place.display())
    }

    /// Writes the images of the next batch, one by one.
    pub fn write_batch(&mut self, output: &Output) -> Result<()> {
        let bitmaps = self.plan.preview.map_or_else(|| Ok(Vec::new()), |preview| preview.render(output))?;
        let mut bitmaps = bitmaps.into_iter();
        let latents = output.latents.to_f32();
        for latent in latents.chunks_exact(self.latent_len()) {
            if let Some(bitmap) = bitmaps.next() {
                let identity = self.identity.image(self.plan.images[self.images]);
                bitmap.write_png(&self.image_path(self.images), Some(&identity))?;
                self.grid.add(self.images, &bitmap)?;
            }
            if self.args.latents.is_some() {
                let out_of_memory = |_| "out of memory for the latents; generate fewer images per command";
                self.latents.try_reserve(latent.len()).map_err(out_of_memory).map_err(String::from)?;
                self.latents.extend_from_slice(latent);
            }
            self.images += 1;
        }
        Ok(())
    }

    /// Writes the grid and the latents of the complete images. Returns the paths of all output.
    pub fn finish(&mut self) -> Result<String> {
        if self.images == 0 {
            return Ok(String::new());
        }
        let incomplete = self.images < self.plan.images.len();
        let command = incomplete.then(|| self.identity.command.clone());
        let directory = self.plan.preview.map(|_| self.args.out.as_path());
        let grid = directory.map_or(Ok(()), |_| self.grid.write_png(&self.grid_path(), command.as_deref()));
        // Also if the grid was not written: latents are needed to go on.
        let latents = self.args.latents.as_deref();
        latents.map_or(Ok(()), |path| self.write_latents(path, command))?;
        grid?;
        let paths = [directory, latents].into_iter().flatten().map(|path| path.display().to_string());
        Ok(paths.collect::<Vec<_>>().join(" and "))
    }

    fn write_latents(&mut self, path: &Path, incomplete: Option<String>) -> Result<()> {
        let [channels, rows, columns] = self.latent_shape;
        let values = std::mem::take(&mut self.latents);
        let latents = HostTensor::f32(&[self.images, channels, rows, columns], values)?;
        let (classes, seeds): (Vec<_>, Vec<_>) = self.plan.images[..self.images].iter().copied().unzip();
        let metadata = [("classes", Some(format!("{classes:?}"))), ("seeds", Some(format!("{seeds:?}")))];
        let metadata: BTreeMap<String, String> = metadata
            .into_iter()
            .chain([(INCOMPLETE, incomplete)])
            .filter_map(|(key, text)| Some((key.to_owned(), text?)))
            .collect();
        Ok(write_atomic(path, [("latents", &latents)], &metadata)?)
    }
}

fn not_regular(name: &str) -> Failure {
    Failure::Message(format!("{name}: expected a regular file, got a device or a pipe"))
}

/// Checks that `--out` can be a directory and `--latents` a file, before any time is spent on generation.
fn check_kinds(args: &SampleArgs, plan: &SamplePlan) -> Result<()> {
    let out = args.out.display();
    if plan.preview.is_some() && args.latents.as_ref() == Some(&args.out) {
        return Err(format!("--latents {out}: the directory of the images; choose another name").into());
    }
    if plan.preview.is_some() && metadata(&args.out).is_ok_and(|found| !found.is_dir()) {
        return Err(format!("--out {out}: expected a directory, got a file").into());
    }
    let Some(path) = &args.latents else { return Ok(()) };
    let found = metadata(path).ok();
    let is_directory = found.as_ref().is_some_and(std::fs::Metadata::is_dir);
    if is_directory || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        let (given, file) = (path.display(), path.join("latents.safetensors"));
        let message = format!("--latents {given}: expected a file, got a directory; add a name, as in");
        return Err(format!("{message} {}", file.display()).into());
    }
    match found {
        Some(found) if !found.is_file() => Err(not_regular(&format!("--latents {}", path.display()))),
        _ => Ok(()),
    }
}
