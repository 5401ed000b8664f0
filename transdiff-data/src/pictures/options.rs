//! Options of a dataset of pictures, and their names in configurations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use transdiff_core::{Error, Result};

use super::Limits;

/// Declares an enum whose variants have names in configurations and flags.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident, $argument:literal { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// All names, in the order of the variants.
            pub const NAMES: &[&str] = &[$($name),*];

            /// Name in configurations and flags.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                match name {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(Error::argument($argument, Self::NAMES.join(" or "), name)),
                }
            }
        }
    };
}

named! {
    /// Way from a picture of any size to a square image.
    Fit, "fit" {
        /// The image is cut out of the picture.
        Crop = "crop",
        /// The whole picture, in the centre of a black square.
        Pad = "pad",
    }
}

named! {
    /// Place of a crop.
    Crop, "crop" {
        /// The square of the short side at a random place.
        Random = "random",
        /// The centre, as in ADM.
        Adm = "adm",
    }
}

named! {
    /// Reaction to a picture that cannot be decoded.
    OnBroken, "on-broken" {
        /// Reading it is an error.
        Stop = "stop",
        /// Another picture of the same class takes its place.
        Skip = "skip",
    }
}

/// Options of a dataset of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureOptions {
    /// Side of an image in pixels.
    pub size: usize,
    /// Channels of an image: 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Way from a picture to a square image.
    pub fit: Fit,
    /// Place of a crop; without meaning if `fit` is [`Fit::Pad`].
    pub crop: Crop,
    /// Mirrors images left to right with probability ½.
    pub flip: bool,
    /// Reaction to a broken picture.
    pub on_broken: OnBroken,
    /// Limits on the size of a picture.
    pub limits: Limits,
}

impl PictureOptions {
    /// Options of the published training for images of size×size pixels: RGB, random crops and flips.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            channels: 3,
            fit: Fit::Crop,
            crop: Crop::Random,
            flip: true,
            on_broken: OnBroken::Stop,
            limits: Limits::default(),
        }
    }

    /// Checks size and channels.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn validate(&self) -> Result<()> {
        if !(1..=16384).contains(&self.size) {
            return Err(Error::argument("size", "1 to 16384 pixels", self.size));
        }
        if !matches!(self.channels, 1 | 3) {
            return Err(Error::argument("channels", "1 or 3", self.channels));
        }
        Ok(())
    }
}
