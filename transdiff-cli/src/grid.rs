//! Grid of images.

use std::path::Path;

use crate::bitmap::{Bitmap, BitmapFormat};
use crate::failure::Result;

/// Pixels around and between images.
const GAP: usize = 4;
/// Maximum number of rows and of columns; further images are left out.
const MAX_CELLS_PER_SIDE: usize = 16;
/// Minimum width of an image in pixels. Smaller images are enlarged by repeating pixels, which keeps values exact.
const MIN_CELL_WIDTH: usize = 48;

/// One row per class and one column per seed. The images of a single class form a near-square grid.
pub struct Grid {
    rows: usize,
    columns: usize,
    seeds_per_class: usize,
    single_class: bool,
    /// Created when the first image is added.
    canvas: Option<Bitmap>,
}

impl Grid {
    /// Creates a grid for `images` images, `seeds_per_class` of each class.
    pub fn new(images: usize, seeds_per_class: usize) -> Self {
        let (single_class, classes) = (images == seeds_per_class, images / seeds_per_class.max(1));
        let shown = images.min(MAX_CELLS_PER_SIDE * MAX_CELLS_PER_SIDE);
        let square = (shown.isqrt() + usize::from(shown.isqrt().pow(2) < shown)).max(1);
        let (rows, columns) = if single_class {
            (shown.div_ceil(square), square)
        } else {
            (classes.min(MAX_CELLS_PER_SIDE), seeds_per_class.min(MAX_CELLS_PER_SIDE))
        };
        Self { rows, columns, seeds_per_class, single_class, canvas: None }
    }

    /// Row and column of an image; `None` if it is left out.
    fn cell(&self, index: usize) -> Option<(usize, usize)> {
        let stride = if self.single_class { self.columns } else { self.seeds_per_class };
        let (row, column) = (index / stride, index % stride);
        (row < self.rows && column < self.columns).then_some((row, column))
    }

    /// Returns whether the grid shows the image `index`.
    pub fn shows(&self, index: usize) -> bool {
        self.cell(index).is_some()
    }

    /// Adds the image `index`. All images have the same size.
    pub fn add(&mut self, index: usize, bitmap: &Bitmap) -> Result<()> {
        let Some((row, column)) = self.cell(index) else { return Ok(()) };
        let BitmapFormat { height, width, color } = bitmap.format;
        let zoom = MIN_CELL_WIDTH.div_ceil(width.max(1)).max(1);
        let (height, width) = (zoom * height + GAP, zoom * width + GAP);
        let canvas = match &mut self.canvas {
            Some(canvas) => canvas,
            empty => {
                let (height, width) = (self.rows * height + GAP, self.columns * width + GAP);
                empty.insert(Bitmap::white(BitmapFormat { height, width, color })?)
            }
        };
        canvas.paste(bitmap, zoom, GAP + row * height, GAP + column * width);
        Ok(())
    }

    /// Contents of a PNG file of the grid; none if no image was added.
    pub fn png(&self) -> Result<Option<Vec<u8>>> {
        self.canvas.as_ref().map(|canvas| canvas.png(None)).transpose()
    }

    /// Writes the grid to a PNG file, with the identity of its command if it lacks images of it; writes nothing if no
    /// image was added.
    pub fn write_png(&self, path: &Path, incomplete: Option<&str>) -> Result<()> {
        self.canvas.as_ref().map_or(Ok(()), |canvas| canvas.write_png(path, incomplete))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of rows and columns.
    fn size(images: usize, seeds: usize) -> (usize, usize) {
        let grid = Grid::new(images, seeds);
        (grid.rows, grid.columns)
    }

    fn cells<const N: usize>(images: usize, seeds: usize, of: [usize; N]) -> [Option<(usize, usize)>; N] {
        of.map(|index| Grid::new(images, seeds).cell(index))
    }

    #[test]
    fn images_fill_rows_in_order() {
        assert_eq!(
            [(1, 1), (5, 5), (6, 2), (3, 1)].map(|(n, s)| size(n, s)),
            [(1, 1), (2, 3), (3, 2), (3, 1)]
        );
        assert_eq!(cells(5, 5, [0, 1, 4]), [Some((0, 0)), Some((0, 1)), Some((1, 1))]);
        assert_eq!(cells(6, 2, [0, 1, 5]), [Some((0, 0)), Some((0, 1)), Some((2, 1))]);
        assert_eq!(cells(3, 1, [0, 1, 2]), [Some((0, 0)), Some((1, 0)), Some((2, 0))]);
    }

    #[test]
    fn images_beyond_the_maximum_are_left_out() {
        assert_eq!([(1000, 1000), (40, 20), (40, 2)].map(|(n, s)| size(n, s)), [(16, 16), (2, 16), (16, 2)]);
        assert_eq!(cells(1000, 1000, [255, 256]), [Some((15, 15)), None]);
        assert_eq!(cells(40, 20, [15, 16, 20]), [Some((0, 15)), None, Some((1, 0))]);
        assert_eq!(cells(40, 2, [31, 32]), [Some((15, 1)), None]);
    }
}
