//! Training data: a folder of pictures or a latent cache, its held-out part, and the facts that settings follow from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use transdiff::Error;
use transdiff::data::{Dataset, Groups, Subset};
use transdiff::datasets::cache::{self, CachedDataset, Expected};
use transdiff::datasets::mrar_index::{GROUP, MrarIndex};
use transdiff::datasets::pictures::{self, Crop, ImageFolder, PictureDataset, PictureOptions};
use transdiff::models::{CodecFile, CodecRecord, CodecSource, ImageSpec};
use transdiff_run::DataFacts;
use transdiff_run::settings::{self, DataSettings, RunConfig, Validation};

use crate::failure::{Failure, Result};
use crate::output::print_to_stderr;

/// Data of a run.
pub struct TrainingData {
    /// Samples to train on.
    pub set: Arc<dyn Dataset>,
    /// Held-out samples.
    pub held_out: Option<Arc<dyn Dataset>>,
    /// Groups of the MRAR index.
    pub groups: Option<Groups>,
    /// Facts that settings follow from.
    pub facts: DataFacts,
    /// Images that the model makes.
    pub images: ImageSpec,
    /// Codec between images and latents; none if only its latents are there.
    pub codec: Option<CodecFile>,
    /// Items are images, which the codec encodes; otherwise latents.
    pub are_images: bool,
    /// Pictures of the training set, which count broken ones.
    pub pictures: Option<Arc<PictureDataset>>,
}

impl TrainingData {
    /// Opens the data of `config`, whose codec may also lie in the directory `run`.
    pub fn open(config: &RunConfig, run: Option<&Path>) -> Result<Self> {
        let path = Path::new(required("--data", config.data.path.as_deref())?);
        match is_cache(path) {
            true => Self::cache(path, config, run),
            false => Self::pictures(path, config, run),
        }
    }

    /// Number of samples per epoch.
    pub fn samples_per_epoch(&self) -> u64 {
        self.groups.as_ref().map_or(self.set.len(), Groups::len) as u64
    }

    fn cache(path: &Path, config: &RunConfig, run: Option<&Path>) -> Result<Self> {
        let settings = &config.data;
        let fit = settings.fit.map(fit_of_pictures);
        let expected =
            Expected { size: settings.size, channels: settings.channels, fit, ..Expected::default() };
        let cache = CachedDataset::open(path, &expected)?;
        let spec = cache.header().spec.clone();
        let codec = codec_of_cache(path, &spec.images, settings, run)?;
        let flip = settings.flip.unwrap_or(spec.flip);
        if flip && !spec.flip {
            return Err(format!(
                "data.flip: {} has no mirror images; make it without --no-flip",
                path.display()
            )
            .into());
        }
        let skipped = cache.skipped()?.len();
        if skipped > 0 {
            print_to_stderr(&format!("{}: {skipped} broken pictures were left out", path.display()));
        }
        let index = settings.mrar_index.as_deref().map(|index| read_index(index, &cache)).transpose()?;
        let set: Arc<dyn Dataset> = Arc::new(cache.with_flip(flip));
        let facts = DataFacts {
            pictures: set.len() as u64,
            classes: classes_of(&spec.images, &*set),
            latent: spec.shape,
            codec: settings.codec.clone().unwrap_or_else(|| codec_name(&spec.images.codec, path)),
            size: spec.images.size,
            channels: spec.images.channels,
            fit: fit_of_settings(spec.fit),
            flip,
        };
        let held_out = |path: &Path| -> Result<Arc<dyn Dataset>> {
            let record = Some(&spec.images.codec);
            let expected = Expected { codec: record, size: Some(spec.images.size), ..Expected::default() };
            let held_out = CachedDataset::open(path, &expected)?;
            if held_out.header().spec.images.classes != spec.images.classes {
                return Err(format!("data.val: {} has other classes", path.display()).into());
            }
            Ok(Arc::new(held_out.with_flip(false)))
        };
        let (set, held_out, groups) = divide(set, index, &settings.val, held_out)?;
        let images = spec.images;
        Ok(Self { set, held_out, groups, facts, images, codec, are_images: false, pictures: None })
    }

    fn pictures(path: &Path, config: &RunConfig, run: Option<&Path>) -> Result<Self> {
        let settings = &config.data;
        if settings.mrar_index.is_some() {
            let message = "data.mrar_index: expected a latent cache as --data, got a folder of pictures";
            return Err(message.to_owned().into());
        }
        let folder = ImageFolder::open(path)?;
        let size = required("--size", settings.size)?;
        let channels = settings.channels.unwrap_or(3);
        let text = required("--codec", settings.codec.as_deref())?;
        let codec = open_codec(text, channels, run)?;
        let info = codec.info()?;
        if !size.is_multiple_of(info.downsampling) {
            let factor = info.downsampling;
            return Err(format!(
                "--size: expected a multiple of {factor}, which the codec requires, got {size}"
            )
            .into());
        }
        let classes = folder.classes().to_vec();
        let fit = settings.fit.map_or(pictures::Fit::Crop, fit_of_pictures);
        let flip = settings.flip.unwrap_or(true);
        let options = PictureOptions {
            channels,
            fit,
            flip,
            on_broken: match settings.on_broken {
                settings::OnBroken::Stop => pictures::OnBroken::Stop,
                settings::OnBroken::Skip => pictures::OnBroken::Skip,
            },
            ..PictureOptions::new(size)
        };
        let side = size / info.downsampling;
        let facts = DataFacts {
            pictures: folder.len() as u64,
            classes: classes.len(),
            latent: [info.code_channels, side, side],
            codec: text.to_owned(),
            size,
            channels,
            fit: fit_of_settings(fit),
            flip,
        };
        let held_out = |path: &Path| -> Result<Arc<dyn Dataset>> {
            let folder = ImageFolder::open(path)?.with_classes(&classes)?;
            let options = PictureOptions { crop: Crop::Adm, flip: false, ..options.clone() };
            Ok(Arc::new(PictureDataset::new(folder, options)?))
        };
        let pictures = Arc::new(PictureDataset::new(folder, options.clone())?);
        let (set, held_out, groups) = divide(pictures.clone(), None, &settings.val, held_out)?;
        let images = ImageSpec { codec: codec.record()?, channels, size, classes: classes.clone() };
        let (codec, pictures) = (Some(codec), Some(pictures));
        Ok(Self { set, held_out, groups, facts, images, codec, are_images: true, pictures })
    }
}

/// Returns whether `path` is the directory of a latent cache.
fn is_cache(path: &Path) -> bool {
    path.join(cache::HEADER_FILE).is_file()
}

type Divided = (Arc<dyn Dataset>, Option<Arc<dyn Dataset>>, Option<Groups>);

/// Divides the data into a part to train on and a held-out part, and takes the groups of the part to train on.
fn divide(
    set: Arc<dyn Dataset>,
    index: Option<MrarIndex>,
    val: &Validation,
    open: impl FnOnce(&Path) -> Result<Arc<dyn Dataset>>,
) -> Result<Divided> {
    let groups =
        |place: &dyn Fn(u32) -> Option<u32>| index.as_ref().map(|index| groups(index, place)).transpose();
    match val {
        Validation::Share(0.0) => {
            let groups = groups(&Some)?;
            Ok((set, None, groups))
        }
        Validation::Share(share) => {
            let (kept, held_out) = Subset::hold_out(&set, *share).map_err(|error| match error {
                Error::Argument { expected, got, .. } => {
                    Failure::Message(format!("data.val: expected {expected}, got {got}"))
                }
                other => other.into(),
            })?;
            let groups = groups(&|item| kept.place_of(item))?;
            Ok((Arc::new(kept), Some(Arc::new(held_out)), groups))
        }
        Validation::Folder(path) => {
            let groups = groups(&Some)?;
            Ok((set, Some(open(Path::new(path))?), groups))
        }
    }
}

/// Groups of an index of which all items have a place in the part of the data that is trained on.
fn groups(index: &MrarIndex, place: &dyn Fn(u32) -> Option<u32>) -> Result<Groups> {
    let mut items = Vec::with_capacity(index.groups().len() * GROUP);
    for group in index.groups() {
        if let Some(places) = group.entries.iter().map(|&entry| place(entry)).collect::<Option<Vec<_>>>() {
            items.extend(places);
        }
    }
    Ok(Groups::new(items, GROUP)?)
}

/// Reads the MRAR index and says what of it cannot be used.
fn read_index(path: &str, cache: &CachedDataset) -> Result<MrarIndex> {
    let index = MrarIndex::read(path, cache)?;
    if index.unresolved() > 0 {
        let (count, names) = (index.unresolved(), index.unresolved_names().join(", "));
        print_to_stderr(&format!("{path}: {count} samples have pictures that are not in the cache: {names}"));
    }
    if index.repeating() > 0 {
        print_to_stderr(&format!("{path}: {} samples have a picture twice", index.repeating()));
    }
    for (class, pictures) in index.small_classes() {
        let name =
            cache.header().spec.images.classes.get(*class).cloned().unwrap_or_else(|| class.to_string());
        print_to_stderr(&format!("{path}: class {name} has {pictures} pictures, too few for a sample"));
    }
    if index.groups().is_empty() {
        return Err(format!("{path}: no sample whose pictures are in the cache").into());
    }
    Ok(index)
}

/// Codec of a cache: the given one, or the file that lies in the cache or in the run's directory. It must be the one that made
/// the cache.
fn codec_of_cache(
    cache: &Path,
    images: &ImageSpec,
    settings: &DataSettings,
    run: Option<&Path>,
) -> Result<Option<CodecFile>> {
    let codec = match (&settings.codec, &images.codec) {
        (Some(text), _) => open_codec(text, images.channels, run)?,
        (None, CodecRecord::Patch(patch)) => CodecSource::Patch(*patch).open(images.channels)?,
        (None, CodecRecord::File { name, .. }) => {
            let places = [run, Some(cache)].into_iter().flatten().map(|folder| folder.join(name));
            let Some(path) = places.into_iter().find(|path| path.is_file()) else {
                print_to_stderr(&format!(
                    "{}: its codec {name} is not there; add --codec to show samples as images",
                    cache.display()
                ));
                return Ok(None);
            };
            CodecSource::File(path).open(images.channels)?
        }
    };
    let same = match (&codec.record()?, &images.codec) {
        (CodecRecord::File { sha256: found, .. }, CodecRecord::File { sha256, .. }) => found == sha256,
        (found, recorded) => found == recorded,
    };
    match same {
        true => Ok(Some(codec)),
        false => {
            let (cache, made) = (cache.display(), codec_name(&images.codec, cache));
            let given = settings.codec.clone().unwrap_or_default();
            Err(format!("{cache}: made with another codec: expected {made}, got {given}").into())
        }
    }
}

/// Opens the codec `text`; the path of a file may have moved into the directory of the run.
fn open_codec(text: &str, channels: usize, run: Option<&Path>) -> Result<CodecFile> {
    let source: CodecSource = text.parse()?;
    if let (CodecSource::File(path), Some(run)) = (&source, run)
        && !path.exists()
        && let Some(name) = path.file_name()
        && run.join(name).is_file()
    {
        return Ok(CodecSource::File(run.join(name)).open(channels)?);
    }
    Ok(source.open(channels)?)
}

/// Codec of a cache, as settings name it.
fn codec_name(record: &CodecRecord, cache: &Path) -> String {
    match record {
        CodecRecord::Patch(patch) => format!("patch:{patch}"),
        CodecRecord::File { name, .. } => cache.join(name).display().to_string(),
    }
}

fn classes_of(images: &ImageSpec, set: &dyn Dataset) -> usize {
    match images.classes.len() {
        0 => (0..set.len()).map(|index| set.label(index) + 1).max().unwrap_or(0),
        named => named,
    }
}

fn required<T>(flag: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| format!("{flag}: required for a folder of pictures, got nothing").into())
}

fn fit_of_pictures(fit: settings::Fit) -> pictures::Fit {
    match fit {
        settings::Fit::Crop => pictures::Fit::Crop,
        settings::Fit::Pad => pictures::Fit::Pad,
    }
}

fn fit_of_settings(fit: pictures::Fit) -> settings::Fit {
    match fit {
        pictures::Fit::Crop => settings::Fit::Crop,
        pictures::Fit::Pad => settings::Fit::Pad,
    }
}

/// Copies the codec's file, if it has one, into the directory of a run or a cache, where the model's file or the cache's header
/// names it.
pub fn keep_codec(codec: &CodecFile, directory: &Path) -> Result<()> {
    let paths: Vec<PathBuf> = codec.paths().map(Path::to_owned).collect();
    for path in paths {
        let Some(name) = path.file_name() else { continue };
        let kept = directory.join(name);
        if !kept.exists() {
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            transdiff::checkpoint::write_bytes_atomic(&kept, &bytes)?;
        }
    }
    Ok(())
}

/// Checks that the directory `out` of a run or a cache is apart from the data, which would find its files, and holds nothing of
/// the kind that `other`, one of its files, shows.
pub fn check_apart(out: &Path, data: &Path, other: &str) -> Result<()> {
    let name = out.display();
    if out.join(other).exists() {
        return Err(format!("--out {name}: holds {other} of something else; choose another directory").into());
    }
    // Data that cannot be read is named where it is opened.
    let Ok(data) = ImageFolder::find_root(data) else { return Ok(()) };
    // What does not exist yet is where its parent is.
    let existing = out.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let (Ok(place), Ok(data)) = (existing.canonicalize(), data.canonicalize()) else { return Ok(()) };
    match place.starts_with(&data) {
        true => {
            Err(format!("--out {name}: expected a directory outside of the data {}", data.display()).into())
        }
        false => Ok(()),
    }
}
