//! Resampling as in Pillow, by `fast_image_resize`.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{InnerPixel, U8, U8x3};
use fast_image_resize::{FilterType, ImageView, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use super::Picture;

/// Resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Mean of the covered pixels: Pillow's `BOX`.
    Box,
    /// Cubic convolution with a = -0.5: Pillow's `BICUBIC`.
    Bicubic,
}

/// Rectangle of pixels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl Area {
    /// The whole of `picture`.
    pub fn whole(picture: &Picture) -> Self {
        Self { x: 0, y: 0, width: picture.width(), height: picture.height() }
    }
}

/// Resampling, with the buffers that it reuses.
#[derive(Debug, Default)]
pub struct Resampler {
    resizer: Resizer,
    middle: Vec<u8>,
}

impl Resampler {
    /// Crops `picture` to `area` and resizes the result to `width`×`height` pixels. Pixels outside the area have no
    /// influence.
    ///
    /// # Panics
    /// If `area` is not within the picture, or a side is 0.
    pub fn resize(
        &mut self,
        picture: &Picture,
        area: Area,
        [width, height]: [usize; 2],
        filter: Filter,
    ) -> Picture {
        let mut pixels = vec![0; width * height * picture.channels()];
        match picture.channels() {
            1 => self.passes::<U8>(picture, area, [width, height], filter, &mut pixels),
            _ => self.passes::<U8x3>(picture, area, [width, height], filter, &mut pixels),
        }
        Picture::new(width, height, picture.channels(), pixels)
    }

    /// Pillow resizes rows first, and rounds to 8 bits before it resizes columns: one call per axis does the same.
    fn passes<P: PixelTrait + InnerPixel>(
        &mut self,
        picture: &Picture,
        area: Area,
        [width, height]: [usize; 2],
        filter: Filter,
        pixels: &mut [u8],
    ) {
        let source = view::<P>(picture.width(), picture.height(), picture.pixels());
        let [x, y, columns, rows] = [area.x, area.y, area.width, area.height].map(side);
        let source = TypedCroppedImage::new(source, x, y, columns, rows).expect("an area within the picture");
        self.middle.resize(width * area.height * picture.channels(), 0);
        let middle = &mut self.middle[..];
        pass(&mut self.resizer, &source, [width, area.height], filter, middle);
        pass(&mut self.resizer, &view::<P>(width, area.height, middle), [width, height], filter, pixels);
    }
}

/// Resizes `source` along one axis.
fn pass<P: PixelTrait + InnerPixel>(
    resizer: &mut Resizer,
    source: &impl ImageView<Pixel = P>,
    [width, height]: [usize; 2],
    filter: Filter,
    pixels: &mut [u8],
) {
    let filter = match filter {
        Filter::Box => FilterType::Box,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut target =
        TypedImage::<P>::from_buffer(side(width), side(height), pixels).expect("a buffer of this size");
    resizer.resize_typed(source, &mut target, &options).expect("a crop of the whole source");
}

fn view<P: InnerPixel>(width: usize, height: usize, pixels: &[u8]) -> TypedImageRef<'_, P> {
    TypedImageRef::from_buffer(side(width), side(height), pixels).expect("a buffer of this size")
}

fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).expect("a side below 2³² pixels")
}
