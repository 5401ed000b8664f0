//! Folders of pictures as a dataset: class folders, decoding, resampling, crops.
//!
//! Pixels are those of Pillow's `convert("RGB")` or `convert("L")`, resampling is Pillow's, and folders are read as
//! torchvision's `ImageFolder` reads them, so that a recipe for PyTorch sees the same pictures here.

/// Compiles a function also for instruction sets that have more and wider vectors than the target.
macro_rules! simd {
    ($($function:tt)*) => {
        #[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
        $($function)*
    };
}

mod crop;
mod dataset;
mod decode;
mod files;
mod folder;
mod options;
mod picture;
mod resample;

pub use crop::{adm_crop, pad, random_crop};
pub use dataset::{BrokenPicture, PictureDataset};
pub use decode::{Limits, decode};
pub use files::PictureFiles;
pub(crate) use folder::FileKind;
pub use folder::ImageFolder;
pub use options::{Crop, Fit, OnBroken, PictureOptions};
pub use picture::Picture;
pub use resample::{Area, Filter, Resampler};
