//! Directory of the evaluation of a model: its settings, its images, and what was measured of them, in shards, and of the
//! reference.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use transdiff::checkpoint::{WeightFile, sha256_of, write_atomic, write_bytes_atomic};
use transdiff::datasets::DirectoryLock;
use transdiff::metrics::{Rows, Statistics};
use transdiff::models::Diversity;
use transdiff::models::inception::Inception;
use transdiff::{Cpu, Error, HostData, HostTensor};

use super::machine::Machine;
use super::preset::{Measured, Reference};
use super::settings::{Generated, MANIFEST_FILE, Settings};
use crate::differences::differences;
use crate::failure::Result;

/// Names of the files with the settings, and with the features of the reference's pictures.
const SETTINGS_FILE: &str = "evaluation.json";
const REFERENCE_FILE: &str = "reference.safetensors";
/// Folder of the images.
const IMAGES: &str = "images";
/// Metadata keys: the fingerprint of settings and file name, the time that the images of a shard took, the machine, and the
/// checksum of all values.
const FINGERPRINT: &str = "transdiff.evaluation";
const TIMED: &str = "timed";
const MACHINE: &str = "machine";
const CHECKSUM: &str = "sha256";
/// Tensors of the reference; shards have features, too.
const MEAN: &str = "mean";
const COVARIANCE: &str = "covariance";
const FEATURES: &str = "features";

/// Results of the images of a shard.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    /// [n, 2048].
    pub features: Vec<f32>,
    /// [n, 1008].
    pub logits: Vec<f32>,
    pub diversity: Vec<Diversity>,
    pub timed: Timed,
}

/// Time that generating and decoding took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Timed {
    pub seconds: f64,
    /// Number of images that it took so long.
    pub images: usize,
}

/// Results of all images.
pub struct Results {
    pub measured: Measured,
    pub diversity: Vec<Diversity>,
    /// Time of each shard.
    pub timed: Vec<Timed>,
    /// The different machines.
    pub machines: Vec<Machine>,
}

/// The directory.
pub struct Directory {
    path: PathBuf,
    pub settings: Settings<Generated>,
    /// SHA-256 of the settings' text.
    fingerprint: String,
}

impl Directory {
    /// Finds the directory of `settings`, if it was begun.
    pub fn find(path: &Path, settings: &Settings<Generated>) -> Result<Option<Self>> {
        if !path.join(SETTINGS_FILE).exists() {
            return Ok(None);
        }
        let found = Self::read(path)?;
        match differences(settings, &found.settings).first() {
            None => Ok(Some(found)),
            Some(first) => {
                let name = path.display();
                let message =
                    format!("--out {name}: of another evaluation: {first}; choose another directory");
                Err(message.into())
            }
        }
    }

    /// Begins the directory of `settings`, or finds it if another process has begun it in the meantime.
    pub fn begin(path: &Path, settings: Settings<Generated>) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        for taken in [path.join(IMAGES), path.join(MANIFEST_FILE)] {
            if taken.exists() && !path.join(SETTINGS_FILE).exists() {
                let (name, taken) = (path.display(), taken.display());
                return Err(format!("--out {name}: {taken} already exists; choose another directory").into());
            }
        }
        let name = format!(".{SETTINGS_FILE}-{}", std::process::id());
        let (whole, linked) = (path.join(name), path.join(SETTINGS_FILE));
        write_bytes_atomic(&whole, encoded(&settings).as_bytes())?;
        // Only one process gives it its name.
        let taken = fs::hard_link(&whole, &linked);
        fs::remove_file(&whole).map_err(Error::io(&whole))?;
        if taken.is_err() && !linked.exists() {
            // Some file systems have no links.
            write_bytes_atomic(&linked, encoded(&settings).as_bytes())?;
        }
        Self::find(path, &settings)?
            .ok_or_else(|| format!("{}: removed while it was written", linked.display()).into())
    }

    /// Reads the directory of an evaluation.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.join(SETTINGS_FILE);
        let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
        let settings: Settings<Generated> = serde_json::from_str(&text)
            .map_err(|error| Error::format(&file, format!("no settings of an evaluation: {error}")))?;
        settings.images.check().map_err(|error| Error::format(&file, error.to_string()))?;
        Ok(Self::new(path, settings))
    }

    fn new(path: &Path, settings: Settings<Generated>) -> Self {
        let fingerprint = sha256_of(encoded(&settings).as_bytes());
        Self { path: path.to_owned(), settings, fingerprint }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks the directory together with the other processes that fill it, and removes what killed ones have left.
    pub fn lock(&self) -> transdiff::Result<DirectoryLock> {
        DirectoryLock::acquire(&self.path, &[IMAGES])
    }

    /// Creates the folder of the images.
    pub fn create_images(&self) -> transdiff::Result<()> {
        let folder = self.path.join(IMAGES);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))
    }

    /// Path of the picture of an image.
    pub fn image_path(&self, image: usize) -> PathBuf {
        self.path.join(IMAGES).join(format!("{image:06}.png"))
    }

    fn shard_path(&self, shard: usize) -> PathBuf {
        self.path.join(format!("shard-{shard:05}.safetensors"))
    }

    /// Returns whether the shard was finished, with its pictures if they are to be kept.
    pub fn is_finished(&self, shard: usize, keep: bool) -> bool {
        let mut images = self.settings.images.shard(shard);
        self.read_shard(shard).is_ok() && (!keep || images.all(|image| self.image_path(image).is_file()))
    }

    pub fn write_shard(&self, number: usize, shard: &Shard, machine: &Machine) -> transdiff::Result<()> {
        let images = shard.diversity.len();
        let diversity =
            shard.diversity.iter().flat_map(|d| [d.root_mean_square as f32, d.mean as f32]).collect();
        let tensors = [
            (FEATURES, HostTensor::f32(&[images, Inception::<Cpu>::FEATURES], shard.features.clone())?),
            ("logits", HostTensor::f32(&[images, Inception::<Cpu>::CLASSES], shard.logits.clone())?),
            ("diversity", HostTensor::f32(&[images, 2], diversity)?),
        ];
        let metadata = [(TIMED.to_owned(), json(&shard.timed)), (MACHINE.to_owned(), json(machine))];
        self.write(&self.shard_path(number), &tensors, metadata)
    }

    fn read_shard(&self, number: usize) -> transdiff::Result<(Shard, Machine)> {
        let file = self.open(&self.shard_path(number))?;
        let images = self.settings.images.shard(number).len();
        let values = |name: &str, columns: usize| Ok(of_shape(&file, name, &[images, columns])?.to_f32());
        let diversity = values("diversity", 2)?;
        let shard = Shard {
            features: values(FEATURES, Inception::<Cpu>::FEATURES)?,
            logits: values("logits", Inception::<Cpu>::CLASSES)?,
            diversity: diversity
                .chunks_exact(2)
                .map(|d| Diversity { root_mean_square: d[0].into(), mean: d[1].into() })
                .collect(),
            timed: metadata(&file, TIMED)?,
        };
        Ok((shard, metadata(&file, MACHINE)?))
    }

    /// Writes tensors with what ties them to the evaluation, to their name and to one another.
    fn write(
        &self,
        path: &Path,
        tensors: &[(&str, HostTensor)],
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> transdiff::Result<()> {
        let checksum = checksum(tensors.iter().map(|(name, tensor)| (*name, tensor)));
        let ties = [(FINGERPRINT.to_owned(), self.fingerprint_of(path)), (CHECKSUM.to_owned(), checksum)];
        let metadata: BTreeMap<_, _> = metadata.into_iter().chain(ties).collect();
        write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
    }

    fn open(&self, path: &Path) -> transdiff::Result<WeightFile> {
        let file = WeightFile::open(path)?;
        let stated = |key: &str| file.metadata().get(key).cloned().unwrap_or_default();
        if stated(FINGERPRINT) != self.fingerprint_of(path) {
            let message = "of another evaluation than its directory's evaluation.json, or of another name";
            return Err(Error::format(path, message));
        }
        let names = file.entries().keys().map(String::as_str);
        let tensors = names.map(|name| Ok((name, file.tensor(name)?)));
        let tensors = tensors.collect::<transdiff::Result<Vec<_>>>()?;
        match checksum(tensors.iter().map(|(name, tensor)| (*name, tensor))) == stated(CHECKSUM) {
            true => Ok(file),
            false => Err(Error::format(path, "damaged: remove it, and run the same command again")),
        }
    }

    fn fingerprint_of(&self, path: &Path) -> String {
        format!("{} {}", self.fingerprint, path.file_name().unwrap_or_default().display())
    }

    /// Keeps what was measured of the reference.
    pub fn write_reference(&self, reference: &Reference) -> transdiff::Result<()> {
        let Reference { statistics, features } = reference;
        let dim = statistics.dim();
        let f64s = |shape: &[usize], values: &[f64]| HostTensor::new(shape, HostData::F64(values.to_vec()));
        let mut tensors = vec![
            (MEAN, f64s(&[dim], statistics.mean())?),
            (COVARIANCE, f64s(&[dim, dim], statistics.covariance())?),
        ];
        if let Some(features) = features {
            let shape = [features.len(), features.columns()];
            tensors.push((FEATURES, HostTensor::f32(&shape, features.values().to_vec())?));
        }
        self.write(&self.path.join(REFERENCE_FILE), &tensors, [])
    }

    /// The reference, if it was kept and is whole.
    pub fn read_reference(&self) -> transdiff::Result<Option<Reference>> {
        let Ok(file) = self.open(&self.path.join(REFERENCE_FILE)) else { return Ok(None) };
        let columns = Inception::<Cpu>::FEATURES;
        let mean = of_shape(&file, MEAN, &[columns])?.to_f64();
        let covariance = of_shape(&file, COVARIANCE, &[columns, columns])?.to_f64();
        let has_features = file.entries().contains_key(FEATURES);
        let features =
            has_features.then(|| Rows::new(columns, file.tensor(FEATURES)?.to_f32())).transpose()?;
        Ok(Some(Reference { statistics: Statistics::new(mean, covariance)?, features }))
    }

    /// Results of all images. All shards must be finished.
    pub fn results(&self) -> Result<Results> {
        let missing: Vec<usize> =
            (0..self.settings.images.shards()).filter(|&shard| !self.shard_path(shard).exists()).collect();
        if let Some(first) = missing.first() {
            let (name, count, all) = (self.path.display(), missing.len(), self.settings.images.shards());
            return Err(format!(
                "{name}: {count} of {all} shards are missing, the first number {first}: run the parts that have not finished"
            )
            .into());
        }
        let (mut features, mut logits, mut diversity) = (Vec::new(), Vec::new(), Vec::new());
        let (mut timed, mut machines) = (Vec::new(), Vec::new());
        for number in 0..self.settings.images.shards() {
            let (shard, machine) = self.read_shard(number)?;
            features.extend(shard.features);
            logits.extend(shard.logits);
            diversity.extend(shard.diversity);
            timed.push(shard.timed);
            if !machines.contains(&machine) {
                machines.push(machine);
            }
        }
        let measured = Measured {
            features: Rows::new(Inception::<Cpu>::FEATURES, features)?,
            logits: Rows::new(Inception::<Cpu>::CLASSES, logits)?,
        };
        Ok(Results { measured, diversity, timed, machines })
    }
}

/// The value `key` of a file's metadata.
fn metadata<T: DeserializeOwned>(file: &WeightFile, key: &str) -> transdiff::Result<T> {
    let text = file.metadata().get(key).map_or("", String::as_str);
    serde_json::from_str(text).map_err(|error| Error::format(file.path(), format!("metadata {key}: {error}")))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

/// The tensor `name`, which has this shape.
fn of_shape(file: &WeightFile, name: &str, shape: &[usize]) -> transdiff::Result<HostTensor> {
    let tensor = file.tensor(name)?;
    if tensor.shape() == shape {
        return Ok(tensor);
    }
    let (path, expected) = (file.path().to_owned(), format!("shape {shape:?}"));
    Err(Error::Tensor { path, tensor: name.to_owned(), expected, got: format!("{:?}", tensor.shape()) })
}

/// SHA-256 of the values of tensors, in the order of their names.
fn checksum<'a>(tensors: impl Iterator<Item = (&'a str, &'a HostTensor)>) -> String {
    // In pieces, so that no copy of a large tensor is in memory.
    let piece =
        |values: &[f64]| sha256_of(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    let all =
        tensors.map(|(name, tensor)| (name, tensor.to_f64().chunks(1 << 20).map(piece).collect::<String>()));
    sha256_of(format!("{:?}", all.collect::<BTreeMap<_, _>>()).as_bytes())
}

fn encoded(settings: &Settings<Generated>) -> String {
    serde_json::to_string_pretty(settings).expect("plain data") + "\n"
}
