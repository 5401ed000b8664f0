//! The set that images are compared with.

use std::path::Path;

use transdiff::data::Dataset;
use transdiff::datasets::npz::NpzFile;
use transdiff::datasets::pictures::PictureFiles;
use transdiff::metrics::Statistics;
use transdiff::models::inception::Inception;
use transdiff::{Backend, Cpu, Error};

use super::network::Network;
use super::preset::{Preset, Reference};
use crate::failure::Result;

/// Arrays of statistics in an npz file: mean and covariance.
pub const STATISTICS: [&str; 2] = ["mu", "sigma"];
/// Array of pictures in an npz file.
const PICTURES: &str = "arr_0";

/// Opened reference, checked before anything is measured.
pub enum Source<'a> {
    Folder(&'a Path),
    Npz { file: NpzFile, statistics: Option<Statistics>, pictures: bool },
}

impl<'a> Source<'a> {
    pub fn open(path: &'a Path, preset: Preset) -> Result<Self> {
        if path.is_dir() {
            Preset::check_count(path.display(), PictureFiles::open(path)?.len(), true)?;
            return Ok(Self::Folder(path));
        }
        let mut file = NpzFile::open(path)?;
        let keys: Vec<String> = file.keys().collect();
        let has = |key: &str| keys.iter().any(|known| known == key);
        let pictures = has(PICTURES);
        if pictures {
            let count = file.picture_count(PICTURES)?;
            Preset::check_count(format!("{}: {PICTURES}", path.display()), count, true)?;
        }
        let statistics = match STATISTICS.map(has) {
            [false, false] if pictures => None,
            // Without any of the arrays, the error names those that are missing.
            _ => Some(read_statistics(path, &mut file)?),
        };
        if preset.requires_pictures() && !pictures {
            let message = "precision and recall need the pictures of the reference, array arr_0: statistics alone are not enough \
                           for --preset adm; take --preset torch-fidelity, or the file with the pictures";
            return Err(format!("{}: {message}", path.display()).into());
        }
        Ok(Self::Npz { file, statistics, pictures })
    }

    /// Returns whether the pictures are there, and not only their statistics.
    pub fn has_pictures(&self) -> bool {
        !matches!(self, Self::Npz { pictures: false, .. })
    }

    /// Measures the pictures of the reference, if there are some. Statistics of its file come before those of its pictures.
    pub fn measure<B: Backend>(self, cpu: &Cpu, network: &Network<'_, B>) -> transdiff::Result<Reference> {
        let (features, statistics) = match self {
            Self::Folder(path) => (Some(network.folder(path)?.features), None),
            Self::Npz { mut file, statistics, pictures: true } => {
                (Some(network.array(&mut file, PICTURES)?.features), statistics)
            }
            Self::Npz { statistics, .. } => (None, statistics),
        };
        let statistics = match (statistics, &features) {
            (Some(statistics), _) => statistics,
            (None, Some(features)) => Statistics::of(cpu, features)?,
            (None, None) => unreachable!("a reference has statistics or pictures"),
        };
        Ok(Reference { statistics, features })
    }
}

fn read_statistics(path: &Path, file: &mut NpzFile) -> transdiff::Result<Statistics> {
    let [mean, covariance] = STATISTICS.map(|key| file.array::<f64>(key));
    let (mean, covariance) = (mean?, covariance?);
    let features = Inception::<Cpu>::FEATURES;
    for (key, shape, expected) in [
        (STATISTICS[0], &mean.shape, vec![features]),
        (STATISTICS[1], &covariance.shape, vec![features, features]),
    ] {
        if *shape != expected {
            let (expected, got) = (format!("shape {expected:?}"), format!("{shape:?}"));
            return Err(Error::Tensor { path: path.to_owned(), tensor: key.to_owned(), expected, got });
        }
    }
    Statistics::new(mean.values, covariance.values).map_err(|error| Error::format(path, error.to_string()))
}
